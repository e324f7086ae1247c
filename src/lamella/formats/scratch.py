"""Directories for what is being written: beside its destination, invisible, and cleared after whoever was killed."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Self

from lamella._sys.files import os_errors, remove_tree
from lamella.errors import LamellaError
from lamella.spec.progress import NO_PROGRESS, Progress

PREFIX = ".lamella-"
"""What the names of scratch directories begin with; who lists a directory for other things skips these."""


class Scratch:
    """A new private directory (0700) in ``parent``; ``close`` removes it and all in it, as far as that can be done.

    It is locked (flock) while it lives. One whose owner was killed is unlocked: the next Scratch in the same parent
    removes it, if it belongs to the same user. Raises NotFound or AccessDenied when ``parent`` cannot take it.
    """

    __slots__ = ("_fd", "_progress", "path")

    def __init__(self, parent: Path, *, progress: Progress = NO_PROGRESS) -> None:
        self._progress = progress
        with os_errors(str(parent)):
            _sweep(parent)
            while True:
                self.path = parent / f"{PREFIX}{secrets.token_hex(8)}"
                self.path.mkdir(mode=0o700)
                self._fd = _lock(self.path, blocking=True)
                if self._fd >= 0:
                    return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def create(self, name: str) -> int:
        """A descriptor of a new empty file in the directory, which the caller closes; its mode is as the umask says."""
        with os_errors(str(self.path)):
            return os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def close(self) -> None:
        """Remove the directory; nothing happens the second time.

        What cannot be removed is noted, and left to the next Scratch here: it does not undo what was done.
        """
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                with os_errors(str(self.path)):
                    remove_tree(self.path)
            except LamellaError as error:
                self._progress.note(f"{self.path} could not be removed: {error}")
            finally:
                os.close(fd)


def _lock(directory: Path, *, blocking: bool) -> int:
    """A descriptor that holds the lock of ``directory``; -1 if somebody else has it or the directory is gone."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return -1
    except OSError:
        # A file system without locks on directories (NFS): the directory works, only nobody may sweep it.
        if blocking:
            return fd
        os.close(fd)
        return -1
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)  # swept by somebody between being made and being locked
    return -1


def _sweep(parent: Path) -> None:
    """Remove the scratch directories that their owners left behind; what cannot be removed stays."""
    with os.scandir(parent) as listing:
        found = [entry.name for entry in listing if entry.name.startswith(PREFIX)]
    for name in found:
        with suppress(OSError, LamellaError):
            _sweep_one(parent / name)


def _sweep_one(path: Path) -> None:
    info = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        return
    fd = _lock(path, blocking=False)
    if fd >= 0:
        try:
            remove_tree(path)
        finally:
            os.close(fd)
