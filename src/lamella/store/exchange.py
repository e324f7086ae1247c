"""What a store exchanges with registries, and with any other place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.errors import InvalidInput
from lamella.images.graph import Graph
from lamella.images.image import Image
from lamella.spec.digest import Digest
from lamella.spec.limits import Limits
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference

if TYPE_CHECKING:
    from lamella.formats.docker_graph import GraphForm
    from lamella.registry.access import Access
    from lamella.registry.policy import Verify
    from lamella.spec.descriptor import Descriptor
    from lamella.spec.endpoint import Offer
    from lamella.transfer.load import Loaded


class Exchange(ABC):
    """The part of ``Store`` that speaks to the network, which is imported when it is first used."""

    graph: Graph
    content: LocalContent
    limits: Limits

    @abstractmethod
    def lease(self, purpose: str) -> Lease:
        """As Store.lease."""

    @abstractmethod
    def image(self, name: str, *, platform: Platform | None = None) -> Image:
        """As Store.image."""

    @abstractmethod
    def sync_layout(self) -> None:
        """As Store.sync_layout."""

    @abstractmethod
    def clean_up(self, lease: Lease, written: set[Digest]) -> None:
        """As Store.clean_up."""

    def pull(
        self,
        name: str,
        *,
        platform: Platform | None = None,
        all_platforms: bool = False,
        access: Access | None = None,
        verify: Verify | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Image:
        """Pull an image from its registry: of a multi-platform one that for ``platform`` (this machine's, if None).

        With ``all_platforms`` the index is kept whole, and its image for ``platform`` returned. ``verify`` (a
        ``Policy``, or any callable) may refuse the image before more than its manifest is fetched; ``access`` says
        how registries are reached, by default as the files of the user do. A pull that was cut off, cancelled or
        killed is gone on with by the next one. Nothing shows before all of it is here and verified.
        """
        loaded = self.fetch(
            name, platform=platform, all_platforms=all_platforms, access=access, verify=verify, progress=progress
        )
        return self.image(str(loaded.descriptor.digest), platform=platform)

    def fetch(
        self,
        name: str,
        *,
        platform: Platform | None = None,
        all_platforms: bool = False,
        access: Access | None = None,
        verify: Verify | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Loaded:
        """Pull what is perhaps no image for this machine, or none at all: as ``pull``, but it tells what came."""
        from lamella.registry.access import Access
        from lamella.transfer.remote import pull

        with self.lease(f"pull {name}") as lease:
            loaded = pull(
                self.graph,
                self.content,
                lease,
                name,
                access=access or Access.of_user(),
                platform=None if all_platforms else platform or Platform.host(),
                verify=verify,
                cleanup=lambda written: self.clean_up(lease, written),
                progress=progress,
            )
        self.sync_layout()
        return loaded

    def push(
        self,
        name: str,
        target: str | None = None,
        *,
        platform: Platform | None = None,
        access: Access | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Descriptor:
        """Push an image under its own name or as ``target``; what was pushed. Blobs that are there are not sent.

        An index is pushed whole, or with ``platform`` its one image that fits. Blobs that another repository of the
        registry is known to have are taken from there.
        """
        from lamella.registry.access import Access
        from lamella.transfer.remote import push

        reference = self._own_name(name) if target is None else Reference.parse(target)
        with self.lease(f"push {name}") as lease:
            document = self.graph.find_document(name)
            lease.hold(document.digest)
            return push(
                self.graph, document, reference, access=access or Access.of_user(), platform=platform, progress=progress
            )

    def _own_name(self, name: str) -> Reference:
        """The name that an image is to be pushed under if no other is given. Raises InvalidInput for an id."""
        with suppress(InvalidInput):
            reference = Reference.parse(name)
            if self.graph.catalog.name(str(reference)) is not None:
                return reference
        self.graph.find_document(name)
        raise InvalidInput("this is no name to push to", code="push-target", subject=name, hint="say where to push it")

    def copy(
        self,
        source: str,
        target: str,
        *,
        platform: Platform | None = None,
        access: Access | None = None,
        target_access: Access | None = None,
        verify: Verify | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> list[Offer]:
        """Copy images between any two places, as ``transfer.endpoints.Place`` reads them; what arrived.

        A plain name is in this store: ``copy("docker://alpine", "oci:dir:alpine")`` does not touch it.
        ``target_access`` is how the target is reached, if that is another way.
        """
        from lamella.registry.access import Access
        from lamella.transfer.endpoints import Inside, Journey, Place, copy_between

        access = access or Access.of_user()
        with self.lease(f"copy {source}") as lease:
            inside = Inside(self.graph, self.content, lease, lambda written: self.clean_up(lease, written))
            journey = Journey(lease.directory, access, target_access or access, inside, verify, self.limits, progress)
            arrived = copy_between(Place.parse(source), Place.parse(target), journey, platform=platform)
        self.sync_layout()
        return arrived

    # -- docker's image graph of 2013

    def import_graph(
        self,
        path: Path | str,
        names: Sequence[str] = (),
        *,
        skip_damaged: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> list[Loaded]:
        """Bring Docker's image directory of 2013 into the store, all of it or ``names`` with their ancestors.

        See ``store.docker_graph.import_graph``.
        """
        from lamella.store.docker_graph import import_graph

        return import_graph(self, Path(path), names, skip_damaged=skip_damaged, progress=progress)

    def export_graph(
        self,
        names: Sequence[str],
        path: Path | str,
        *,
        form: GraphForm | None = None,
        force: bool = False,
        platform: Platform | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Write images into an image directory that Docker 0.4 to 1.0 reads.

        See ``store.docker_graph.export_graph``.
        """
        from lamella.store.docker_graph import export_graph

        export_graph(self, names, Path(path), form=form, force=force, platform=platform, progress=progress)
