"""A little space that is set aside while there is some, and given up when there is none.

On a full disk a store could not even be read otherwise: the catalog's log needs a file, and whoever removes things to
make space has to record that first. What is kept are files beside the catalog, which also stand for the inodes that are
needed. All of it is best effort: a store without a reserve works, as long as the disk is not full.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_FILES = 4
_FILE_SIZE = 128 << 10
_PLENTY = 4
"""The reserve is set aside only where this many times its size is free."""


class Reserve:
    """The reserve of the store at ``root``. Raises nothing; safe for many processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = [root / f"catalog.db-reserve{number}" for number in range(_FILES)]

    def keep(self) -> None:
        """Set it aside where it is not, if the disk has plenty."""
        with suppress(OSError):
            missing = [path for path in self._files if not path.exists()]
            if missing and _fits(self._root, _PLENTY):
                for path in missing:
                    _fill(path)

    def spend(self) -> None:
        """Give it up if the disk has less than that left. To be called before what needs space to make some."""
        with suppress(OSError):
            if not _fits(self._root, 1):
                for path in self._files:
                    path.unlink(missing_ok=True)


def _fits(root: Path, times: int) -> bool:
    """Whether the reserve fits so many times into what the disk has left."""
    space = os.statvfs(root)
    has_inodes = not space.f_files or space.f_favail >= _FILES * times
    return has_inodes and space.f_bavail * space.f_frsize >= _FILES * _FILE_SIZE * times


def _fill(path: Path) -> None:
    """Make a file whose space is taken. Leaves none that is not whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, _FILE_SIZE)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
