"""Whether a writable branch is mounted: the kernel would let it be mounted twice, and corrupt it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lamella._sys import mountinfo, processes
from lamella._sys.files import os_errors
from lamella._sys.mountinfo import MountPoint
from lamella.errors import FailedPrecondition
from lamella.mounts import _fuse, image_mounts
from lamella.mounts.model import Mounted

_HOLDER = b"from lamella.mounts.holder import main"
_PATIENCE = 0.5
"""Seconds to wait for what is mounted in another namespace only."""


def upper_in_use(upper: Path) -> Path | None:
    """Where ``upper`` is mounted as a writable branch, or writable as a whole (a bind mount); None when it is not.

    Looks at every mount namespace that a process lives in and at every fuse-overlayfs process, not only at this
    process' own; the path is as seen there. NotFound when there is no such directory.
    """
    found = _search(upper)
    return None if found is None else found.target


def live_mount(upper: Path) -> Mounted | None:
    """The record of whatever mount ``upper`` is the writable branch of, as ``Driver.mount`` would have returned it.

    For picking up a mount whose maker died before it could note it down. None when it is not mounted; places and
    errors as for ``upper_in_use``.
    """
    found = _search(upper)
    if found is None:
        return None
    holder, root = found.holder, found.target
    if found.inside:
        root = Path(f"/proc/{holder}/root{found.target}")
    return Mounted(
        driver=found.driver,
        target=found.target,
        root=root,
        holder=holder,
        boot_id=processes.boot_id(),
        mount_ns=found.namespace,
        holder_start=processes.start_time(holder) if holder else 0,
    )


def fuse_overlayfs_processes() -> Iterator[tuple[int, list[bytes]]]:
    """Every process of fuse-overlayfs that can be seen, with its command line; the last word is where it mounted."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            words = _command_line(int(name))
            if os.path.basename(words[0]) == b"fuse-overlayfs":
                yield int(name), words


def fuse_overlayfs_images(words: list[bytes], pid: int | None) -> list[MountPoint]:
    """The mounted images that a process of fuse-overlayfs stands on, by its command line."""
    value = _option(words, b"lowerdir")
    try:
        return [] if value is None else image_mounts.images_among([_real(p, pid) for p in value.split(b":")], pid)
    except OSError:  # gone, or somebody else's
        return []


def _real(path: bytes, pid: int | None) -> bytes:
    """The path that a process was given, where it was given as one of its descriptors."""
    own = b"/proc/self/"
    return os.readlink(b"/proc/%d/%s" % (pid, path[len(own) :])) if pid and path.startswith(own + b"fd/") else path


@contextmanager
def claimed(upper: Path | None) -> Iterator[None]:
    """Hold a writable branch while it is being mounted: of two who try at once, one gets it.

    Raises FailedPrecondition (``snapshot-mounted``) when it is mounted already. None: nothing to hold.
    """
    if upper is None:
        yield
        return
    with os_errors(str(upper)):
        fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os_errors(str(upper)):
            fcntl.flock(fd, fcntl.LOCK_EX)
        where = upper_in_use(upper)
        if where is not None:
            raise FailedPrecondition(
                f"mounted already, at {where}",
                code="snapshot-mounted",
                subject=str(upper),
                hint="unmount it first",
            )
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Found:
    """A mount of the writable branch that was looked for; ``namespace`` is the one that ``target`` is a path in.

    ``inside``: it lies in a namespace that ``holder`` keeps.
    """

    driver: str
    target: Path
    namespace: int
    holder: int = 0
    inside: bool = False


def _search(upper: Path) -> _Found | None:
    with os_errors(str(upper)):
        resolved = upper.resolve(strict=True)
        info = resolved.stat()
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = _Search(resolved, (info.st_dev, info.st_ino)).run()
        if found is None or found.holder or found.namespace == processes.mount_namespace():
            return found
        # A namespace that was just made has copies of all mounts, until whoever made it has let go of them.
        if time.monotonic() > deadline:
            return found
        time.sleep(0.01)


class _Search:
    """The search for one writable branch among all mounts."""

    def __init__(self, upper: Path, identity: tuple[int, int]) -> None:
        self._upper = upper
        self._name = os.fsencode(upper.name)
        self._identity = identity
        self._fuse_seen = False

    def run(self) -> _Found | None:
        for pid in mountinfo.namespaces():
            try:
                lines = mountinfo.raw_lines(pid)
            except OSError:
                continue  # gone meanwhile
            for line in lines:
                if self._is_candidate(line):
                    point = mountinfo.parse_line(line)
                    if self._is_branch_of(point, pid):
                        with suppress(OSError):  # the process ended, and its namespace perhaps with it
                            return _described(point, pid)
        return self._find_fuse_overlayfs() if self._fuse_seen else None

    def _is_candidate(self, line: bytes) -> bool:
        """A cheap first look: a line may be 100 KB long and there may be thousands."""
        self._fuse_seen = self._fuse_seen or b" fuse.fuse-overlayfs " in line
        if b"upperdir=" in line or b" - aufs " in line:
            return True
        root = mountinfo.unescape(line.split(b" ", 4)[3])
        return root != b"/" and root.rsplit(b"/", 1)[-1] == self._name

    def _is_branch_of(self, point: MountPoint, pid: int) -> bool:
        if point.fs_type == "overlay":
            branch = point.super_option(b"upperdir")
            return branch is not None and self._is_upper(branch, pid)
        if point.fs_type == "aufs":
            return any(self._is_upper(branch, pid) for branch in _aufs_writable(point))
        return b"rw" in point.options and self._is_upper(os.fsencode(point.target), pid)

    def _is_upper(self, path: bytes, pid: int) -> bool:
        """Whether a path, as the process sees it, is the upper; by its name alone where we may not look there."""
        try:
            info = os.stat(b"/proc/%d/root" % pid + path)
        except PermissionError:
            return path == os.fsencode(self._upper)
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == self._identity

    def _find_fuse_overlayfs(self) -> _Found | None:
        """mountinfo does not name the branches of a FUSE mount; the command line of its process does."""
        for pid, words in fuse_overlayfs_processes():
            branch = _option(words, b"upperdir")
            if branch is not None and self._is_upper(branch, pid):
                driver = "fuse" if fuse_overlayfs_images(words, pid) else "fuse-overlayfs"
                return _Found(driver, Path(os.fsdecode(words[-1])), _namespace(pid), pid)
        return None


def _described(point: MountPoint, pid: int) -> _Found:
    namespace = _namespace(pid)
    if point.fs_type == "overlay":
        holder = 0 if namespace == processes.mount_namespace() else _holder_in(namespace)
        kinds = {image.fs_type for image in image_mounts.images_below(point, pid)}
        if holder:
            driver = "fuse" if _fuse.FS_TYPE in kinds else "userns"
            return _Found(driver, point.target, processes.mount_namespace(), holder, inside=True)
        driver = "fuse" if _fuse.FS_TYPE in kinds else "erofs" if kinds else "overlay"
        return _Found(driver, point.target, namespace)
    return _Found("aufs" if point.fs_type == "aufs" else "copy", point.target, namespace)


def _namespace(pid: int) -> int:
    try:
        return processes.mount_namespace(pid)
    except OSError:  # somebody else's, or gone
        return 0


def _holder_in(namespace: int) -> int:
    """The process of the driver ``userns`` that keeps a namespace; 0 when another thing made it."""
    for name in os.listdir("/proc"):
        if name.isdigit() and _HOLDER in b" ".join(_command_line(int(name))) and _namespace(int(name)) == namespace:
            return int(name)
    return 0


def _command_line(pid: int) -> list[bytes]:
    """The words of a process' command line; one empty word when it has none, or is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().removesuffix(b"\0").split(b"\0")
    except OSError:
        return [b""]


def _aufs_writable(point: MountPoint) -> list[bytes]:
    """The writable branches of an aufs mount: in its options, or in sysfs when it has that."""
    branches: list[bytes] = []
    for option in point.super_options:
        if option.startswith(b"br:"):
            branches += option[3:].split(b":")
    instance = point.super_option(b"si")
    if instance is not None:
        for file in Path("/sys/fs/aufs", "si_" + os.fsdecode(instance)).glob("br*"):
            try:
                branches.append(file.read_bytes().strip())
            except OSError:
                continue
    return [branch[: branch.rindex(b"=")] for branch in branches if branch.rpartition(b"=")[2].startswith(b"rw")]


def _option(words: list[bytes], key: bytes) -> bytes | None:
    """The value of an option of fuse-overlayfs, whose commas and backslashes are escaped by a backslash."""
    for before, word in pairwise(words):
        if before == b"-o":
            for option in _split(word):
                if option.startswith(key + b"="):
                    return option[len(key) + 1 :]
    return None


def _split(text: bytes) -> list[bytes]:
    """Split at commas that no backslash stands before, and undo the backslashes."""
    parts = [bytearray()]
    characters = iter(text)
    for c in characters:
        if c == ord("\\"):
            parts[-1].append(next(characters, c))
        elif c == ord(","):
            parts.append(bytearray())
        else:
            parts[-1].append(c)
    return [bytes(part) for part in parts]
