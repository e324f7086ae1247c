"""Reads EROFS metadata: as much of the format as ``layers.erofs`` writes, and nothing more.

Whoever mounts has checked the file against its digest. It is treated as if nobody had: every place that one part of it
names is looked at for lying within it, and what does not is an OSError (EIO), never a wrong answer or an endless one.
Format: the kernel's ``fs/erofs/erofs_fs.h``. Memory: what is remembered is bounded, whatever the size of the image.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

BLOCK = 512
HOLE = 0xFFFFFFFF
DIRENTS_MAX = 64
"""More dirents than a block can hold."""
S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000

_SUPER_AT, _MAGIC, _FEATURES = 1024, 0xE0F5E1E2, 0x4 | 0x8
_SUPER = struct.Struct("<I8xBxHQ12xIII16s16xI2xH")
_NID = 32
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_PLAIN, _INLINE, _CHUNKED = 1, 1 | 2 << 1, 1 | 4 << 1
_INDEXES, _BITS = 0x20, 0x1F
_DIRENT = struct.Struct("<QHBx")
_CHUNK = struct.Struct("<HHI")
_XATTR = struct.Struct("<BBH")
_XATTR_HEADER = 12
_SPACES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_LINK_MAX = 4095


class Inode(NamedTuple):
    """One inode. ``at`` is where in the file it begins, ``xattr_size`` the bytes of xattrs behind its 64."""

    at: int
    layout: int
    xattr_size: int
    mode: int
    size: int
    value: int
    uid: int
    gid: int
    seconds: int
    nanoseconds: int
    links: int


class Extent(NamedTuple):
    """A part of a file: ``length`` bytes from ``offset`` of a device, which is counted from 0; -1 for a hole."""

    device: int
    offset: int
    length: int


def damaged(what: str) -> OSError:
    """The error for metadata that cannot be what was written."""
    return OSError(errno.EIO, f"damaged metadata: {what}")


class ErofsReader:
    """An image's metadata, from an open file, which it does not own. Many threads may use it."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if size < _SUPER_AT + 128:
            raise damaged("too short")
        self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        self._size = size
        self.inode = lru_cache(maxsize=4096)(self._inode)
        self._block = lru_cache(maxsize=1024)(self._read_block)
        try:
            self._read_super()
        except BaseException:
            self.close()
            raise

    def _read_super(self) -> None:
        fields = _SUPER.unpack_from(self._map, _SUPER_AT)
        magic, block_bits, root, self.inodes, self.blocks, meta, xattrs, self.uuid, features, self.device_count = fields
        if magic != _MAGIC or block_bits != 9 or features & ~_FEATURES:
            raise damaged("not an image of ours")
        if self.blocks * BLOCK > self._size:
            raise damaged("it is cut")
        self._meta, self._xattrs_at = meta * BLOCK, xattrs * BLOCK
        self.root = root
        if self.inode(root).mode & S_IFMT != S_IFDIR:
            raise damaged("its root is no directory")

    def close(self) -> None:
        """Give back the memory."""
        self._map.close()

    def _inode(self, nid: int) -> Inode:
        at = self._meta + nid * _NID
        if not 0 <= at <= self._size - _INODE.size:
            raise damaged("an inode outside of it")
        layout, count, mode, _, size, value, _, uid, gid, seconds, nanoseconds, links = _INODE.unpack_from(
            self._map, at
        )
        xattr_size = _XATTR_HEADER + (count - 1) * 4 if count else 0
        if layout not in (_PLAIN, _INLINE, _CHUNKED) or size >= 1 << 63 or nanoseconds >= 1_000_000_000:
            raise damaged("an inode of an unknown form")
        if at + _INODE.size + xattr_size > self._size:
            raise damaged("an inode that goes beyond it")
        return Inode(at, layout, xattr_size, mode, size, value, uid, gid, seconds, nanoseconds, links)

    # -- directories

    def lookup(self, nid: int, name: bytes) -> int:
        """The nid that a name in a directory stands for, ``.`` and ``..`` too; 0 for none."""
        start, count, size = self._directory(nid)
        low, high = 0, count - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._first_name(start, middle, size) <= name:
                low = middle
            else:
                high = middle - 1
        return next((found for entry, found, _ in self._block(start, low, size) if entry == name), 0)

    def list(self, nid: int, after: int) -> Iterator[tuple[int, bytes, int, int]]:
        """The dirents of a directory behind the position ``after`` (0: all): position, name, nid, file type."""
        start, count, size = self._directory(nid)
        number, skip = divmod(after, DIRENTS_MAX)
        for block in range(number, count):
            for index, (name, found, file_type) in enumerate(self._block(start, block, size)):
                if index >= skip:
                    yield block * DIRENTS_MAX + index + 1, name, found, file_type
            skip = 0

    def _directory(self, nid: int) -> tuple[int, int, int]:
        """Where the blocks of a directory begin, how many they are, and the bytes they hold."""
        inode = self.inode(nid)
        if inode.mode & S_IFMT != S_IFDIR:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        start = inode.value * BLOCK
        if inode.layout != _PLAIN or not inode.size or start + inode.size > self._size:
            raise damaged("a directory outside of it")
        return start, -(-inode.size // BLOCK), inode.size

    def _first_name(self, start: int, number: int, size: int) -> bytes:
        return self._block(start, number, size)[0][0]

    def _read_block(self, start: int, number: int, size: int) -> tuple[tuple[bytes, int, int], ...]:
        """The dirents of one block: name, nid, file type."""
        at = start + number * BLOCK
        data = self._map[at : start + min(size, (number + 1) * BLOCK)]
        if len(data) < _DIRENT.size:
            raise damaged("a cut directory")
        names_at = _DIRENT.unpack_from(data)[1]
        if not names_at or names_at % _DIRENT.size or names_at > len(data):
            raise damaged("a directory block without order")
        dirents = list(_DIRENT.iter_unpack(data[:names_at]))
        ends = [dirent[1] for dirent in dirents[1:]]
        found = []
        for (nid, name_at, file_type), end in zip(dirents, [*ends, len(data)], strict=True):
            if not names_at <= name_at <= end <= len(data):
                raise damaged("a name outside of its directory")
            found.append((data[name_at:end].partition(b"\0")[0], nid, file_type))
        return tuple(found)

    # -- what is behind an inode

    def link(self, nid: int) -> bytes:
        """The target of a symbolic link."""
        inode = self.inode(nid)
        if inode.mode & S_IFMT != S_IFLNK:
            raise OSError(errno.EINVAL, "not a link")
        at = inode.value * BLOCK if inode.layout == _PLAIN else inode.at + _INODE.size + inode.xattr_size
        if inode.layout == _CHUNKED or inode.size > _LINK_MAX or at + inode.size > self._size:
            raise damaged("a link outside of it")
        return self._map[at : at + inode.size]

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        """The extended attributes of a file."""
        inode = self.inode(nid)
        if not inode.xattr_size:
            return {}
        at = inode.at + _INODE.size
        end = at + inode.xattr_size
        shared = self._map[at + 4]
        at += _XATTR_HEADER
        if at + shared * 4 > end:
            raise damaged("xattrs that go beyond their inode")
        found = {}
        for number in struct.unpack_from(f"<{shared}I", self._map, at):
            name, value, _ = self._xattr(self._xattrs_at + number * 4, self._size)
            found[name] = value
        at += shared * 4
        while at < end:
            name, value, at = self._xattr(at, end)
            found[name] = value
        return found

    def _xattr(self, at: int, end: int) -> tuple[bytes, bytes, int]:
        """The xattr at a place, and where the next one is."""
        if at + _XATTR.size > end:
            raise damaged("an xattr outside of it")
        name_size, space, value_size = _XATTR.unpack_from(self._map, at)
        at += _XATTR.size
        if space not in _SPACES or at + name_size + value_size > end:
            raise damaged("an xattr outside of it")
        name = _SPACES[space] + self._map[at : at + name_size]
        value = self._map[at + name_size : at + name_size + value_size]
        return name, value, at + name_size + value_size + -(_XATTR.size + name_size + value_size) % 4

    # -- content

    def extents(self, nid: int, offset: int, length: int) -> Iterator[Extent]:
        """Where a part of a regular file is, cut at its end."""
        inode = self.inode(nid)
        length = min(length, inode.size - offset)
        if length <= 0:
            return
        bits, indexes = self._chunks(inode)
        while length:
            number = offset >> bits
            within = offset - (number << bits)
            count = min(length, (1 << bits) - within)
            _, device, block = _CHUNK.unpack_from(self._map, indexes + number * _CHUNK.size)
            if block == HOLE:
                yield Extent(-1, 0, count)
            elif 1 <= device <= self.device_count:
                yield Extent(device - 1, block * BLOCK + within, count)
            else:
                raise damaged("a device that is not there")
            offset += count
            length -= count

    def seek(self, nid: int, offset: int, *, hole: bool) -> int:
        """Where the next data, or the next hole, begins at or behind ``offset``. OSError (ENXIO) behind the end."""
        inode = self.inode(nid)
        if not 0 <= offset < inode.size:
            raise OSError(errno.ENXIO, "behind the end")
        bits, indexes = self._chunks(inode)
        for number in range(offset >> bits, (inode.size - 1 >> bits) + 1):
            _, _, block = _CHUNK.unpack_from(self._map, indexes + number * _CHUNK.size)
            if (block == HOLE) == hole:
                return max(offset, number << bits)
        if hole:
            return inode.size
        raise OSError(errno.ENXIO, "no more data")

    def blocks_of(self, nid: int) -> int:
        """How many blocks of 512 bytes of a file hold data."""
        inode = self.inode(nid)
        if inode.layout != _CHUNKED or not inode.size:
            return -(-inode.size // BLOCK)
        bits, indexes = self._chunks(inode)
        count = (inode.size - 1 >> bits) + 1
        holes = memoryview(self._map[indexes : indexes + count * _CHUNK.size]).cast("I")[1::2].tolist().count(HOLE)
        return -(-inode.size // BLOCK) if not holes else (count - holes) << (bits - 9)

    def _chunks(self, inode: Inode) -> tuple[int, int]:
        """The size of a file's chunks, as a power of two, and where the index of the first is."""
        if inode.mode & S_IFMT != S_IFREG or inode.layout != _CHUNKED or not inode.value & _INDEXES:
            raise damaged("a file without chunks")
        bits = (inode.value & _BITS) + 9
        indexes = inode.at + _INODE.size + inode.xattr_size
        indexes += -indexes % _CHUNK.size
        if indexes + ((inode.size - 1 >> bits) + 1) * _CHUNK.size > self._size:
            raise damaged("a file with more chunks than there are")
        return bits, indexes


class Devices:
    """The files that content is in, opened for reading; they are closed with it."""

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = list(fds)

    def read(self, reader: ErofsReader, nid: int, offset: int, length: int) -> list[bytes]:
        """A part of a file, in pieces. OSError (EIO) when a device is shorter than it has to be."""
        pieces = []
        for device, start, count in reader.extents(nid, offset, length):
            if device < 0:
                pieces.append(bytes(count))
                continue
            if device >= len(self._fds):
                raise damaged("a device that is not there")
            data = os.pread(self._fds[device], count, start)
            while len(data) < count:
                more = os.pread(self._fds[device], count - len(data), start + len(data))
                if not more:
                    raise OSError(errno.EIO, "a layer's tar is shorter than it was")
                data += more
            pieces.append(data)
        return pieces
