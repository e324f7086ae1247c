"""Finds what a sparse file of the host really holds."""

from __future__ import annotations

import errno
import io
import os

_BLOCK = 4_096
_WORTH = 64 << 10
_CHUNK = 1 << 20
_ZERO = bytes(_BLOCK)


def find_segments(stream: io.RawIOBase, size: int) -> tuple[tuple[int, int], ...] | None:
    """The (offset, length) of each data segment, or None for a file that is not sparse by at least 64 KiB.

    The file system says where holes are; within data, blocks of 4,096 zero bytes count as holes too, so that the answer
    follows from the content and not from how a file system happened to allocate it.
    """
    fd = getattr(stream, "_fd", None)
    if fd is None or os.fstat(fd).st_blocks * 512 + _WORTH > size:
        return None
    segments: list[tuple[int, int]] = []
    for start, end in _data_ranges(fd, size):
        _zero_free(fd, start, end, segments)
    if sum(length for _, length in segments) + _WORTH > size:
        return None
    return tuple(segments)


def data_ranges(stream: io.RawIOBase, size: int) -> list[tuple[int, int]]:
    """Where (from, to) a file of the host may hold data: not in holes, for a file that takes less than its size."""
    fd = getattr(stream, "_fd", None)
    if fd is None or os.fstat(fd).st_blocks * 512 >= size:
        return [(0, size)]
    return _data_ranges(fd, size)


def _data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    ranges, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        start -= start % _BLOCK
        if start < size:
            ranges.append((start, end))
        at = max(end, at + 1)
    return ranges


def _zero_free(fd: int, start: int, end: int, segments: list[tuple[int, int]]) -> None:
    """Append the runs of blocks in [start, end) that are not all zero."""
    at = start
    while at < end:
        data = os.pread(fd, min(_CHUNK, end - at), at)
        if not data:
            return
        for within in range(0, len(data), _BLOCK):
            block = data[within : within + _BLOCK]
            if block == _ZERO[: len(block)]:
                continue
            here = at + within
            if segments and sum(segments[-1]) == here:
                segments[-1] = (segments[-1][0], segments[-1][1] + len(block))
            else:
                segments.append((here, len(block)))
        at += len(data)
