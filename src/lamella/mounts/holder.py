"""The process that keeps an overlay alive in a user namespace of its own, for callers who may not mount.

Started by the driver ``userns`` as a fresh interpreter, never by a fork of the caller, which may have threads. It
reads its orders from standard input and answers on standard output: ``ok`` and a process id, or an error number, the
step that failed and the reason, with NUL bytes between. Then it lets go of everything and waits to be ended.
Imports next to nothing, because it stays in memory for as long as the mount.
"""

from __future__ import annotations

import os
import signal
import sys

from lamella._sys import syscalls
from lamella.mounts import _overlayfs


def main() -> None:
    """Do what the command line asks for: ``mount TARGET`` or ``unmount TARGET PID STARTED``."""
    action, target = sys.argv[1], os.fsencode(sys.argv[2])
    try:
        if action == "mount":
            _stay_behind()
            _mount(target, sys.stdin.buffer.read().split(b"\0"))
        else:
            _unmount(target, int(sys.argv[3]), sys.argv[4])
    except _StepError as error:
        os.write(1, error.answer)
        return
    if action == "mount":
        _wait()
    os.write(1, b"ok\0%d" % os.getpid())


class _StepError(Exception):
    """A failed system call and the step that it was part of."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error)
        self.answer = b"%d\0%s\0%s" % (error.errno or 0, step.encode(), os.fsencode(error.strerror or str(error)))


def _stay_behind() -> None:
    """Go on in a process that belongs to nobody who would have to wait for it, and that no terminal ends."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _wait() -> None:
    """Let go of everything, say so, and wait to be ended."""
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 2)
    os.close(nothing)
    os.write(1, b"ok\0%d" % os.getpid())  # a caller that died meanwhile ends this process here, by SIGPIPE
    os.dup2(0, 1)
    while True:
        signal.pause()


def _mount(target: bytes, orders: list[bytes]) -> None:
    volatile, upper, work, *lowers = orders
    try:
        _enter_new_namespace()
    except OSError as error:
        raise _StepError("namespace", error) from error
    try:
        _overlayfs.attach(target, lowers, upper or None, work or None, userxattr=True, volatile=volatile == b"volatile")
    except OSError as error:
        raise _StepError("mount", error) from error


def _enter_new_namespace() -> None:
    """A user namespace in which the caller is root, alone, and a mount namespace of it."""
    user, group = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {user} 1")
    _write("/proc/self/gid_map", f"0 {group} 1")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _unmount(target: bytes, pid: int, started: str) -> None:
    try:
        namespaces = [
            (os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC), syscalls.CLONE_NEWUSER),
            (os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), syscalls.CLONE_NEWNS),
        ]
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
        if text[text.rindex(b")") + 2 :].split()[19] != started.encode():
            raise ProcessLookupError(3, "the process is gone")
        for fd, kind in namespaces:
            syscalls.setns(fd, kind)
    except OSError as error:
        raise _StepError("namespace", error) from error
    try:
        syscalls.umount2(target, syscalls.UMOUNT_NOFOLLOW)
    except OSError as error:
        raise _StepError("unmount", error) from error
