"""Where files lie on their disk, as far as they share it with other files: FIEMAP (linux ``fiemap.rst``)."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator

_FIEMAP = 0xC020660B
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_BATCH = 128
_LAST, _NOWHERE, _SHARED = 0x1, 0x2 | 0x4 | 0x200, 0x2000


def shared_extents(fd: int) -> Iterator[tuple[int, int]]:
    """(physical offset, bytes) of each piece of an open file that another file has too. Raises OSError.

    Offsets are of the file system that the file is on. What was written and has no place yet is not told.
    """
    at = 0
    while True:
        buffer = bytearray(_HEADER.pack(at, (1 << 64) - 1 - at, 0, 0, _BATCH, 0) + bytes(_EXTENT.size * _BATCH))
        fcntl.ioctl(fd, _FIEMAP, buffer)
        mapped = _HEADER.unpack_from(buffer)[3]
        for number in range(mapped):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _HEADER.size + number * _EXTENT.size)
            at = logical + length
            if flags & _SHARED and not flags & _NOWHERE:
                yield physical, length
            if flags & _LAST:
                return
        if not mapped:
            return


def shared_bytes(path: bytes | str | os.PathLike[str]) -> list[tuple[int, int]]:
    """The shared extents of the file at ``path``; none where the file system tells none, or the file cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return list(shared_extents(fd))
    except OSError:
        return []
    finally:
        os.close(fd)
