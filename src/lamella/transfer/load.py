"""Loading: from any endpoint into the store, under the names that it gives or the one that the caller gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.errors import InvalidInput, NotFound, one_line
from lamella.images.graph import Graph
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import ImageSource, Offer
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.transfer.copy import copy_images
from lamella.transfer.store_sink import StoreSink


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image or index that was loaded: the document, its kind, the id if it is an image, and the names it got."""

    descriptor: Descriptor
    kind: str
    id: Digest | None
    names: tuple[str, ...]


def load(
    graph: Graph,
    content: LocalContent,
    lease: Lease,
    source: ImageSource,
    *,
    name: str | None = None,
    offers: Sequence[Offer] | None = None,
    platform: Platform | None = None,
    cleanup: Callable[[set[Digest]], None],
    progress: Progress = NO_PROGRESS,
) -> list[Loaded]:
    """Copy all that ``source`` offers, or these ``offers`` of it, into the store.

    Raises InvalidInput for one ``name`` and several images.
    """
    offers = list(source.offers() if offers is None else offers)
    if not offers:
        raise NotFound("there is no image in it", code="archive-empty")
    if name is not None:
        offers = _renamed(offers, Reference.parse(name))
    sink = StoreSink(graph, content, lease, cleanup=cleanup, progress=progress)
    copied = copy_images(source, sink, offers=offers, platform=platform, limits=graph.limits, progress=progress)
    for note in copied.notes:
        progress.note(one_line(note))
    return [_loaded(graph, descriptor, names) for descriptor, names in sink.loaded]


def without_ancestors(offers: Sequence[Offer]) -> list[Offer]:
    """The offers but those that have no name and are the parent of another: what somebody means who names no ids."""
    parents = {offer.parent for offer in offers}
    return [offer for offer in offers if offer.names or offer.descriptor.digest not in parents]


def _renamed(offers: list[Offer], reference: Reference) -> list[Offer]:
    """The same offers, with the name for the one of them that is not merely an ancestor."""
    meant = without_ancestors(offers)
    if len(meant) > 1:
        raise InvalidInput(
            f"there are {len(meant)} images in it, and one name for them",
            code="load-name-ambiguous",
            subject=reference.familiar,
            hint="load without a name, then tag what you want",
        )
    return [replace(offer, names=(reference.familiar,)) if offer is meant[0] else offer for offer in offers]


def _loaded(graph: Graph, descriptor: Descriptor, names: list[str]) -> Loaded:
    document = graph.catalog.document(descriptor.digest)
    image = graph.catalog.image(descriptor.digest)
    kind = "artifact" if document is None else document.kind
    return Loaded(descriptor, kind, None if image is None else image.id, tuple(names))
