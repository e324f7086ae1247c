"""The init layer: what has to be in every root that a container runs in, whatever the image says of it.

0.6 put one between the image and every container, 0.7 to 1.0 one for each container. What is in the way of a path, a
link included, is replaced; nothing outside of the directory is ever touched.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import Unsupported
from lamella.formats.docker_graph.config import V1_0_0, Release

_DIRECTORIES = (b"dev/pts", b"dev/shm", b"proc", b"sys")
_FILES: tuple[tuple[bytes, Release, Release], ...] = (
    (b".dockerinit", (0, 6, 0), (99, 0, 0)),
    (b"etc/resolv.conf", (0, 6, 0), (99, 0, 0)),
    (b"etc/hosts", (0, 6, 0), (99, 0, 0)),
    (b"etc/hostname", (0, 6, 0), (99, 0, 0)),
    (b".dockerenv", (0, 6, 6), (0, 7, 0)),
    (b"dev/console", (0, 9, 0), (99, 0, 0)),
)
_MTAB = (b"etc/mtab", b"/proc/mounts", (0, 10, 0))
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def populate(root: Path, *, release: Release = V1_0_0) -> None:
    """Put the paths of ``release`` into the directory ``root``: directories and empty files (0755), links.

    A file or link in the way of a path, at its end too, is removed first; a directory at its end stays. Doing it again
    changes nothing. Raises Unsupported for releases that had no init layer.
    """
    if release < (0, 6, 0):
        raise Unsupported("docker has an init layer since 0.6.0", code="graph-init-layer")
    with os_errors(str(root)):
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in _DIRECTORIES:
                os.close(_directory(top, path))
            for path, since, until in _FILES:
                if since <= release < until:
                    _file(top, path)
            path, target, since = _MTAB
            if release >= since:
                _link(top, path, target)
        finally:
            os.close(top)


def paths(release: Release = V1_0_0) -> list[bytes]:
    """The paths of the init layer of a release."""
    files = [path for path, since, until in _FILES if since <= release < until]
    return [*_DIRECTORIES, *files, *([_MTAB[0]] if release >= _MTAB[2] else [])]


def _directory(top: int, path: bytes) -> int:
    """A descriptor of the directory ``path``, the caller's to close, made where it is missing."""
    here = os.dup(top)
    try:
        for name in path.split(b"/") if path else []:
            _clear(here, name)
            try:
                os.mkdir(name, 0o700, dir_fd=here)
                made = True
            except FileExistsError:
                made = False
            below = os.open(name, _DIRECTORY_FLAGS, dir_fd=here)
            os.close(here)
            here = below
            if made:
                os.fchmod(here, 0o755)
    except BaseException:
        os.close(here)
        raise
    return here


def _clear(directory: int, name: bytes) -> None:
    """Remove what is no directory."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return


def _file(top: int, path: bytes) -> None:
    parent, _, name = path.rpartition(b"/")
    directory = _directory(top, parent)
    try:
        _clear(directory, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        os.fchmod(fd, 0o755)
        os.close(fd)
    except FileExistsError:
        return  # a directory
    finally:
        os.close(directory)


def _link(top: int, path: bytes, target: bytes) -> None:
    parent, _, name = path.rpartition(b"/")
    directory = _directory(top, parent)
    try:
        _clear(directory, name)
        os.symlink(target, name, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    finally:
        os.close(directory)
