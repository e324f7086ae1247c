"""Bind mounts, with system calls only."""

from __future__ import annotations

import os

from lamella._sys import syscalls

# Bits that mount(2) and statvfs(2) share: nosuid, nodev, noexec, noatime, nodiratime. A remount has to repeat them.
_KEPT = 2 | 4 | 8 | 1024 | 2048


def bind(source: bytes, target: bytes, *, read_only: bool) -> None:
    """Show the directory ``source`` at ``target`` too. All or nothing; OSError."""
    syscalls.mount(source, target, None, syscalls.MS_BIND, None)
    if not read_only:
        return
    try:
        flags = os.statvfs(target).f_flag & _KEPT | syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
        syscalls.mount(b"none", target, None, flags, None)
    except OSError:
        syscalls.umount2(target, syscalls.MNT_DETACH)
        raise
