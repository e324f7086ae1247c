"""System calls handed to another process before they happen: seccomp(2) with user notifications, Linux 5.5 and later.

``install`` makes chosen calls of this process, of its threads and of its children wait; whoever has the descriptor that
it returns takes them one at a time and says what becomes of each. Facts: seccomp_unotify(2), and the kernel's tables of
system calls for the two architectures known here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCH_AT = 0, 4
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1

_ARCHES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}
"""Of each machine: the column in the table below, its AUDIT_ARCH, and the number of seccomp(2)."""

_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "write": (1, 64),
    "pwrite64": (18, 68),
    "writev": (20, 66),
    "pwritev": (296, 70),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "syncfs": (306, 267),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
}


def numbers(names: Iterable[str]) -> dict[int, str]:
    """The calls of these names that this machine has, by number. KeyError for a name that is not in the table."""
    column = _ARCHES[platform.machine()][0]
    return {number: name for name in names if (number := _NUMBERS[name][column]) is not None}


@dataclass(frozen=True, slots=True)
class Notification:
    """One call that waits: its ``id``, the thread that makes it, its number and its six arguments."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


def install(calls: Iterable[int]) -> int:
    """Make these calls wait from now on, for good, here and in every child; return the descriptor to serve them by.

    Raises OSError: ENOSYS on a machine that is not known here, EBUSY when such a filter is there already.
    """
    if platform.machine() not in _ARCHES or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"the system calls of {platform.machine()} are not known")
    _, arch, seccomp = _ARCHES[platform.machine()]
    code = _program(sorted(calls), arch)
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(2):
        fd = libc.syscall(ctypes.c_long(seccomp), _SET_MODE_FILTER, _NEW_LISTENER, header)
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() != errno.EACCES:
            break
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # what those who are not root have to give up first
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(calls: list[int], arch: int) -> bytes:
    """BPF: other architectures and other calls go on, these wait."""
    size = len(calls)
    lines = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_IF_EQUAL, 0, size + 1, arch), (_LOAD, 0, 0, _NUMBER_AT)]
    lines += [(_JUMP_IF_EQUAL, size - n, 0, call) for n, call in enumerate(calls)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def receive(listener: int) -> Notification | None:
    """The next call that waits; None if its thread has died meanwhile. Blocks until there is one."""
    buffer = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except FileNotFoundError:
        return None
    id, thread, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", buffer)
    return Notification(id, thread, number, tuple(arguments))


def answer(listener: int, notification: Notification, error: int = 0) -> None:
    """Let the call happen, or with an ``error`` (an errno) make it fail without happening."""
    reply = struct.pack("QqiI", notification.id, 0, -error, 0 if error else _CONTINUE)
    try:
        fcntl.ioctl(listener, _SEND, reply)
    except FileNotFoundError:
        return  # the thread is gone
