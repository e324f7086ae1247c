"""Images that are mounted for others to stand on, by the kernel or over FUSE: who stands on one, and letting go of it.

An image has a directory for each way of mounting it: the one that ``ErofsImage.at`` names, and a sibling for FUSE. An
overlay holds on to what it stands on, so whoever takes the image's own mount away does no harm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella._sys import mountinfo, processes
from lamella._sys.locks import FileLock
from lamella._sys.mountinfo import MountPoint
from lamella.errors import LamellaError, NotFound
from lamella.mounts import _fuse

FS_TYPES = ("erofs", _fuse.FS_TYPE)
"""What mountinfo calls the file system of an image, by either way."""

_MARKS = tuple(f" - {fs_type} ".encode() for fs_type in FS_TYPES)
_SEPARATOR = re.compile(rb"(?<!\\):")


def fuse_place(at: Path) -> Path:
    """Where an image is mounted over FUSE that the kernel mounts at ``at``."""
    return at.with_name(f"{at.name}-fuse")


@contextmanager
def locked(at: Path) -> Iterator[None]:
    """Hold the place of an image: nobody else mounts or unmounts there. NotFound when there is no such image."""
    with FileLock(at.with_name(f"{at.name}.lock")):
        yield


def attached(at: Path) -> MountPoint | None:
    """The image that is mounted at ``at`` (resolved) in this namespace; None when none is."""
    found = mountinfo.mount_at(at)
    return found if found is not None and found.fs_type in FS_TYPES else None


def mounted_images(pid: int | None = None) -> list[MountPoint]:
    """Every image that is mounted in the namespace of a process, None for this one."""
    lines = mountinfo.raw_lines(pid)
    return [mountinfo.parse_line(line) for line in lines if any(mark in line for mark in _MARKS)]


def images_below(overlay: MountPoint, pid: int | None = None) -> list[MountPoint]:
    """The mounted images that an overlay stands on, in the namespace of a process."""
    return images_among(lowers(overlay), pid)


def images_among(paths: list[bytes], pid: int | None = None) -> list[MountPoint]:
    """The mounted images whose places are among some paths, in the namespace of a process."""
    wanted = set(paths)
    return [point for point in mounted_images(pid) if os.fsencode(point.target) in wanted]


def lowers(overlay: MountPoint) -> list[bytes]:
    """The paths of the trees that an overlay was mounted over."""
    found = []
    for option in overlay.super_options:
        key, _, value = option.partition(b"=")
        if key == b"lowerdir+":
            found.append(value)
        elif key == b"lowerdir":
            found += [re.sub(rb"\\(.)", rb"\1", part) for part in _SEPARATOR.split(value)]
    return found


def is_below_any(at: Path, *, everywhere: bool) -> bool:
    """Whether an overlay of this namespace stands on ``at``; ``everywhere``: of any namespace that can be seen."""
    name = os.fsencode(at)
    for pid in mountinfo.namespaces() if everywhere else (None,):
        with suppress(OSError):  # gone meanwhile
            lines = [line for line in mountinfo.raw_lines(pid) if b" - overlay " in line]
            if any(name in lowers(mountinfo.parse_line(line)) for line in lines):
                return True
    return False


def release(at: Path) -> bool:
    """Unmount the image of ``at``, both ways, unless something stands on it; whether nothing is mounted now.

    One that is used in another way (by somebody who looks into it) stays.
    """
    done = [_release(place) for place in (at, fuse_place(at))]
    return all(done)


def _release(at: Path) -> bool:
    if attached(at) is None:
        return True
    with suppress(NotFound), locked(at):
        return detach_unused(at)
    return True


def release_all(points: list[MountPoint]) -> None:
    """Unmount those of these images that nothing stands on, and that are the caller's to unmount."""
    for point in points:
        with suppress(LamellaError):
            _release(point.target)


def detach_unused(at: Path) -> bool:
    """As ``release``, for one place, by whoever holds its lock."""
    point = attached(at)
    if point is None:
        return True
    # The kernel keeps what an overlay of another namespace stands on; a server of FUSE has to be kept for it.
    if is_below_any(at, everywhere=point.fs_type == _fuse.FS_TYPE):
        return False
    server = _fuse.server_of(point) if point.fs_type == _fuse.FS_TYPE else 0
    started = processes.start_time(server) if server else 0
    try:
        _fuse.detach(at)
    except OSError:
        return mountinfo.mount_at(at) is None
    _fuse.end_server(server, started)
    return True


def drop(at: Path) -> None:
    """Unmount the image of ``at``, whoever uses it: overlays go on with it, and the next mount makes it anew."""
    with suppress(NotFound), dropped(at):
        pass


@contextmanager
def dropped(at: Path) -> Iterator[None]:
    """The image of ``at`` not mounted, and not to be mounted by anybody, while the block runs; else as ``drop``.

    Whoever found it mounted before has his overlay on it by then, which otherwise would come to lie over the bare
    place. NotFound when there is no such image.
    """
    with locked(at), locked(fuse_place(at)):
        for place in (at, fuse_place(at)):
            drop_place(place)
        yield


def drop_place(at: Path) -> None:
    """As ``drop``, for one place, by whoever holds its lock."""
    with suppress(OSError):
        while attached(at.resolve()) is not None:
            _fuse.detach(at, lazy=True)
