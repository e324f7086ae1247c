"""Reading a tree without mounting it: list, stat, open, read links, tell where things come from."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from lamella.errors import InvalidInput, NotFound
from lamella.layers.entry import Entry, Kind
from lamella.layers.paths import from_text, join
from lamella.layers.tree import MergedTree, Node
from lamella.spec.digest import Digest

_TYPE_BITS = {
    Kind.REGULAR: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARDEV: stat.S_IFCHR,
    Kind.BLOCKDEV: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a path of a tree is. ``path`` is relative to the root; ``mtime`` is ns; ``size`` bytes; ``links`` names.

    ``inode`` is equal for names that are hard links of each other, and means nothing else. ``layer`` is the position of
    the layer that wrote the file, bottom first. ``digest`` is that of a regular file's content where the layer's index
    has it.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    links: int
    inode: int
    layer: int
    digest: Digest | None = None

    @property
    def st_mode(self) -> int:
        """Mode with the type bits, as stat(2) gives it."""
        return self.mode | _TYPE_BITS[self.kind]

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return self.kind == Kind.DIRECTORY


class TreeView:
    """A merged tree as a reader sees it. Links are resolved inside the tree only; nothing is ever asked of the host."""

    def __init__(self, tree: MergedTree) -> None:
        self.tree = tree
        self._counts = tree.link_counts()

    def walk(self, path: str | bytes = b"") -> Iterator[FileInfo]:
        """Everything at and below ``path``, directories first, names in byte order; links below it are not followed."""
        top, node = self.tree.resolve(from_text(path), follow=True)
        stack = [(top, node)]
        while stack:
            at, node = stack.pop()
            yield self.info(at, node)
            if node.children:
                below = node.children
                stack.extend((join(at, name), below[name]) for name in sorted(below, reverse=True))

    def listdir(self, path: str | bytes = b"") -> list[FileInfo]:
        """What is in the directory ``path``, in byte order. Raises NotFound, InvalidInput for what is no directory."""
        top, node = self.tree.resolve(from_text(path), follow=True)
        if node.children is None:
            raise InvalidInput("not a directory", code="not-a-directory", entry=top)
        return [self.info(join(top, name), node.children[name]) for name in sorted(node.children)]

    def stat(self, path: str | bytes, *, follow: bool = True) -> FileInfo:
        """What is at ``path``. Raises NotFound."""
        found, node = self.tree.resolve(from_text(path), follow=follow)
        return self.info(found, node)

    def exists(self, path: str | bytes, *, follow: bool = True) -> bool:
        """Whether something is at ``path``."""
        try:
            self.tree.lookup(from_text(path), follow=follow)
        except NotFound:
            return False
        return True

    def readlink(self, path: str | bytes) -> bytes:
        """The target of the symbolic link at ``path``, as written. Raises InvalidInput for anything else."""
        found, node = self.tree.resolve(from_text(path), follow=False)
        if node.entry.kind != Kind.SYMLINK:
            raise InvalidInput("not a symbolic link", code="not-a-link", entry=found)
        return node.entry.link

    def open(self, path: str | bytes) -> BinaryIO:
        """The content of the regular file at ``path``, buffered and seekable; the caller closes it.

        Raises NotFound, and InvalidInput for what has no content.
        """
        found, node = self.tree.resolve(from_text(path), follow=True)
        if node.entry.kind != Kind.REGULAR:
            raise InvalidInput("not a regular file", code="not-a-file", entry=found)
        return cast("BinaryIO", io.BufferedReader(self.tree.sources[node.layer].open(node.entry), 128 << 10))

    def info(self, path: bytes, node: Node) -> FileInfo:
        """What a node of the tree is, at ``path``."""
        e: Entry = node.entry
        return FileInfo(
            path, e.kind, e.mode, e.uid, e.gid, e.mtime, e.size, e.link, e.major, e.minor, e.xattrs,
            self._counts.get(id(node), 1), id(node), node.layer,
            self.tree.sources[node.layer].digest(e) if e.kind == Kind.REGULAR else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Provenance:
    """One thing that a layer did to a path: ``layer`` is its position, bottom first; ``action`` is A, C or D."""

    layer: int
    action: str


def provenance(trees: Sequence[MergedTree], path: str | bytes) -> list[Provenance]:
    """Which layers added, changed or deleted ``path``, bottom first; ``trees`` are those of every prefix."""
    name = from_text(path)
    result: list[Provenance] = []
    before: Node | None = None
    for layer, tree in enumerate(trees):
        now = _find(tree, name)
        if now is None:
            if before is not None:
                result.append(Provenance(layer, "D"))
        elif before is None:
            result.append(Provenance(layer, "A"))
        elif before.entry is not now.entry:
            result.append(Provenance(layer, "C"))
        before = now
    return result


def _find(tree: MergedTree, path: bytes) -> Node | None:
    try:
        return tree.lookup(path, follow=False)
    except NotFound:
        return None
