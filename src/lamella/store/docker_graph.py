"""A docker's image graph of 2013, into a store and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamella._sys.files import os_errors
from lamella.errors import Integrity, InvalidInput, LamellaError, Unsupported
from lamella.formats.docker_graph import Graph, GraphForm
from lamella.formats.docker_graph_sink import DockerGraphSink
from lamella.formats.docker_graph_source import DockerGraphSource
from lamella.spec.digest import Digest
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.transfer.copy import copy_images
from lamella.transfer.load import Loaded, load, without_ancestors
from lamella.transfer.store_source import StoreSource

if TYPE_CHECKING:
    from lamella.store.exchange import Exchange


def import_graph(
    store: Exchange,
    path: Path,
    names: Sequence[str] = (),
    *,
    skip_damaged: bool = False,
    progress: Progress = NO_PROGRESS,
) -> list[Loaded]:
    """Bring a graph (or the directory that has one by the name of ``graph``) into the store: every image, parent and
    tag, or those of ``names`` with their ancestors. All of it appears at once, or nothing does.

    Ids, records and checksums stay with the images, in annotations. ``skip_damaged`` leaves out what is damaged, and
    what stands on it, with a note. Raises NotFound for what is no graph or an empty one, and what it finds damaged.
    """
    left_out: set[str] = set()
    while True:
        try:
            return _import_graph(store, path, names, left_out, skip_damaged=skip_damaged, progress=progress)
        except _DamagedImageError as damaged:
            # Some damage shows only when a layer is unpacked, or put on those below it.
            left_out.add(damaged.id)
            progress.note(f"image {damaged.id[:12]} is left out: {damaged.__cause__}")


class _DamagedImageError(Exception):
    """An image of a graph that an import is to go on without; its cause tells what is wrong."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


def _import_graph(
    store: Exchange, path: Path, names: Sequence[str], without: set[str], *, skip_damaged: bool, progress: Progress
) -> list[Loaded]:
    with store.lease(f"import-graph {path}") as lease:
        graph = Graph.open(path, create=False, limits=store.limits, progress=progress)
        scratch = lease.directory / "graph"
        with os_errors(str(scratch)):
            scratch.mkdir(mode=0o700)
        source = DockerGraphSource(
            graph,
            scratch,
            names=names,
            skip_damaged=skip_damaged,
            without=without,
            limits=store.limits,
            progress=progress,
        )
        try:
            loaded = load(
                store.graph,
                store.content,
                lease,
                source,
                cleanup=lambda written: store.clean_up(lease, written),
                progress=progress,
            )
        except LamellaError as error:
            if culprit := source.culprit(error):
                error.subject = f"image {culprit}"
                if skip_damaged and isinstance(error, (InvalidInput, Integrity, Unsupported)):
                    raise _DamagedImageError(culprit) from error
            raise
    store.sync_layout()
    named = {item.descriptor.digest for item in loaded if item.names}
    loose = [offer for offer in without_ancestors(source.offers()) if offer.descriptor.digest not in named]
    if loose:
        progress.note(f"{len(loose)} of the images have no name: 'lamella gc' removes what gets none")
    return loaded


def export_graph(
    store: Exchange,
    names: Sequence[str],
    path: Path,
    *,
    form: GraphForm | None = None,
    force: bool = False,
    platform: Platform | None = None,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write images of the store into a graph that docker 0.4.0 to 1.0 reads, with their ancestors and their names.

    ``form`` is how the graph lies on disk (by default as the one that is there, else as 0.4 has it), ``force`` moves
    names that it has for other images. Of a multi-platform image the one for ``platform`` (this machine's) is written.
    See DockerGraphSink for what it raises and promises.
    """
    with store.lease(f"export-graph {path}") as lease:
        chosen = []
        for text in names:
            document = store.graph.find_document(text)
            lease.hold(document.digest)
            chosen.append((document, names_for(store, text, document.digest)))
        with DockerGraphSink(path, form=form, force=force, limits=store.limits, progress=progress) as sink:
            source = StoreSource(store.graph, chosen)
            copy_images(source, sink, platform=platform or Platform.host(), limits=store.limits, progress=progress)


def names_for(store: Exchange, text: str, digest: Digest) -> list[str]:
    """The names to export an image under: the one it was asked for by, or all it has if it was asked for by id."""
    every = store.graph.names_by_target().get(digest, [])
    try:
        familiar = Reference.parse(text).without_digest().familiar
    except LamellaError:
        return every
    return [familiar] if familiar in every else every
