"""One row of a layer's index."""

from __future__ import annotations

import enum

import msgspec


class Kind(enum.IntEnum):
    """What an entry is. The markers at the end say what a layer does to the layers below it."""

    REGULAR = 0
    HARDLINK = 1
    SYMLINK = 2
    CHARDEV = 3
    BLOCKDEV = 4
    DIRECTORY = 5
    FIFO = 6
    WHITEOUT = 7
    OPAQUE = 8
    PSEUDO_LINK = 9


NO_XATTRS: dict[bytes, bytes] = {}


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a layer says of one path.

    ``path`` is relative, without ``.``, ``..`` or empty components; the root is ``b""``. ``mode`` has the permission
    bits with setuid, setgid and sticky (07777). ``mtime`` is nanoseconds since 1970, negative before. ``size`` is the
    logical length in bytes. ``offset`` is where the data begins in the uncompressed layer tar; ``sparse`` lists the
    (offset, length) of each data segment of a sparse file, whose bytes then stand back to back from ``offset``.
    ``link`` is the target of a symbolic link as written, or the path that a hard link names.
    """

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    offset: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = NO_XATTRS
    sparse: tuple[tuple[int, int], ...] | None = None

    def same_metadata(self, other: Entry) -> bool:
        """Whether kind, mode, owners, mtime, size, link target, device and xattrs are equal; content is not read.

        The mode of a symbolic link means nothing, and no file system keeps one.
        """
        return (
            self.kind == other.kind
            and (self.mode == other.mode or self.kind == Kind.SYMLINK)
            and self.mtime == other.mtime
            and self.uid == other.uid
            and self.gid == other.gid
            and (self.size == other.size or self.kind != Kind.REGULAR)
            and self.link == other.link
            and self.major == other.major
            and self.minor == other.minor
            and self.xattrs == other.xattrs
        )


def implied_directory(path: bytes) -> Entry:
    """A directory that no layer has an entry for, though something is in it: 0755, root's, of 1970."""
    return Entry(path, Kind.DIRECTORY, 0o755)
