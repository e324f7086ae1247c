"""The act of mounting overlayfs, with system calls only: shared by the driver and by the holder in a user namespace.

Raises OSError with the kernel's own words. Imports next to nothing, because the holder stays in memory.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterable, Sequence

from lamella._sys import syscalls
from lamella.mounts._bind import bind

PAGE = 4096
SOURCE = b"lamella"

# Redirects, metacopies and indexes in a tree are never followed: a layer comes from outside, and what a tree says must
# not depend on what else is mounted. uuid=null keeps the kernel from writing trusted.overlay.uuid into the upper.
_OPTIONS = {"redirect_dir": b"nofollow", "metacopy": b"off", "index": b"off", "xino": b"off", "uuid": b"null"}
_PARAMETERS = {"redirect_dir": "redirect_dir", "metacopy": "metacopy", "index": "index", "xino": "xino_auto"}


@functools.cache
def interface() -> str:
    """How this kernel takes layers: ``fd`` or ``string``, one at a time, or ``classic``, in one page of options."""
    try:
        context = syscalls.fsopen("overlay")
    except OSError:
        return "classic"
    try:
        if _accepts(syscalls.fsconfig_set_flag, context, "lamella-no-such-option"):
            return "classic"  # before 6.5 the context takes any word and only complains at the end
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            if _accepts(syscalls.fsconfig_set_fd, context, "lowerdir+", root):
                return "fd"
        finally:
            os.close(root)
        return "string" if _accepts(syscalls.fsconfig_set_string, context, "lowerdir+", b"/") else "classic"
    finally:
        os.close(context)


def _accepts(function: Callable[..., None], *arguments: object) -> bool:
    try:
        function(*arguments)
    except OSError:
        return False
    return True


def attach(
    target: bytes,
    lowers: Sequence[bytes],
    upper: bytes | None,
    work: bytes | None,
    *,
    userxattr: bool = False,
    volatile: bool = False,
    how: str | None = None,
) -> None:
    """Mount an overlay at ``target``: ``lowers`` topmost first; read-only when ``upper`` is None.

    One lower, or none, is enough, where overlayfs alone would ask for more. ``volatile``: unmounting need not wait
    until the whole file system of the upper is on its disk; the work directory cannot be used a second time.
    ``how`` overrides ``interface()``.
    E2BIG: the names do not fit the one page that an old kernel takes.
    """
    how = how or interface()
    flags = [name for name, wanted in (("userxattr", userxattr), ("volatile", volatile)) if wanted]
    lowers = _distinct(lowers)
    needed = 2 if upper is None else 1
    with _Descriptors() as descriptors:
        empty = -1
        if len(lowers) < needed:
            if how == "classic" and len(lowers) == 1 and not _has_fsopen():
                bind(lowers[0], target, read_only=True)
                return
            empty = descriptors.add(_empty_directory())
        if how == "classic":
            _attach_classic(target, lowers, upper, work, flags, empty, descriptors)
        else:
            _attach_one_by_one(target, lowers, upper, work, flags, empty, by_fd=how == "fd")


def _distinct(lowers: Sequence[bytes]) -> list[bytes]:
    """The lowers without repetitions, which overlayfs refuses: of equal trees only the topmost one can be seen."""
    seen = set()
    result = []
    for lower in lowers:
        info = os.stat(lower)
        if (info.st_dev, info.st_ino) not in seen:
            seen.add((info.st_dev, info.st_ino))
            result.append(lower)
    return result


class _Descriptors:
    """Descriptors that are open until the mount is made."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open:
            os.close(fd)

    def add(self, fd: int) -> int:
        self._open.append(fd)
        return fd


def _has_fsopen() -> bool:
    return _accepts(lambda: os.close(syscalls.fsopen("tmpfs")))


def _empty_directory() -> int:
    """An empty directory that lies nowhere, to stand in for a missing lower: the root of a detached tmpfs."""
    context = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig_set_string(context, "size", b"4096")
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, syscalls.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def _attach_one_by_one(
    target: bytes,
    lowers: Sequence[bytes],
    upper: bytes | None,
    work: bytes | None,
    flags: Sequence[str],
    empty: int,
    *,
    by_fd: bool,
) -> None:
    context = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_set_string(context, "source", SOURCE)
        _set_options(context, flags)
        for lower in lowers:
            _set_layer(context, "lowerdir+", lower, by_fd)
        if empty >= 0:
            _set_layer_fd(context, "lowerdir+", empty, by_fd)
        if upper is not None and work is not None:
            _set_layer(context, "upperdir", upper, by_fd)
            _set_layer(context, "workdir", work, by_fd)
        else:
            syscalls.fsconfig_set_flag(context, "ro")
        syscalls.fsconfig_create(context)
        mount_fd = syscalls.fsmount(context, syscalls.MOUNT_ATTR_RDONLY if upper is None else 0)
    finally:
        os.close(context)
    try:
        _check_writable(mount_fd, upper)
        _move(mount_fd, target)
    finally:
        os.close(mount_fd)


def _check_writable(place: int | bytes, upper: bytes | None) -> None:
    """Refuse what the kernel makes, with a line in its log only, when it cannot write to the work directory."""
    if upper is not None and os.statvfs(place).f_flag & os.ST_RDONLY:
        raise OSError(errno.EACCES, "the upper and work directories cannot be written, it would be read-only")


def _move(mount_fd: int, target: bytes) -> None:
    target_fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.move_mount_fd(mount_fd, target_fd)
    finally:
        os.close(target_fd)


def _set_options(context: int, flags: Sequence[str]) -> None:
    for key, value in _OPTIONS.items():
        try:
            syscalls.fsconfig_set_string(context, key, value)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: this kernel does not know it, so it is not on either
                raise
    for flag in flags:
        syscalls.fsconfig_set_flag(context, flag)


def _set_layer(context: int, key: str, path: bytes, by_fd: bool) -> None:
    if not by_fd and len(path) < 256 and b"\\" not in path:
        syscalls.fsconfig_set_string(context, key, path)
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _set_layer_fd(context, key, fd, by_fd)
    finally:
        os.close(fd)


def _set_layer_fd(context: int, key: str, fd: int, by_fd: bool) -> None:
    if by_fd:
        syscalls.fsconfig_set_fd(context, key, fd)
    else:
        syscalls.fsconfig_set_string(context, key, b"/proc/self/fd/%d" % fd)


def _attach_classic(
    target: bytes,
    lowers: Sequence[bytes],
    upper: bytes | None,
    work: bytes | None,
    flags: Sequence[str],
    empty: int,
    descriptors: _Descriptors,
) -> None:
    tail = [] if empty < 0 else [b"/proc/self/fd/%d" % empty]
    rest = [b"%s=%s" % (key.encode(), _OPTIONS[key]) for key in _known_parameters()]
    rest += [flag.encode() for flag in flags if flag != "volatile"]  # volatile is no more than a favour, and recent
    if upper is not None and work is not None:
        rest += [b"upperdir=" + _escape(upper, b"\\,"), b"workdir=" + _escape(work, b"\\,")]
    data = _classic_data([*(_escape(lower, b"\\:,") for lower in lowers), *tail], rest)
    if len(data) >= PAGE:
        # Short names for the lowers. Not for the upper: its real name is what tells others that it is mounted.
        opened = [descriptors.add(os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) for lower in lowers]
        data = _classic_data([*(b"/proc/self/fd/%d" % fd for fd in opened), *tail], rest)
    if len(data) >= PAGE:
        text = f"the names of {len(lowers)} layers do not fit the one page of options that this kernel takes"
        raise OSError(errno.E2BIG, text)
    syscalls.mount(SOURCE, target, b"overlay", syscalls.MS_RDONLY if upper is None else 0, data)
    try:
        _check_writable(target, upper)
    except OSError:
        syscalls.umount2(target, syscalls.MNT_DETACH)
        raise


def _classic_data(lowers: Iterable[bytes], rest: Iterable[bytes]) -> bytes:
    return b",".join([b"lowerdir=" + b":".join(lowers), *rest])


def _known_parameters() -> list[str]:
    known = []
    for key, parameter in _PARAMETERS.items():
        if os.path.exists(f"/sys/module/overlay/parameters/{parameter}"):
            known.append(key)
    return known


def _escape(path: bytes, special: bytes) -> bytes:
    return b"".join(b"\\" + bytes([c]) if c in special else bytes([c]) for c in path)
