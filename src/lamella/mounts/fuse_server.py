"""The process that serves an image to the kernel over FUSE, read-only, for as long as it is mounted.

Started by the driver ``fuse`` as a fresh interpreter, with the connection as an open file. It reads the places of the
metadata and of the devices from standard input, answers on standard output (``ok`` and a process id, or an error
number and the reason, with NUL bytes between), lets go of everything and serves until the image is unmounted.
It speaks the kernel's protocol itself (``linux/fuse.h``, 7.23 to 7.31, fuse(4)), and so sees inodes: the names of a
hard link are one file to the kernel, with one page cache, and next to nothing stands between the kernel and the
metadata. What the kernel was told stays true for ever, so it may keep all of it.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from functools import lru_cache

from lamella.mounts._erofs_reader import BLOCK, Devices, ErofsReader, Inode

_MAJOR, _MINOR = 7, 31
_THREADS = 2
_BUFFER = 64 << 10
_MAX_WRITE = 4096
_MAX_PAGES = 256
_FOREVER = 1 << 40
"""Seconds for which the kernel may remember names and attributes."""

_ROOT = 1
_LOOKUP, _FORGET, _GETATTR, _READLINK, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
_GETXATTR, _LISTXATTR, _INIT, _OPENDIR, _READDIR, _INTERRUPT, _DESTROY = 22, 23, 26, 27, 28, 36, 38
_IOCTL, _BATCH_FORGET, _READDIRPLUS, _LSEEK = 39, 42, 44, 46
_UNANSWERED = frozenset({_FORGET, _BATCH_FORGET, _INTERRUPT})

_ASYNC_READ, _EXPORT, _BIG_WRITES, _READDIRPLUS_FLAG, _PARALLEL = 1, 1 << 4, 1 << 5, 1 << 13, 1 << 18
_ACLS, _MAX_PAGES_FLAG, _CACHE_LINKS, _NO_OPENDIR = 1 << 20, 1 << 22, 1 << 23, 1 << 24
# Without READDIRPLUS_AUTO, which brings the attributes of the first names of a directory only: the rest of a large one
# would be asked for one by one.
_WANTED = (
    _ASYNC_READ | _EXPORT | _BIG_WRITES | _READDIRPLUS_FLAG | _PARALLEL | _ACLS
    | _MAX_PAGES_FLAG | _CACHE_LINKS | _NO_OPENDIR
)  # fmt: skip

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_READ_IN = struct.Struct("<QQI")
_LSEEK_IN = struct.Struct("<QQI")
_XATTR_IN = struct.Struct("<I4x")
_SIZE = struct.Struct("<I4x")
_ATTR = "QQQqqqIIIIIIIIII"
_ATTR_OUT = struct.Struct("<QII" + _ATTR)
_ENTRY_OUT = struct.Struct("<QQQQII" + _ATTR)
_DIRENT = struct.Struct("<QQII")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_OFFSET_OUT = struct.Struct("<Q")
_XATTR_NAMES_MAX = 64 << 10
_TYPES = {1: 8, 2: 4, 3: 2, 4: 6, 5: 1, 6: 12, 7: 10}
"""From the file types of EROFS to those of readdir(3)."""
_SEEK_DATA, _SEEK_HOLE = 3, 4


class ImageServer:
    """Answers requests from an image's metadata and devices. ``owner``: whose all files are, if not the image's."""

    def __init__(self, reader: ErofsReader, devices: Devices, owner: tuple[int, int] | None = None) -> None:
        self._reader, self._devices, self._owner = reader, devices, owner
        self._root = reader.root
        self._generation = int.from_bytes(reader.uuid[:4], "little")
        self._xattrs = lru_cache(maxsize=256)(reader.xattrs)
        self._answers: dict[int, Callable[[int, bytes], int | bytes | list[bytes]]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: self._getattr,
            _READLINK: lambda nid, _: reader.link(nid),
            _READ: self._read,
            _STATFS: self._statfs,
            _GETXATTR: self._getxattr,
            _LISTXATTR: self._listxattr,
            _READDIR: self._readdir,
            _READDIRPLUS: self._readdirplus,
            _LSEEK: self._lseek,
            _RELEASE: lambda nid, _: b"",
            _DESTROY: lambda nid, _: b"",
        }

    def serve(self, connection: int) -> None:
        """Answer until the image is unmounted. Any number of threads may do so at once."""
        while True:
            try:
                request = os.read(connection, _BUFFER)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            if not request:
                return
            _, opcode, unique, node, _, _, _, _ = _IN.unpack_from(request)
            if opcode not in _UNANSWERED:
                self._reply(connection, unique, self.answer(opcode, node, request[_IN.size :]))

    @staticmethod
    def _reply(connection: int, unique: int, answer: int | bytes | list[bytes]) -> None:
        try:
            if isinstance(answer, int):
                os.write(connection, _OUT.pack(_OUT.size, -answer, unique))
            elif isinstance(answer, bytes):
                os.write(connection, _OUT.pack(_OUT.size + len(answer), 0, unique) + answer)
            else:
                size = _OUT.size + sum(map(len, answer))
                os.writev(connection, [_OUT.pack(size, 0, unique), *answer])
        except OSError as error:
            if error.errno != errno.ENOENT:  # whoever asked has been killed, and no answer is wanted
                raise

    def answer(self, opcode: int, node: int, body: bytes) -> int | bytes | list[bytes]:
        """The answer to one request: its bytes, in one or more pieces, or the number of an error."""
        act = self._answers.get(opcode)
        if act is None:
            # Of opening too: then the kernel opens and closes files by itself. Overlays ask for flags by ioctl.
            return errno.ENOTTY if opcode == _IOCTL else errno.ENOSYS
        try:
            return act(self._root if node == _ROOT else node, body)
        except OSError as error:
            return error.errno or errno.EIO
        except (struct.error, ValueError, IndexError):
            return errno.EIO

    # -- one by one

    def _init(self, _: int, body: bytes) -> bytes:
        _, minor, readahead, offered = _INIT_IN.unpack_from(body)
        return _INIT_OUT.pack(
            _MAJOR, min(minor, _MINOR), readahead, offered & _WANTED, 16, 12, _MAX_WRITE, 1, _MAX_PAGES, 0, 0
        )

    def _attributes(self, nid: int, inode: Inode) -> tuple[int, ...]:
        _, _, _, mode, size, value, uid, gid, seconds, nanoseconds, links = inode
        if self._owner is not None:
            uid, gid = self._owner
        kind = mode & 0o170000
        device = value if kind in (0o020000, 0o060000) else 0
        blocks = self._reader.blocks_of(nid) if kind == 0o100000 else -(-size // BLOCK)
        return (
            nid, size, blocks, seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds, mode, links, uid, gid,
            device, 4096, 0,
        )  # fmt: skip

    def _entry(self, nid: int) -> bytes:
        node = _ROOT if nid == self._root else nid
        attributes = self._attributes(nid, self._reader.inode(nid))
        return _ENTRY_OUT.pack(node, self._generation, _FOREVER, _FOREVER, 0, 0, *attributes)

    def _lookup(self, nid: int, body: bytes) -> bytes:
        name = body[: body.index(0)]
        if name == b".":  # a file handle is being opened
            return self._entry(nid)
        found = self._reader.lookup(nid, name)
        if not found:
            return _ENTRY_OUT.pack(0, 0, _FOREVER, 0, *(0,) * 18)
        return self._entry(found)

    def _getattr(self, nid: int, _: bytes) -> bytes:
        return _ATTR_OUT.pack(_FOREVER, 0, 0, *self._attributes(nid, self._reader.inode(nid)))

    def _read(self, nid: int, body: bytes) -> list[bytes]:
        _, offset, size = _READ_IN.unpack_from(body)
        return self._devices.read(self._reader, nid, offset, size)

    def _statfs(self, _: int, __: bytes) -> bytes:
        return _STATFS_OUT.pack(self._reader.blocks, 0, 0, self._reader.inodes, 0, BLOCK, 255, BLOCK, 0)

    def _getxattr(self, nid: int, body: bytes) -> bytes | int:
        (size,) = _XATTR_IN.unpack_from(body)
        name = body[_XATTR_IN.size : body.index(0, _XATTR_IN.size)]
        value = self._xattrs(nid).get(name)
        return (
            errno.ENODATA if value is None else _sized(value, size)
        )  # overlays ask every file for one that it has not

    def _listxattr(self, nid: int, body: bytes) -> bytes:
        (size,) = _XATTR_IN.unpack_from(body)
        names = b"".join(name + b"\0" for name in self._xattrs(nid))
        return _sized(names, size)

    def _readdir(self, nid: int, body: bytes) -> bytes:
        _, offset, size = _READ_IN.unpack_from(body)
        out = bytearray()
        for position, name, found, file_type in self._reader.list(nid, offset):
            padded = -(-len(name) // 8) * 8
            if len(out) + _DIRENT.size + padded > size:
                break
            out += _DIRENT.pack(found, position, len(name), _TYPES.get(file_type, 0)) + name.ljust(padded, b"\0")
        return bytes(out)

    def _readdirplus(self, nid: int, body: bytes) -> bytes:
        _, offset, size = _READ_IN.unpack_from(body)
        out = bytearray()
        for position, name, found, file_type in self._reader.list(nid, offset):
            padded = -(-len(name) // 8) * 8
            if len(out) + _ENTRY_OUT.size + _DIRENT.size + padded > size:
                break
            # These two are in the kernel's hands already; no node: nothing is told about them.
            out += bytes(_ENTRY_OUT.size) if name in (b".", b"..") else self._entry(found)
            out += _DIRENT.pack(found, position, len(name), _TYPES.get(file_type, 0)) + name.ljust(padded, b"\0")
        return bytes(out)

    def _lseek(self, nid: int, body: bytes) -> bytes:
        _, offset, whence = _LSEEK_IN.unpack_from(body)
        if whence not in (_SEEK_DATA, _SEEK_HOLE):
            raise OSError(errno.EINVAL, "an unknown way to seek")
        return _OFFSET_OUT.pack(self._reader.seek(nid, offset, hole=whence == _SEEK_HOLE))


def _sized(value: bytes, room: int) -> bytes:
    """An answer about xattrs: how long it is, when no room was offered for it, else itself."""
    if not room:
        return _SIZE.pack(len(value))
    if len(value) > room:
        raise OSError(errno.ERANGE, "does not fit")
    return value


def main() -> None:
    """Serve what standard input names on the connection that the command line names: ``CONNECTION AT DEVICE``.

    The rest of the command line is for those who look for the process.
    """
    connection = int(sys.argv[1])
    metadata, *devices = sys.stdin.buffer.read().split(b"\0")
    try:
        fd = os.open(metadata, os.O_RDONLY | os.O_CLOEXEC)
        reader = ErofsReader(fd)
        os.close(fd)
        content = Devices([os.open(device, os.O_RDONLY | os.O_CLOEXEC) for device in devices])
    except OSError as error:
        os.write(1, b"%d\0%s" % (error.errno or 0, os.fsencode(error.strerror or str(error))))
        return
    owner = None if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    server = ImageServer(reader, content, owner)
    _stay_behind()
    _let_go()
    for _ in range(_THREADS - 1):
        threading.Thread(target=_serve, args=(server, connection), daemon=True).start()
    _serve(server, connection)


def _serve(server: ImageServer, connection: int) -> None:
    """Serve, and end the process with the first of its threads that ends, be it by a fault.

    With the process goes the connection, and whoever waits for an answer is told; he would wait for ever otherwise.
    """
    try:
        server.serve(connection)
    finally:
        os._exit(0)


def _stay_behind() -> None:
    """Go on in a process that belongs to nobody who would have to wait for it, and that no terminal ends."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _let_go() -> None:
    """Say that all is well, and hold on to nothing else. Should nobody listen, the mount is still there to be ended."""
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 2)
    os.write(1, b"ok\0%d" % os.getpid())
    os.dup2(nothing, 1)
    os.close(nothing)
