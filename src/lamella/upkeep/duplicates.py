"""Equal files, told across layers and images by the digests of their content."""

from __future__ import annotations

from dataclasses import dataclass

from lamella.images.graph import Graph
from lamella.layers.filedigests import has_digest
from lamella.spec.digest import Digest


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A content that several files of the store's layers have: ``size`` bytes each, ``copies`` of it.

    ``path`` is one of them, in the layer ``layer``.
    """

    digest: Digest
    size: int
    copies: int
    path: bytes
    layer: Digest

    @property
    def excess(self) -> int:
        """Bytes of all copies but one."""
        return self.size * (self.copies - 1)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How much of the files in the store's layers, each layer counted once, is there more than once.

    ``files`` and ``size`` (bytes) are of all regular files with content; ``equal_files`` and ``equal_size`` of those
    that could go if each content were there once. ``largest`` are the contents with the largest excess.
    """

    files: int
    size: int
    equal_files: int
    equal_size: int
    largest: tuple[Duplicate, ...]


def duplicates(graph: Graph, *, most: int = 20) -> Duplicates:
    """Compare the files of all layers. Those whose index has no digests are not counted, nor are sparse files."""
    first: dict[bytes, tuple[int, int, int]] = {}  # digest: size, copies, which file was the first
    places: list[tuple[Digest, int]] = []
    layers = dict.fromkeys(layer.diff_id for image in graph.catalog.images() for layer in image.layers)
    files = size = 0
    for diff_id in layers:
        index = graph.layers.digested_index(diff_id)
        if index.digests is None:
            continue
        sizes = {entry.offset: entry.size for entry in index.entries if has_digest(entry)}
        for offset, digest in index.digests:
            length = sizes.get(offset)
            if length is None:
                continue
            files += 1
            size += length
            known = first.get(digest)
            if known is None:
                first[digest] = (length, 1, len(places))
                places.append((diff_id, offset))
            else:
                first[digest] = (length, known[1] + 1, known[2])
    equal = [(digest, *found) for digest, found in first.items() if found[1] > 1]
    largest = sorted(equal, key=lambda found: (-found[1] * (found[2] - 1), found[0]))[:most]
    return Duplicates(
        files,
        size,
        sum(copies - 1 for _, _, copies, _ in equal),
        sum(length * (copies - 1) for _, length, copies, _ in equal),
        tuple(_duplicate(graph, digest, length, copies, *places[at]) for digest, length, copies, at in largest),
    )


def _duplicate(graph: Graph, digest: bytes, size: int, copies: int, layer: Digest, offset: int) -> Duplicate:
    entries = graph.layers.index(layer).entries
    path = next(entry.path for entry in entries if has_digest(entry) and entry.offset == offset)
    return Duplicate(Digest("sha256", digest.hex()), size, copies, path, layer)
