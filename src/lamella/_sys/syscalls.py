"""System calls that Python does not wrap: openat2, the mount API, renameat2, unshare, syncfs, FICLONE.

Every function raises OSError on failure and nothing else; where the kernel explains itself through a file system
context, its words are part of ``OSError.strerror``. ENOSYS means that the kernel, or this architecture's table below,
lacks the call. Descriptors that are returned belong to the caller and close on exec. Paths are bytes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys

AT_FDCWD = -100

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MS_RDONLY = 1
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 1

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

FICLONE = 0x40049409

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

_SYNC_FILE_RANGE_WRITE = 2

_SET_FLAG, _SET_STRING, _SET_FD, _CMD_CREATE = 0, 1, 5, 6

# Calls from 424 on have one number on every architecture; the older renameat2 does not.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2 = 429, 430, 431, 432, 437
_MACHINE = os.uname().machine
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "loongarch64": 276, "ppc64le": 357, "s390x": 347}
_SUPPORTED = sys.maxsize > 2**32 and _MACHINE in _RENAMEAT2

_libc = ctypes.CDLL(None, use_errno=True)
_long = ctypes.c_long
_libc.syscall.restype = _long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _fail(subject: bytes = b"", detail: str = "") -> OSError:
    number = ctypes.get_errno()
    text = os.strerror(number)
    error = OSError(number, f"{text}: {detail}" if detail else text)
    if subject:
        error.filename = os.fsdecode(subject)
    return error


def _require_table() -> None:
    if not _SUPPORTED:
        raise OSError(errno.ENOSYS, f"the system calls of {_MACHINE} are not known")


def _call(number: int, *arguments: int | bytes | None, subject: bytes = b"") -> int:
    _require_table()
    result: int = _libc.syscall(_long(number), *(_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise _fail(subject)
    return result


def openat2(dir_fd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open ``path`` relative to ``dir_fd`` under the RESOLVE_* restrictions; retried while the kernel says EAGAIN.

    EXDEV: the path would leave the directory (BENEATH) or cross a mount (NO_XDEV). ELOOP: a link where none may be.
    """
    if b"\0" in path:
        raise OSError(errno.EINVAL, "the path contains a NUL byte")
    creating = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode if creating else 0, resolve)
    _require_table()
    for _ in range(1000):
        result: int = _libc.syscall(_long(_OPENAT2), _long(dir_fd), path, how, _long(len(how)))
        if result >= 0:
            return result
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise _fail(path)


def fsopen(fs_type: str) -> int:
    """A new, unconfigured file system context."""
    return _call(_FSOPEN, fs_type.encode(), _FSOPEN_CLOEXEC)


def fs_messages(context: int) -> list[str]:
    """Take what the kernel has said through the context so far, oldest first, without the severity letter."""
    messages: list[str] = []
    while True:
        try:
            text = os.read(context, 4096)
        except OSError:  # ENODATA: nothing more
            return messages
        if not text:
            return messages
        messages.append(text.decode("utf-8", "backslashreplace").strip()[2:])


def _fsconfig(context: int, command: int, key: str | None, value: bytes | None, aux: int) -> None:
    _require_table()
    name = None if key is None else key.encode()
    if _libc.syscall(_long(_FSCONFIG), _long(context), _long(command), name, value, _long(aux)) < 0:
        number = ctypes.get_errno()
        detail = "; ".join(fs_messages(context))
        ctypes.set_errno(number)
        raise _fail(detail=detail)


def fsconfig_set_flag(context: int, key: str) -> None:
    """Set an option that has no value."""
    _fsconfig(context, _SET_FLAG, key, None, 0)


def fsconfig_set_string(context: int, key: str, value: bytes) -> None:
    """Set an option to a string of at most 255 bytes (EINVAL beyond)."""
    _fsconfig(context, _SET_STRING, key, value, 0)


def fsconfig_set_fd(context: int, key: str, fd: int) -> None:
    """Set an option to an open file; the context keeps its own reference."""
    _fsconfig(context, _SET_FD, key, None, fd)


def fsconfig_create(context: int) -> None:
    """Make the superblock that the options describe."""
    _fsconfig(context, _CMD_CREATE, None, None, 0)


def fsmount(context: int, attributes: int = 0) -> int:
    """A detached mount of the created superblock, gone with its last descriptor unless it is moved to a place."""
    return _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)


def move_mount(mount_fd: int, target: bytes) -> None:
    """Attach a detached mount at ``target`` (the last component is not followed when it is a link)."""
    _call(_MOVE_MOUNT, mount_fd, b"", AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH, subject=target)


def move_mount_fd(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount at the directory that ``target_fd`` is open on."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _call(_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags)


def mount(source: bytes, target: bytes, fs_type: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2). The kernel copies at most one page of ``data`` and cuts the rest off without saying so."""
    if _libc.mount(source, target, fs_type, flags, data) != 0:
        raise _fail(target)


def umount2(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(target, flags) != 0:
        raise _fail(target)


def unshare(flags: int) -> None:
    """unshare(2): CLONE_NEWUSER is EINVAL in a process of several threads."""
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        raise _fail()


def setns(fd: int, kind: int) -> None:
    """setns(2): move this thread into the namespace behind a descriptor of /proc/<pid>/ns, of a CLONE_NEW* kind."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)) != 0:
        raise _fail()


def sync_file_range(fd: int, offset: int, size: int) -> None:
    """Begin writing the bytes of a file that are not on its disk yet, without waiting for them to be there."""
    if _libc.sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE) != 0:
        raise _fail()


def syncfs(fd: int) -> None:
    """Write everything of the file system that ``fd`` lies on to its device, and wait for it."""
    if _libc.syncfs(ctypes.c_int(fd)) != 0:
        raise _fail()


def renameat2(old: bytes, new: bytes, flags: int, *, old_dir_fd: int = AT_FDCWD, new_dir_fd: int = AT_FDCWD) -> None:
    """rename with RENAME_NOREPLACE (EEXIST when ``new`` is there) or RENAME_EXCHANGE (both change places at once)."""
    if b"\0" in old or b"\0" in new:
        raise OSError(errno.EINVAL, "the path contains a NUL byte")
    _call(_RENAMEAT2.get(_MACHINE, 0), old_dir_fd, old, new_dir_fd, new, flags, subject=new)


def clone_file(source_fd: int, target_fd: int) -> None:
    """Make the target share all of the source's blocks (FICLONE): EOPNOTSUPP, EXDEV or EINVAL where that cannot be."""
    fcntl.ioctl(target_fd, FICLONE, source_fd)
