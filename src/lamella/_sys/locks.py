"""Locks between processes that the kernel releases when their holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from lamella._sys.files import os_errors


class FileLock:
    """An flock(2) on a file of its own: shared or exclusive, between processes and between objects in one process.

    The file (0600) is made when it is not there and stays behind; removing it is safe at any time, the next to
    acquire makes a new one. One object belongs to one thread at a time; acquiring it twice is a programming error.
    A process forked while the lock is held shares it: it ends when both have released it or died.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd >= 0

    def acquire(self, *, shared: bool = False, blocking: bool = True) -> bool:
        """Take the lock; False only when not ``blocking`` and somebody holds it in a mode that excludes this one."""
        if self.held:
            raise RuntimeError(f"the lock {self.path} is held by this object already")
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
        with os_errors(str(self.path)):
            while True:
                fd = self._open()
                try:
                    if not _flock(fd, operation):
                        return False
                    if self._is_current(fd):
                        self._fd, fd = fd, -1
                        return True
                finally:
                    if fd >= 0:
                        os.close(fd)

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self.held:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        """Hold the lock exclusively, waiting for it; a lock that is held already stays as it was acquired."""
        if not self.held:
            self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self.path, flags | os.O_RDWR, 0o600)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _is_current(self, fd: int) -> bool:
        """Whether the file that was locked is still the one at the path: another may have removed it meanwhile."""
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))


class DirectoryLock:
    """An exclusive flock(2) on a directory: between processes and between objects, gone with the directory's holder.

    Nothing is made inside, so the directory can be removed whole while it is locked. One object belongs to one thread
    at a time; a process forked while the lock is held shares it.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the lock; False when the directory is not there (any more), or, not ``blocking``, when it is held."""
        if self._fd >= 0:
            raise RuntimeError(f"the lock {self.path} is held by this object already")
        with os_errors(str(self.path)):
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return False
            try:
                if _flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB)) and os.fstat(fd).st_nlink:
                    self._fd, fd = fd, -1
                    return True
                return False
            finally:
                if fd >= 0:
                    os.close(fd)

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.release()


def _flock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        return False
    return True
