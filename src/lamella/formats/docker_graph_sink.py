"""A docker's image graph of 2013 as an endpoint to copy to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lamella.content.verified import VerifiedReader
from lamella.errors import AlreadyExists, Conflict, FailedPrecondition, LamellaError
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage
from lamella.formats.docker_graph.image import json_path
from lamella.formats.docker_graph.tags import validate_repository, validate_tag
from lamella.formats.scratch import Scratch
from lamella.formats.spool import Spool
from lamella.formats.v1_chain import Link, chain_of, check_layer, open_layer, open_tar
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference

_AUFS_BRANCHES = 42
"""What docker before 0.7.2 could stack."""


@dataclass(slots=True)
class _Plan:
    images: dict[str, Link] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)


class DockerGraphSink:
    """Puts images into the graph in (or at) ``path`` (an ImageSink), which is made where it is missing: as
    ``path/graph``, with its names beside it, as docker has it.

    An image becomes a chain of images of one layer each, as docker 0.4 to 1.0 knew them; what came from a graph, an
    archive or a registry of that time gets the ids, records and checksums back that it had there. The others get the
    ids and records that ``docker save`` of today's gives them. Images that are in the graph already, with the same
    record, stay as they are. Each image appears whole and durably, parents before children, names last; when something
    fails all that this sink added is taken out again.

    ``force`` moves names that other images have. ``finish`` raises Conflict (``graph-tag-exists``) otherwise,
    AlreadyExists (``graph-image-differs``) for an id under which the graph has another record or these images have two
    layers, Unsupported for what is no image of layers, Integrity for layers that are not the config's, and as Graph
    does.

    ``form`` is for a new graph; FailedPrecondition (``graph-form``) for one that has images in another form.
    """

    def __init__(
        self,
        path: Path,
        *,
        form: GraphForm | None = None,
        force: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        place = _place(path)
        _check_form(place, form)
        self._graph = Graph.open(place, form=form, limits=limits, progress=progress)
        self._force, self._limits, self._progress = force, limits, progress
        self._scratch: Scratch = self._graph.temporary()
        self._spool = Spool(self._scratch)
        self._written: set[Digest] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was taken already."""
        return descriptor.digest in self._written

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob; ``reader`` stays the caller's. Raises Integrity when the bytes are not the descriptor's."""
        verified = VerifiedReader(reader, descriptor.digest, descriptor.size)
        self._spool.store(verified, digest=descriptor.digest)
        self._written.add(descriptor.digest)

    def finish(self, offers: Iterable[Offer]) -> None:
        """Put the images and their names into the graph. Ends the sink, whatever comes of it."""
        try:
            plan = _Plan()
            for offer in offers:
                self._plan(offer, plan)
            self._check_tags(plan)
            self._carry_out(plan)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what was gathered; nothing happens the second time."""
        self._scratch.close()

    # -- planning

    def _plan(self, offer: Offer, plan: _Plan) -> None:
        chain = chain_of(self._spool, offer.descriptor, was_written=self._written.__contains__, limits=self._limits)
        for link in chain:
            self._add(plan, link)
        top = chain[-1].image.id
        if len(chain) > _AUFS_BRANCHES:
            self._progress.note(
                f"image {top[:12]} has {len(chain)} layers; docker before 0.7.2 mounts {_AUFS_BRANCHES}"
            )
        for name in offer.names:
            reference = Reference.parse(name).without_digest()
            key = (validate_repository(reference.familiar_repository), validate_tag(reference.tag))
            if plan.tags.setdefault(key, top) != top:
                raise Conflict("two images are to have this name", code="graph-tag-exists", subject=reference.familiar)

    def _add(self, plan: _Plan, link: Link) -> None:
        try:
            GraphImage.from_json(link.image.raw)  # what docker could not read is refused before anything is written
        except LamellaError as error:
            raise error.about(subject=f"image {link.image.id}") from None
        before = plan.images.get(link.image.id)
        there = None if before is not None else self._present(link.image.id)
        record = before.image.raw if before is not None else there.record.json if there is not None else None
        what = "record" if record not in (None, link.image.raw) else ""
        if before is not None and before.diff_id != link.diff_id:
            what = "layer"  # whoever publishes an image chooses its id: it vouches for nothing
        if what:
            raise AlreadyExists(
                f"there is another {what} under this id", code="graph-image-differs", subject=f"image {link.image.id}"
            )
        plan.images.setdefault(link.image.id, link)

    def _present(self, identity: str) -> GraphImage | None:
        """The image of an id that the graph has."""
        has_record = json_path(self._graph.root / identity).exists() and identity in self._graph.ids()
        return self._graph.get(identity) if has_record else None

    def _check_tags(self, plan: _Plan) -> None:
        there = self._graph.tags.repositories
        for (repository, tag), identity in plan.tags.items():
            found = there.get(repository, {}).get(tag)
            if found not in (None, identity) and not self._force:
                raise Conflict(
                    f"Conflict: Tag {tag} is already set to image {found}, if you want to replace it, please use -f "
                    "option",
                    code="graph-tag-exists",
                    subject=f"{repository}:{tag}",
                )

    # -- carrying out

    def _carry_out(self, plan: _Plan) -> None:
        added: list[str] = []
        named: list[tuple[str, str]] = []
        before = self._graph.tags.repositories
        try:
            for link in plan.images.values():  # as the chains go: parents first
                if self._register(link):
                    added.append(link.image.id)
            # Not of those that were there: what vouches for the layer that came says nothing of the one that stays.
            kept = {identity: plan.images[identity].checksum for identity in added if plan.images[identity].checksum}
            if kept:
                self._graph.update_checksums(kept)
            for (repository, tag), identity in plan.tags.items():
                named.append((repository, tag))  # before: a name can be there although giving it failed
                self._graph.tags.set(repository, tag, identity, force=self._force)
        except BaseException:
            for name in named:
                with suppress(LamellaError):
                    self._take_name_back(*name, plan.tags[name], before.get(name[0], {}).get(name[1]))
            for identity in reversed(added):
                with suppress(LamellaError):  # what others came to need stays
                    self._graph.delete(identity)
            raise

    def _register(self, link: Link) -> bool:
        """Add one image; False if it is there."""
        image = GraphImage.from_json(link.image.raw)
        if self._present(image.id) is not None:
            self._progress.note(f"Image {image.id} already exists")
            return False
        key = image.short_id
        self._progress.start(key, "registering")
        check_layer(self._spool, link, self._limits)
        # What docker committed it stored uncompressed; the checksum of today's images is over that, too.
        open_archive = open_layer if link.was_v1 else open_tar
        with closing(open_archive(self._spool, link, self._limits)) as reader:
            try:
                self._graph.register(image, reader, keep_archive=True)
            except LamellaError as error:
                if error.code == "graph-image-exists" and self._is_there(link):  # somebody else was faster
                    self._progress.done(key, "exists")
                    return False
                self._progress.done(key, "failed")
                raise
        self._progress.done(key)
        return True

    def _is_there(self, link: Link) -> bool:
        found = self._present(link.image.id)
        return found is not None and found.record.json == link.image.raw

    def _take_name_back(self, repository: str, tag: str, ours: str, before: str | None) -> None:
        """Give a name back to whom it was taken from, unless somebody has taken it since."""
        if self._graph.tags.repositories.get(repository, {}).get(tag) != ours:
            return
        if before is None:
            self._graph.tags.delete(repository, tag)
        else:
            self._graph.tags.set(repository, tag, before, force=True)


def _check_form(place: Path, form: GraphForm | None) -> None:
    """Refuse a graph whose images lie there in another form: docker would see either those or the new ones."""
    if form is None or not place.is_dir():
        return
    there = Graph.open(place, create=False)
    if there.layout.form is not form and there.ids():
        raise FailedPrecondition(
            f"it is a graph of the form {there.layout.form.value}, not {form.value}",
            code="graph-form",
            subject=str(there.root),
            hint="leave the form out to add to it, or write into another directory",
        )


def _place(path: Path) -> Path:
    """The directory to open as a graph: a new one gets the name that it has in docker's own directory."""
    if path.name == "graph" or (path / "graph").is_dir():
        return path
    graph = Graph.open(path, create=False) if path.is_dir() else None
    if graph is not None and graph.ids():
        return path
    return path / "graph"
