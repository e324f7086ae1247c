"""The smallest image that shows whether EROFS works as it is needed: one file, which lies in the middle of a device."""

from __future__ import annotations

import struct

CONTENT = b"in place"
_AT_BLOCK, _BLOCK = 3, 512
_DIRECTORY_AT = 2048
_DIRENT = struct.Struct("<QHBB")


def device() -> bytes:
    """A file with the content of the image's file in its fourth block of 512 bytes."""
    return (bytes(_AT_BLOCK * _BLOCK) + CONTENT).ljust(4096, b"\0")


def metadata() -> bytes:
    """An image whose root holds the file ``file``. Format: as in ``layers.erofs``."""
    image = bytearray(4096)
    image[1024:1152] = struct.pack(
        "<IIIBBHQQIIII16s16sIHHHBBIQB23x", 0xE0F5E1E2, 0, 2, 9, 0, 48, 2, 0, 0, 8, 0, 0, bytes(16), b"lamella", 12, 0,
        1, 9, 0, 0, 0, 0, 0,
    )  # fmt: skip
    image[1152:1280] = struct.pack("<64sII56x", b"device", 8, 0)
    names = [(b".", 48, 2), (b"..", 48, 2), (b"file", 50, 1)]
    size = len(names) * _DIRENT.size + sum(len(name) for name, _, _ in names)
    image[1536:1600] = _inode(1, 0o40755, size, _DIRECTORY_AT // _BLOCK, 1, 2)
    image[1600:1672] = _inode(9, 0o100644, len(CONTENT), 0x20, 2, 1) + struct.pack("<HHI", 0, 1, _AT_BLOCK)
    at, name_at = _DIRECTORY_AT, _DIRECTORY_AT + len(names) * _DIRENT.size
    for name, nid, file_type in names:
        _DIRENT.pack_into(image, at, nid, name_at - _DIRECTORY_AT, file_type, 0)
        image[name_at : name_at + len(name)] = name
        at, name_at = at + _DIRENT.size, name_at + len(name)
    return bytes(image)


def _inode(layout: int, mode: int, size: int, start: int, number: int, links: int) -> bytes:
    return struct.pack("<HHHHQIIIIqII16x", layout, 0, mode, 0, size, start, number, 0, 0, 0, 0, links)
