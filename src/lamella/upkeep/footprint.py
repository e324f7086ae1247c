"""Bytes on the disk, each counted once: a file with several names, and blocks that several files share."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from pathlib import Path

from lamella._sys.extents import shared_bytes

_UNREADABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})
_BLOCK = 512


class Footprint:
    """Adds up what files take. What was counted by one call is not counted by a later one.

    ``reflinks`` also asks of each file which blocks it shares, which file systems that share none need not be asked.
    """

    def __init__(self, *, reflinks: bool = False) -> None:
        self._reflinks = reflinks
        self._seen: set[tuple[int, int]] = set()
        self._shared: dict[int, _Intervals] = {}

    def file(self, path: Path) -> int:
        """Bytes that a file takes and that were not counted yet; 0 for one that is not there."""
        try:
            return self._count(os.stat(path, follow_symlinks=False), os.fspath(path))
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return 0

    def tree(self, path: Path) -> int:
        """Bytes that everything in a directory takes and that were not counted yet.

        What is deeper than a path can say is not counted, nor is what is mounted there.
        """
        total = 0
        try:
            device = os.stat(path).st_dev
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return 0
        stack = [os.fspath(path)]
        while stack:
            try:
                entries = list(os.scandir(stack.pop()))
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                continue
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _UNREADABLE:
                        raise
                    continue
                if status.st_dev == device:
                    total += self._count(status, entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        return total

    def _count(self, status: os.stat_result, path: str) -> int:
        identity = status.st_dev, status.st_ino
        if identity in self._seen:
            return 0
        self._seen.add(identity)
        size = status.st_blocks * _BLOCK
        if self._reflinks and stat.S_ISREG(status.st_mode) and size:
            places = self._shared.setdefault(status.st_dev, _Intervals())
            for start, length in shared_bytes(path):
                size -= length - places.add(start, start + length)
        return max(size, 0)


class _Intervals:
    """Disjoint intervals, sorted."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> int:
        """Cover an interval; how much of it was not covered before."""
        first = bisect_right(self._ends, start - 1)
        last = bisect_right(self._starts, end)
        if first == last:
            self._starts.insert(first, start)
            self._ends.insert(first, end)
            return end - start
        covered = sum(max(0, min(self._ends[n], end) - max(self._starts[n], start)) for n in range(first, last))
        low, high = min(self._starts[first], start), max(self._ends[last - 1], end)
        self._starts[first:last] = [low]
        self._ends[first:last] = [high]
        return end - start - covered
