"""Finding files over every image of a store: by path, or by the digest of their content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import partial
from re import compile as compile_pattern

from lamella.images.graph import Graph
from lamella.images.image import Image
from lamella.layers.entry import Kind
from lamella.layers.filedigests import EMPTY
from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME
from lamella.layers.paths import join
from lamella.layers.tree import Node
from lamella.layers.view import FileInfo
from lamella.spec.digest import Digest
from lamella.spec.progress import NO_PROGRESS, Progress


@dataclass(frozen=True, slots=True)
class Found:
    """A file of an image, as a reader of the image sees it."""

    image: Image
    file: FileInfo


def find_content(graph: Graph, images: Iterable[Image], digest: Digest) -> Iterator[Found]:
    """The files of these images whose content has a digest, in the order of the images and of paths.

    Layers whose index has no digests are passed over: see ``add_file_digests``.
    """
    known: dict[Digest, set[int]] = {}
    for image in images:
        places = [_offsets(graph, known, diff_id, digest) for diff_id in image.diff_ids]
        if any(places) or digest == EMPTY:
            yield from _walk(image, partial(_is_at, places, digest))


def _offsets(graph: Graph, known: dict[Digest, set[int]], diff_id: Digest, digest: Digest) -> set[int]:
    """Where the content begins in the tar of a layer."""
    if diff_id not in known:
        digests = graph.layers.digested_index(diff_id).digests
        known[diff_id] = set() if digests is None else digests.offsets(digest)
    return known[diff_id]


def _is_at(places: list[set[int]], digest: Digest, _: bytes, node: Node) -> bool:
    entry = node.entry
    if entry.kind != Kind.REGULAR or entry.sparse is not None:
        return False
    return entry.offset in places[node.layer] if entry.size else digest == EMPTY


def find_path(images: Iterable[Image], pattern: bytes) -> Iterator[Found]:
    """What in these images has a name that fits a shell pattern, or where it has a slash, a path that does.

    ``*`` and ``?`` stand for slashes too. The order is that of the images and of paths.
    """
    whole = b"/" in pattern
    fits = compile_pattern(translate(pattern.lstrip(b"/").decode("latin-1")).encode("latin-1")).fullmatch
    for image in images:
        yield from _walk(image, lambda path, _: bool(fits(path if whole else path.rpartition(b"/")[2])))


def _walk(image: Image, wanted: Callable[[bytes, Node], bool]) -> Iterator[Found]:
    files = image.files
    stack = [(b"", files.tree.root)]
    while stack:
        path, node = stack.pop()
        if path and wanted(path, node):
            yield Found(image, files.info(path, node))
        if node.children:
            stack.extend((join(path, name), node.children[name]) for name in sorted(node.children, reverse=True))


def lacking_digests(graph: Graph, images: Iterable[Image]) -> list[Digest]:
    """The layers of these images whose index has no digests of files."""
    layers = dict.fromkeys(diff_id for image in images for diff_id in image.diff_ids)
    return [diff_id for diff_id in layers if not _has_digests(graph, diff_id)]


def _has_digests(graph: Graph, diff_id: Digest) -> bool:
    path = graph.layers.path(diff_id) / INDEX_NAME
    return path.is_file() and LayerIndex.has_digests(path)


def add_file_digests(graph: Graph, images: Iterable[Image], *, progress: Progress = NO_PROGRESS) -> int:
    """Compute the digests of the files of these images that no index has yet, and keep them there.

    Each layer is read once and never again. Returns how many there were.
    """
    lacking = lacking_digests(graph, images)
    for diff_id in lacking:
        progress.start(diff_id.short, "hashing files")
        try:
            graph.layers.add_file_digests(diff_id)
        except BaseException:
            progress.done(diff_id.short, "failed")
            raise
        progress.done(diff_id.short)
    return len(lacking)
