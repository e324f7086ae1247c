"""A directory handle that nothing can leave: every path from an image is resolved through one."""

from __future__ import annotations

import errno
import functools
import os
import stat
from pathlib import Path
from typing import Literal, Self

from lamella._sys import syscalls

Links = Literal["in_root", "beneath", "refuse"]
"""What a link on the way means: ``in_root``: follow it, with the root as its ``/`` and nothing above it, as after a
chroot; ``beneath``: follow it, but one that would lead outside is EXDEV; ``refuse``: any link is ELOOP."""

_RESOLVE = {
    "in_root": syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS,
    "beneath": syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS,
    "refuse": syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS,
}

_MAX_LINKS = 40
"""As in the kernel: the links followed in one resolution."""


@functools.cache
def has_openat2() -> bool:
    """Whether the kernel has openat2 (5.6) and lets this process call it (old seccomp profiles answer EPERM)."""
    try:
        os.close(syscalls.openat2(syscalls.AT_FDCWD, b"/", os.O_PATH, 0, syscalls.RESOLVE_NO_MAGICLINKS))
    except OSError:
        return False
    return True


class RootDir:
    """A directory of which nothing outside can be reached, whatever links, ``..`` or renames lie on the way.

    Paths are bytes, taken from the root whether or not they begin with a slash; ``b""`` and ``b"/"`` are the root
    itself. Methods raise OSError: ENOENT, ENOTDIR, EACCES and so on as usual, ELOOP for a refused link or too many,
    EXDEV for a path that would lead outside, EINVAL for a NUL byte. Safe for use by several threads.

    The handle owns its descriptor: of a path it opens one, a descriptor given is duplicated.
    """

    __slots__ = ("_kernel", "fd")

    def __init__(self, directory: Path | int, *, kernel: bool | None = None) -> None:
        """``kernel``: resolve with openat2 or, False, component by component; None takes what the kernel has."""
        if isinstance(directory, int):
            self.fd = os.dup(directory)
        else:
            self.fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._kernel = has_openat2() if kernel is None else kernel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the handle; what was opened through it stays open."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, path: bytes, flags: int, mode: int = 0, *, links: Links) -> int:
        """Open a path as open(2) would, resolved inside the root only. The descriptor is the caller's, close-on-exec.

        A final link is followed as ``links`` says, unless O_NOFOLLOW (ELOOP, or with O_PATH the link itself) or
        O_CREAT|O_EXCL (EEXIST) is among the flags. O_PATH|O_NOFOLLOW under ``refuse`` opens a final link itself.
        """
        if b"\0" in path:
            raise OSError(errno.EINVAL, "the path contains a NUL byte")
        relative = path.lstrip(b"/") or b"."
        if self._kernel:
            return syscalls.openat2(self.fd, relative, flags, mode, _RESOLVE[links])
        return _Walk(self.fd, links).open(relative, flags, mode)

    def stat(self, path: bytes, *, follow: bool) -> os.stat_result:
        """The status of a path; of a final link itself unless ``follow``. Links on the way lead inside the root."""
        fd = self.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW), links="in_root")
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def readlink(self, path: bytes, *, links: Links = "in_root") -> bytes:
        """The text of a link; EINVAL when the path is not one."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW, links=links)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), os.fsdecode(path))
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)


class _Walk:
    """What openat2 does, a component at a time, for kernels without it.

    Holds one descriptor: the directory reached. ``..`` starts again from the root over the names so far; every step
    refuses links (O_NOFOLLOW), so somebody who swaps a directory for a link meanwhile gets an error and no way out.
    """

    def __init__(self, root: int, links: Links) -> None:
        self._root = root
        self._links = links
        self._names: list[bytes] = []
        self._followed = 0
        self._at = -1

    def open(self, path: bytes, flags: int, mode: int) -> int:
        self._at = os.dup(self._root)
        try:
            todo = self._split(path)
            while todo:
                name = todo.pop()
                if not todo and name not in (b".", b".."):
                    result = self._open_last(name, flags, mode, todo)
                    if result >= 0:
                        return result
                else:
                    self._step(name, todo)
            return os.open(b".", flags | os.O_CLOEXEC, mode, dir_fd=self._at)
        finally:
            os.close(self._at)

    @staticmethod
    def _split(path: bytes) -> list[bytes]:
        """The components, last first; a trailing slash counts as a last ``.``, which asks for a directory."""
        parts = [part for part in path.split(b"/") if part]
        if path.endswith(b"/"):
            parts.append(b".")
        return parts[::-1]

    def _open_last(self, name: bytes, flags: int, mode: int, todo: list[bytes]) -> int:
        """Open the final component; -1 when it was a link whose components now stand in ``todo``."""
        asked = flags | os.O_NOFOLLOW | os.O_CLOEXEC
        if flags & os.O_NOFOLLOW or flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL:
            return os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=self._at)
        target = self._link_at(name)
        if target is None:
            return os.open(name, asked, mode, dir_fd=self._at)
        self._follow(target, todo, name)
        return -1

    def _step(self, name: bytes, todo: list[bytes]) -> None:
        if name == b"..":
            self._up()
            return
        if name == b".":
            # A file may be followed by "." no more than by a name.
            self._move_to(os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._at))
            return
        target = self._link_at(name)
        if target is not None:
            self._follow(target, todo, name)
            return
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._move_to(os.open(name, flags, dir_fd=self._at))
        self._names.append(name)

    def _link_at(self, name: bytes) -> bytes | None:
        try:
            return os.readlink(name, dir_fd=self._at)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # no link, or nothing: opening it says more
                return None
            raise

    def _follow(self, target: bytes, todo: list[bytes], name: bytes) -> None:
        self._followed += 1
        if self._links == "refuse" or self._followed > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
        if target.startswith(b"/"):
            if self._links == "beneath":
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(name))
            self._names.clear()
            self._move_to(os.dup(self._root))
        todo.extend(self._split(target) or [b"."])

    def _up(self) -> None:
        if not self._names:
            if self._links != "in_root":
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), "..")
            return
        self._names.pop()
        self._move_to(os.dup(self._root))
        for name in self._names:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._move_to(os.open(name, flags, dir_fd=self._at))

    def _move_to(self, fd: int) -> None:
        os.close(self._at)
        self._at = fd
