"""Writes trees as tar streams: the changes of a snapshot as a layer, or a whole tree as a root file system.

Same input, same bytes: members stand in the byte order of their paths, directory by directory, whiteouts before their
siblings; every directory on the way to a change has a member, so that engines which do not know the layers below give
it the right owner and mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from lamella.archive.tar import Member, MemberType, TarWriter
from lamella.archive.whiteouts import PREFIX, whiteout_of
from lamella.errors import InvalidInput, LamellaError
from lamella.layers.compare import Change, ChangeKind
from lamella.layers.entry import Entry, Kind
from lamella.layers.paths import components
from lamella.layers.sources import HostSource
from lamella.layers.sparse import find_segments
from lamella.layers.tree import MergedTree, Node
from lamella.spec.progress import NO_PROGRESS, Progress

_TYPES = {
    Kind.REGULAR: MemberType.REGULAR,
    Kind.HARDLINK: MemberType.HARDLINK,
    Kind.SYMLINK: MemberType.SYMLINK,
    Kind.CHARDEV: MemberType.CHARDEV,
    Kind.BLOCKDEV: MemberType.BLOCKDEV,
    Kind.DIRECTORY: MemberType.DIRECTORY,
    Kind.FIFO: MemberType.FIFO,
}
_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class TimePolicy:
    """``latest`` (seconds since 1970) is the newest time that may be written; later ones become it. None keeps all."""

    latest: int | None = None

    def clamp(self, mtime: int) -> int:
        """The time (ns) to write for ``mtime`` (ns)."""
        return mtime if self.latest is None else min(mtime, self.latest * _SECOND)


def write_layer(
    old: MergedTree,
    new: MergedTree,
    changes: Sequence[Change],
    write: Callable[[bytes], object],
    *,
    times: TimePolicy = TimePolicy(),
    progress: Progress = NO_PROGRESS,
    key: str = "",
) -> int:
    """Write the layer that leads from ``old`` to ``new`` as an uncompressed tar; return the number of members.

    ``changes`` are those of ``compare(old, new)``. Raises InvalidInput for a name that a layer cannot hold and
    FailedPrecondition if a file changes while it is read; either names the entry.
    """
    writer = _Writer(new, write, times, progress, key)
    kept = _kept_links(old, new, changes)
    for path, change in _layer_order(new, changes):
        if change == ChangeKind.DELETED:
            writer.whiteout(path)
        else:
            writer.add(path, kept)
    return writer.close()


def write_tree(
    tree: MergedTree,
    write: Callable[[bytes], object],
    *,
    top: bool = True,
    times: TimePolicy = TimePolicy(),
    progress: Progress = NO_PROGRESS,
    key: str = "",
) -> int:
    """Write the whole tree as an uncompressed tar, with ``top`` the root first as ``./``; return how many members."""
    writer = _Writer(tree, write, times, progress, key)
    for path, _ in tree.walk():
        if path or top:
            writer.add(path, {})
    return writer.close()


def _layer_order(new: MergedTree, changes: Sequence[Change]) -> Iterator[tuple[bytes, ChangeKind]]:
    """Every member to write: the changes and the directories above them, whiteouts first within a directory."""
    wanted: dict[bytes, ChangeKind] = {}
    for change in changes:
        parts = components(change.path)
        for depth in range(len(parts)):
            wanted.setdefault(b"/".join(parts[:depth]), ChangeKind.MODIFIED)
        wanted[change.path] = change.kind
    below: dict[bytes, list[bytes]] = {}
    for path in wanted:
        if path:
            below.setdefault(path.rpartition(b"/")[0], []).append(path)
    stack = [b""] if wanted else []
    while stack:
        path = stack.pop()
        yield path, wanted[path]
        inner = sorted(below.get(path, ()))
        for gone in inner:
            if wanted[gone] == ChangeKind.DELETED:
                yield gone, ChangeKind.DELETED
        stack.extend(kept for kept in reversed(inner) if wanted[kept] != ChangeKind.DELETED)


def _kept_links(old: MergedTree, new: MergedTree, changes: Sequence[Change]) -> dict[int, bytes]:
    """For files of ``new`` that have an unchanged name too: that name, which new names then become links to."""
    changed = {change.path for change in changes}
    shared = new.link_counts()
    if not shared:
        return {}
    kept: dict[int, bytes] = {}
    for path, node in new.walk():
        if id(node) in shared and path not in changed:
            kept.setdefault(id(node), path)
    return kept


class _Writer:
    def __init__(
        self, tree: MergedTree, write: Callable[[bytes], object], times: TimePolicy, progress: Progress, key: str
    ) -> None:
        self._tree, self._times, self._progress, self._key = tree, times, progress, key
        self._tar = TarWriter(write)
        self._first: dict[int, bytes] = {}
        self._members = 0

    def whiteout(self, path: bytes) -> None:
        self._put(_member(Entry(whiteout_of(path), Kind.REGULAR, 0o644), whiteout_of(path), 0), None)

    def add(self, path: bytes, kept: dict[int, bytes]) -> None:
        node = self._tree.lookup(path, follow=False)
        entry = node.entry
        if path.rpartition(b"/")[2].startswith(PREFIX):
            raise InvalidInput(
                "a layer cannot hold a file whose name starts with '.wh.'", code="whiteout-like-name", entry=path
            )
        mtime = self._times.clamp(entry.mtime)
        existing = kept.get(id(node)) or self._first.get(id(node))
        if existing is not None and node.children is None:
            link = Entry(path, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, mtime, link=existing)
            self._put(_member(link, path, mtime), None)
            return
        if node.children is None:
            self._first[id(node)] = path
        try:
            self._file(path, node, mtime)
        except LamellaError as error:
            raise error.about(entry=path) from None

    def _file(self, path: bytes, node: Node, mtime: int) -> None:
        entry = node.entry
        if entry.kind != Kind.REGULAR:
            self._put(_member(entry, path, mtime), None)
            return
        source = self._tree.sources[node.layer]
        with source.open(entry) as raw:
            stream = cast("BinaryIO", raw)
            sparse = entry.sparse
            if isinstance(source, HostSource):
                sparse = find_segments(raw, entry.size)
            self._put(_member(entry, path, mtime, sparse), _Segments(stream, sparse) if sparse is not None else stream)
        self._progress.advance(self._key, entry.size)

    def _put(self, member: Member, data: BinaryIO | _Segments | None) -> None:
        self._tar.add(member, data)
        self._members += 1

    def close(self) -> int:
        self._tar.close()
        return self._members


def _member(entry: Entry, path: bytes, mtime: int, sparse: tuple[tuple[int, int], ...] | None = None) -> Member:
    name = path if path else b"./"
    if entry.kind == Kind.DIRECTORY and path:
        name = path + b"/"
    stored = entry.size if sparse is None else sum(length for _, length in sparse)
    return Member(
        name=name,
        type=_TYPES[entry.kind],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=mtime,
        size=entry.size if entry.kind == Kind.REGULAR else 0,
        linkname=entry.link,
        major=entry.major,
        minor=entry.minor,
        xattrs={name.decode("utf-8", "surrogateescape"): value for name, value in sorted(entry.xattrs.items())},
        stored_size=stored if entry.kind == Kind.REGULAR else 0,
        sparse=sparse,
    )


class _Segments:
    """The data segments of a sparse file, back to back."""

    def __init__(self, stream: BinaryIO, segments: tuple[tuple[int, int], ...]) -> None:
        self._stream = stream
        self._segments = list(reversed([s for s in segments if s[1]]))

    def read(self, size: int, /) -> bytes:
        if not self._segments:
            return b""
        start, length = self._segments.pop()
        self._stream.seek(start)
        data = self._stream.read(min(size, length))
        if len(data) < length:
            self._segments.append((start + len(data), length - len(data)))
        return data

    def close(self) -> None:
        self._stream.close()
