"""One member of a tar archive, as a value."""

from __future__ import annotations

import enum

import msgspec


class MemberType(enum.IntEnum):
    """What a member is. The numbers are the digits of the tar type flag."""

    REGULAR = 0
    HARDLINK = 1
    SYMLINK = 2
    CHARDEV = 3
    BLOCKDEV = 4
    DIRECTORY = 5
    FIFO = 6


class Member(msgspec.Struct, gc=False):
    """One member: its metadata, and where its bytes lie.

    ``name`` and ``linkname`` are as written in the archive: not normalised, not safe to resolve. ``mode`` holds the
    twelve permission bits only, ``mtime`` is in nanoseconds since 1970 and fits 64 bits, ``size`` is the logical size
    in bytes (zero for everything but regular files). ``data_offset`` counts from the first byte of the uncompressed
    archive; ``stored_size`` bytes are stored there. ``sparse`` is None, or the (offset, length) of each piece of a
    sparse file that is data: ascending, disjoint, not empty, within ``size``, stored back to back from
    ``data_offset``.
    """

    name: bytes
    type: MemberType
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    linkname: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] = msgspec.field(default_factory=dict)
    data_offset: int = 0
    stored_size: int = 0
    sparse: tuple[tuple[int, int], ...] | None = None
