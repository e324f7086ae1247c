"""Copying between any two places: their texts, as skopeo writes them, and the endpoints that they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.errors import InvalidInput, NotFound, Unsupported, one_line
from lamella.formats.detect import Kind as ArchiveKind
from lamella.formats.detect import create_sink, open_source
from lamella.formats.docker_graph_sink import DockerGraphSink
from lamella.images.graph import Graph
from lamella.registry.access import Access
from lamella.registry.policy import Verify
from lamella.registry.sink import RegistrySink
from lamella.registry.source import RegistrySource, repository_for
from lamella.spec.digest import Digest
from lamella.spec.endpoint import ImageSink, ImageSource, Offer
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.transfer.before_2016 import graph_source, v1_sink, v1_source
from lamella.transfer.copy import copy_images
from lamella.transfer.load import load, without_ancestors
from lamella.transfer.remote import find_remote, record_sources
from lamella.transfer.store_source import StoreSource

Transport = Literal["docker", "docker-v1", "oci", "oci-archive", "docker-archive", "docker-graph", "store"]
_FILES: dict[Transport, ArchiveKind] = {
    "oci": "oci-dir",
    "oci-archive": "oci-archive",
    "docker-archive": "docker-archive",
}
_SERVERS: dict[str, Transport] = {"docker": "docker", "docker-v1": "docker-v1"}
_PATHS: tuple[Transport, ...] = (*_FILES, "docker-graph")
_SINGLE = frozenset({"docker-archive", "docker-graph", "docker-v1"})
"""Where an image is for one platform."""
_EARLY = frozenset({"docker-graph", "docker-v1"})
"""Where an image comes with its ancestors."""
_ELSEWHERE = frozenset({"containers-storage", "docker-daemon", "dir", "sif", "ostree", "tarball", "atomic"})


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a copy: a transport, the name of an image there, the path of what is a file."""

    transport: Transport
    name: str = ""
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``docker://NAME``, ``oci:DIR[:NAME]``, ``oci-archive:FILE[:NAME]``, ``docker-archive:FILE[:NAME]``, or
        the name of an image in the store, which ``store:`` may stand before; and for docker before 1.10
        ``docker-v1://NAME`` and ``docker-graph:DIR[:NAME]``. Raises InvalidInput, Unsupported.
        """
        transport, colon, rest = text.partition(":")
        if transport in _SERVERS and rest.startswith("//"):
            return cls(_SERVERS[transport], rest.removeprefix("//"))
        for known in _PATHS:
            if transport == known and colon:
                path, _, name = rest.partition(":")
                if not path:
                    raise InvalidInput(f"'{text[:200]}' names no file", code="place-syntax")
                return cls(known, name, Path(path))
        if transport in _ELSEWHERE and colon:
            raise Unsupported(f"'{transport}:' is not known here", code="transport-unsupported", subject=text[:200])
        if transport == "store" and colon:
            text = rest
        if not text:
            raise InvalidInput("an image without a name", code="place-syntax")
        return cls("store", text)


@dataclass(frozen=True, slots=True)
class Inside:
    """A store, for a place that is in one; ``cleanup`` as of ``transfer.load``."""

    graph: Graph
    content: LocalContent
    lease: Lease
    cleanup: Callable[[set[Digest]], None]


@dataclass(frozen=True, slots=True)
class Journey:
    """What a copy may use: how each end is reached, a directory for what has to be gathered, bounds, who is told."""

    scratch: Path
    source_access: Access
    target_access: Access
    inside: Inside | None = None
    verify: Verify | None = None
    limits: Limits = DEFAULT_LIMITS
    progress: Progress = NO_PROGRESS


def copy_between(source: Place, target: Place, journey: Journey, *, platform: Platform | None = None) -> list[Offer]:
    """Copy what ``source`` names (all there is, if it names nothing) to ``target``; what arrived there.

    An index is copied whole, or with ``platform`` its one image that fits; into a docker archive, which has none, goes
    this machine's. Raises InvalidInput for several images where there can be one, and what the endpoints raise.
    """
    if platform is None and target.transport in _SINGLE:
        platform = Platform.host()
    origin = _open_source(source, journey)
    try:
        offers = _chosen(origin.offers(), source)
        if source.transport in _EARLY and source.name and target.transport != "store":
            offers = without_ancestors(offers)
        offers = _named(offers, target)
        if target.transport == "store":
            arrived = _into_store(origin, offers, journey, platform)
        else:
            sink = _open_sink(target, origin, journey)
            try:
                copied = copy_images(
                    origin, sink, offers=offers, platform=platform, limits=journey.limits, progress=journey.progress
                )
            finally:
                if isinstance(sink, RegistrySink):
                    sink.close()
            for note in copied.notes:
                journey.progress.note(one_line(note))
            arrived = list(copied.offers)
    finally:
        origin.close()
    _remember(source, target, arrived, journey)
    return arrived


def _open_source(place: Place, journey: Journey) -> ImageSource:
    if place.transport == "docker":
        found = find_remote(place.name, journey.source_access, journey.verify, journey.limits)
        return found.source(scratch=journey.scratch, progress=journey.progress)
    if place.transport == "store":
        inside = _inside(journey)
        document = inside.graph.find_document(place.name)
        inside.lease.hold(document.digest)
        names = []
        with suppress(InvalidInput):
            names.append(Reference.parse(place.name).without_digest().familiar)
        return StoreSource(inside.graph, [(document, names)])
    if place.transport == "docker-graph" and place.path is not None:
        return graph_source(place.path, place.name, journey.scratch, journey.limits, journey.progress)
    if place.transport == "docker-v1":
        return v1_source(
            place.name, journey.source_access, journey.scratch, journey.limits, journey.progress, journey.verify
        )
    return open_source(place.path, spool=journey.scratch, limits=journey.limits, progress=journey.progress)


def _open_sink(place: Place, origin: ImageSource, journey: Journey) -> ImageSink:
    if place.transport == "docker-graph" and place.path is not None:
        return DockerGraphSink(place.path, limits=journey.limits, progress=journey.progress)
    if place.transport == "docker-v1":
        return v1_sink(place.name, journey.target_access, journey.scratch, journey.limits, journey.progress)
    if place.transport != "docker":
        return create_sink(
            _FILES[place.transport],
            place.path,
            spool=journey.scratch,
            limits=journey.limits,
            progress=journey.progress,
        )
    reference = Reference.parse(place.name)
    beside: tuple[str, ...] = ()
    if isinstance(origin, RegistrySource) and origin.repository.registry.domain == reference.domain:
        beside = (origin.repository.path,)
    repository = repository_for(reference, journey.target_access, push=True, sources=beside, limits=journey.limits)
    return RegistrySink(repository, beside=beside)


def _into_store(
    origin: ImageSource, offers: Sequence[Offer], journey: Journey, platform: Platform | None
) -> list[Offer]:
    inside = _inside(journey)
    loaded = load(
        inside.graph,
        inside.content,
        inside.lease,
        origin,
        offers=offers,
        platform=platform,
        cleanup=inside.cleanup,
        progress=journey.progress,
    )
    return [Offer(item.descriptor, item.names) for item in loaded]


def _inside(journey: Journey) -> Inside:
    if journey.inside is None:
        raise InvalidInput("there is no store", code="copy-without-store")
    return journey.inside


def _chosen(offers: Sequence[Offer], place: Place) -> list[Offer]:
    """The image that a file is asked for by name, or all that it has."""
    if place.transport == "docker-graph" and place.name:
        *below, top = offers  # the source has nothing else
        return [*(replace(offer, names=()) for offer in below), top]
    if place.path is None or not place.name:
        if not offers:
            raise NotFound("there is no image in it", code="archive-empty", subject=str(place.path or place.name))
        return list(offers)
    found = [offer for offer in offers if any(_is_called(name, place.name) for name in offer.names)]
    if not found:
        there = ", ".join(sorted(name for offer in offers for name in offer.names)) or "none with a name"
        raise NotFound(
            "there is no such image in it", code="image-not-found", subject=place.name, hint=f"there is: {there}"
        )
    return found[:1]


def _is_called(name: str, wanted: str) -> bool:
    """Whether an image's name in a file is the wanted one: the same text, the same tag, or the same reference."""
    if wanted in (name, name.rpartition(":")[2]):
        return True
    with suppress(InvalidInput):
        return Reference.parse(name) == Reference.parse(wanted)
    return False


def _named(offers: list[Offer], target: Place) -> list[Offer]:
    """The offers under the name that the target gives; under their own if it gives none.

    A store takes nameless ancestors too; elsewhere nobody would find them beside the one that has the name.
    """
    if not target.name:
        return offers
    meant = without_ancestors(offers)
    rest = [offer for offer in offers if offer not in meant] if target.transport == "store" else []
    if len(meant) > 1:
        raise InvalidInput(
            f"there are {len(meant)} images, and one name for them", code="copy-ambiguous", subject=target.name
        )
    name = target.name
    if target.transport in ("docker", "store", *_SINGLE):
        name = str(Reference.parse(name))
    return [*rest, replace(meant[0], names=(name,))]


def _remember(source: Place, target: Place, arrived: list[Offer], journey: Journey) -> None:
    """Note in the store where the layers of an image are."""
    names = [place.name for place in (source, target) if place.transport == "docker"]
    if journey.inside is not None and names:
        for offer in arrived:
            record_sources(journey.inside.graph, offer.descriptor.digest, Reference.parse(names[0]).repository)
