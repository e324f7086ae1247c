"""Whether a writable branch is mounted: the kernel would let it be mounted twice, and corrupt it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from lamella._sys import mountinfo
from lamella._sys.files import os_errors
from lamella._sys.mountinfo import MountPoint
from lamella.errors import FailedPrecondition


def upper_in_use(upper: Path) -> Path | None:
    """Where ``upper`` is mounted as a writable branch, or writable as a whole (a bind mount); None when it is not.

    Looks at every mount namespace that a process lives in and at every fuse-overlayfs process, not only at this
    process' own; the path is as seen there. NotFound when there is no such directory.
    """
    with os_errors(str(upper)):
        resolved = upper.resolve(strict=True)
        info = resolved.stat()
    return _Search(resolved, (info.st_dev, info.st_ino)).run()


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


class _Search:
    """The search for one writable branch among all mounts."""

    def __init__(self, upper: Path, identity: tuple[int, int]) -> None:
        self._upper = upper
        self._name = os.fsencode(upper.name)
        self._identity = identity
        self._fuse_seen = False

    def run(self) -> Path | None:
        for pid in mountinfo.namespaces():
            try:
                lines = mountinfo.raw_lines(pid)
            except OSError:
                continue  # gone meanwhile
            for line in lines:
                if self._is_candidate(line):
                    point = mountinfo.parse_line(line)
                    if self._is_branch_of(point, pid):
                        return point.target
        return self._find_fuse_overlayfs() if self._fuse_seen else None

    def _is_candidate(self, line: bytes) -> bool:
        """A cheap first look: a line may be 100 KB long and there may be thousands."""
        if b"upperdir=" in line or b" - aufs " in line:
            return True
        self._fuse_seen = self._fuse_seen or b"fuse-overlayfs" in line
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

    def _find_fuse_overlayfs(self) -> Path | None:
        """mountinfo does not name the branches of a FUSE mount; the command line of its process does."""
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            words = _command_line(int(name))
            if os.path.basename(words[0]) != b"fuse-overlayfs":
                continue
            branch = _option(words, b"upperdir")
            if branch is not None and self._is_upper(branch, int(name)):
                return Path(os.fsdecode(words[-1]))
        return None


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
