"""The act of mounting EROFS, with system calls only.

Files are mounted directly where the kernel can (6.12, and the file system they are on), else through loop devices,
which end with the mount. Raises OSError with the kernel's own words.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack

from lamella._sys import syscalls

_STRING_MAX = 255

# linux/loop.h; struct loop_config is the descriptor, the block size, and a struct loop_info64 with the flags in it.
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LOOP_CONFIG = struct.Struct("<II52xI240x")
_READ_ONLY, _AUTOCLEAR = 1, 4
_LOOP_ATTEMPTS = 64


def attach(target: bytes, metadata: bytes, devices: Sequence[bytes], *, loops: bool = False) -> None:
    """Mount an image at ``target``, read-only. ``loops``: through loop devices only."""
    if not loops:
        try:
            _attach(target, metadata, devices)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTBLK, errno.EINVAL):  # what kernels say who want a block device
                raise
            refused = error
    with ExitStack() as opened:
        try:
            names = [_loop(path, opened) for path in (metadata, *devices)]
        except OSError as error:
            if loops:
                raise
            raise refused from error
        _attach(target, names[0], names[1:])


def _attach(target: bytes, metadata: bytes, devices: Sequence[bytes]) -> None:
    context = syscalls.fsopen("erofs")
    try:
        syscalls.fsconfig_set_flag(context, "ro")
        with ExitStack() as opened:
            syscalls.fsconfig_set_string(context, "source", _short(metadata, opened))
            for device in devices:
                syscalls.fsconfig_set_string(context, "device", _short(device, opened))
            syscalls.fsconfig_create(context)
        mount_fd = syscalls.fsmount(context, syscalls.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)
    try:
        syscalls.move_mount(mount_fd, target)
    finally:
        os.close(mount_fd)


def _short(path: bytes, opened: ExitStack) -> bytes:
    """A name that fits what the kernel takes, valid while ``opened`` is."""
    if len(path) <= _STRING_MAX:
        return path
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return b"/proc/self/fd/%d" % fd


def _loop(path: bytes, opened: ExitStack) -> bytes:
    """A loop device over a file, gone when neither ``opened`` nor a mount has it any more."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_LOOP_ATTEMPTS):
                name = b"/dev/loop%d" % fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
                device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(device, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(file, 0, _READ_ONLY | _AUTOCLEAR))
                except OSError as error:
                    os.close(device)
                    if error.errno != errno.EBUSY:  # somebody else took it meanwhile
                        raise
                    continue
                opened.callback(os.close, device)
                return name
            raise OSError(errno.EBUSY, "no free loop device")
        finally:
            os.close(control)
    finally:
        os.close(file)
