"""The one differ: what changed between two merged trees.

Everything that has changes is made into a merged tree first (an image, a snapshot's writable branch over its image, a
directory, an AUFS branch), so that the answer does not depend on where the change was recorded. Two directories that
are the same object are equal without a look inside.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Iterator
from dataclasses import dataclass

from lamella.errors import printable
from lamella.layers.entry import Entry, Kind
from lamella.layers.paths import join
from lamella.layers.sources import ContentSource, HostSource
from lamella.layers.sparse import data_ranges
from lamella.layers.tree import MergedTree, Node

_CHUNK = 1 << 20


class ChangeKind(enum.IntEnum):
    """What happened to a path, with the numbers of the 2013 system."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2

    @property
    def letter(self) -> str:
        """``C``, ``A`` or ``D``, as ``docker diff`` prints them."""
        return "CAD"[self]


@dataclass(frozen=True, slots=True)
class Change:
    """One changed path. ``path`` is relative to the root of the image.

    ``size`` is the bytes of content that the change brings: those of an added or modified regular file, counted at the
    first of its names; 0 for everything else.
    """

    path: bytes
    kind: ChangeKind
    size: int = 0

    def __str__(self) -> str:
        return f"{self.kind.letter} /{printable(self.path)}"


def compare(old: MergedTree, new: MergedTree) -> list[Change]:
    """The changes that lead from ``old`` to ``new``, sorted by path.

    Of a deleted directory only the directory is listed; of an added one everything in it. A path whose type changed is
    Modified; what was in a directory that became something else is not listed. The root itself is listed only when more
    than its time changed. Files with equal metadata are read and compared byte by byte unless they are the same bytes
    of the same layer.
    """
    return _Comparison(old, new).run()


class _Comparison:
    def __init__(self, old: MergedTree, new: MergedTree) -> None:
        self._old, self._new = old, new
        self._changes: list[Change] = []
        self._kept: list[tuple[bytes, Node, Node]] = []
        self._same: list[tuple[bytes, Node]] = []
        self._counted: set[int] = set()

    def run(self) -> list[Change]:
        old, new = self._old.root, self._new.root
        if old is not new:
            if root_changed(old, new):
                self._changes.append(Change(b"", ChangeKind.MODIFIED))
            self._directories(old, new)
            self._relinked()
        self._changes.sort(key=lambda change: change.path)
        return [self._sized(change) for change in self._changes]

    def _directories(self, old_root: Node, new_root: Node) -> None:
        stack = [(b"", old_root, new_root)]
        while stack:
            path, old, new = stack.pop()
            before, after = old.children or {}, new.children or {}
            for name, was in before.items():
                now = after.get(name)
                below = join(path, name)
                if now is None:
                    self._changes.append(Change(below, ChangeKind.DELETED))
                elif now is not was:
                    self._pair(below, was, now)
                    if was.children is not None and now.children is not None:
                        stack.append((below, was, now))
                    elif now.children:
                        self._added_below(below, now)
                elif was.children is None:
                    self._kept.append((below, was, now))
                else:
                    self._same.append((below, was))
            for name in after.keys() - before.keys():
                self._added(join(path, name), after[name])

    def _pair(self, path: bytes, was: Node, now: Node) -> None:
        if not self._untouched(now) and not (was.entry.same_metadata(now.entry) and self._same_content(was, now)):
            self._changes.append(Change(path, ChangeKind.MODIFIED))
        elif now.children is None:
            self._kept.append((path, was, now))

    def _untouched(self, now: Node) -> bool:
        """Whether a file is the one that was written here from the old tree, even if not all of it could be kept."""
        here = self._new.sources[now.layer]
        return isinstance(here, HostSource) and here.touched is not None and now.entry.path not in here.touched

    def _added(self, path: bytes, node: Node) -> None:
        self._changes.append(Change(path, ChangeKind.ADDED))
        if node.children:
            self._added_below(path, node)

    def _added_below(self, path: bytes, node: Node) -> None:
        stack = [(path, node)]
        while stack:
            at, directory = stack.pop()
            for name, child in (directory.children or {}).items():
                self._changes.append(Change(join(at, name), ChangeKind.ADDED))
                if child.children:
                    stack.append((join(at, name), child))

    def _same_content(self, was: Node, now: Node) -> bool:
        if was.entry.kind != Kind.REGULAR or was.entry is now.entry or not was.entry.size:
            return True
        there, here = self._old.sources[was.layer], self._new.sources[now.layer]
        if there.label == here.label and was.entry.offset == now.entry.offset and not isinstance(here, HostSource):
            return True
        with there.open(was.entry) as left, here.open(now.entry) as right:
            return all(
                _same_range(left, right, start, end)
                for start, end in _data(was.entry, there, left) + _data(now.entry, here, right)
            )

    def _relinked(self) -> None:
        """Find names whose file is unchanged but that are no longer, or newly, hard links of each other.

        Which name of a group counts as the one that stayed is told by byte order alone, so that the answer does not
        depend on how the change was recorded.
        """
        before, after = self._old.link_counts(), self._new.link_counts()
        if not before and not after:
            return
        linked = [(path, id(was), id(now)) for path, was, now in self._kept if id(was) in before or id(now) in after]
        # Names in directories that nobody touched hold their files together with names that somebody did touch.
        linked += [(path, id(node), id(node)) for path, node in self._files_of_same_directories() if id(node) in before]
        forth: dict[int, int] = {}
        back: dict[int, int] = {}
        for path, left, right in sorted(linked):
            if forth.setdefault(left, right) != right or back.setdefault(right, left) != left:
                self._changes.append(Change(path, ChangeKind.MODIFIED))

    def _files_of_same_directories(self) -> Iterator[tuple[bytes, Node]]:
        stack = self._same
        while stack:
            path, directory = stack.pop()
            for name, node in (directory.children or {}).items():
                if node.children is None:
                    yield join(path, name), node
                else:
                    stack.append((join(path, name), node))

    def _sized(self, change: Change) -> Change:
        if change.kind == ChangeKind.DELETED:
            return change
        node = self._new.lookup(change.path, follow=False)
        if node.entry.kind != Kind.REGULAR or id(node) in self._counted:
            return change
        self._counted.add(id(node))
        return Change(change.path, change.kind, node.entry.size)


def root_changed(old: Node, new: Node) -> bool:
    """Whether the root directory changed in more than its time."""
    was, now = old.entry, new.entry
    return (was.mode, was.uid, was.gid, was.xattrs) != (now.mode, now.uid, now.gid, now.xattrs)


def _data(entry: Entry, source: ContentSource, stream: io.RawIOBase) -> list[tuple[int, int]]:
    """Where (from, to) a file may hold something else than zeros: what is a hole on both sides need not be read."""
    if entry.sparse is not None:
        return [(start, start + length) for start, length in entry.sparse]
    if isinstance(source, HostSource):
        return data_ranges(stream, entry.size)
    return [(0, entry.size)]


def _same_range(left: io.RawIOBase, right: io.RawIOBase, start: int, end: int) -> bool:
    left.seek(start)
    right.seek(start)
    while start < end:
        chunk = _read_exactly(left, min(_CHUNK, end - start))
        if _read_exactly(right, len(chunk)) != chunk:
            return False
        if not chunk:
            return True
        start += len(chunk)
    return True


def _read_exactly(stream: io.RawIOBase, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def by_parent(changes: list[Change]) -> Iterator[tuple[bytes, list[Change]]]:
    """The changes grouped by the directory that they are in, directories before those below them."""
    groups: dict[bytes, list[Change]] = {}
    for change in changes:
        groups.setdefault(change.path.rpartition(b"/")[0], []).append(change)
    yield from sorted(groups.items(), key=lambda group: group[0].split(b"/"))
