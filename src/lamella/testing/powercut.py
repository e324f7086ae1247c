"""Power cuts on the host kernel: a file system that forgets what it was not told to keep.

ext4 and XFS have an ioctl that stops them on the spot, with all that is only in memory lost and the journal as it lies
on the disk; after the next mount they hold what a machine finds that was switched off at that moment. Nothing else of
the machine notices. ``missing()`` says why a machine cannot do this.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella._sys import mountinfo, syscalls

_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSH = 2

_KINDS = {
    # The data of a file may reach the disk after its name, and nothing is written behind the user's back for long.
    "ext4": (("-O", "^resize_inode"), "noauto_da_alloc,data=writeback,commit=600"),
    "xfs": ((), "noquota,nouuid"),
}
_PATIENCE = 200
"""Times 10 ms that are waited for what holds on to a file system."""
_SIZES = {"ext4": 64 << 20, "xfs": 320 << 20}


@functools.cache
def missing(kind: str = "ext4") -> str:
    """Why a file system of a kind cannot be cut off here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root to mount a file system"
    if shutil.which(f"mkfs.{kind}") is None:
        return f"needs the program mkfs.{kind}"
    with tempfile.TemporaryDirectory() as directory:
        try:
            with CuttableDisk.make(Path(directory), kind).mounted() as disk:
                disk.cut()
                disk.restart()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no file system can be cut off here: {error}"
    return ""


class CuttableDisk:
    """A file system in the file ``image``, which is mounted at ``path`` inside of ``mounted()``."""

    def __init__(self, image: Path, path: Path, kind: str) -> None:
        self.image, self.path, self.kind = image, path, kind

    @classmethod
    def make(cls, place: Path, kind: str = "ext4") -> CuttableDisk:
        """A new empty one (``ext4``, ``xfs``) in the directory ``place``. Raises CalledProcessError."""
        image, path = place / f"{kind}.img", place / kind
        path.mkdir()
        with image.open("xb") as file:
            file.truncate(_SIZES[kind])
        subprocess.run([f"mkfs.{kind}", "-q", *_KINDS[kind][0], image], check=True, capture_output=True)
        return cls(image, path, kind)

    def copy(self, place: Path) -> CuttableDisk:
        """A second one with the same content, in the directory ``place``. To be called while neither is mounted."""
        copy = CuttableDisk(place / self.image.name, place / self.path.name, self.kind)
        copy.path.mkdir()
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.image, copy.image], check=True)
        return copy

    @contextmanager
    def mounted(self) -> Iterator[CuttableDisk]:
        """Mounted while the block runs."""
        self._mount()
        try:
            yield self
        finally:
            self._unmount()

    def cut(self) -> None:
        """Switch it off. From now on everything that would reach the disk fails with EIO."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EIO:
                return  # it is off already
            raise
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Switch it on again: mount what is on the disk. What was mounted inside is no longer."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        options = f"loop,{_KINDS[self.kind][1]}"
        command = ["mount", "-t", self.kind, "-o", options, str(self.image), str(self.path)]
        subprocess.run(command, check=True, capture_output=True)

    def _unmount(self) -> None:
        """Unmount, and see to it that mounting it again does not give the file system that was cut off."""
        own = self.path.resolve()
        with suppress(OSError):  # it is cut off
            self._sync()
        inside = [point.target for point in mountinfo.mount_points() if point.target.is_relative_to(own)]
        for target in reversed(inside):
            if target != own:
                subprocess.run(["umount", "-l", str(target)], check=True)
        for _ in range(_PATIENCE):
            if own not in inside or subprocess.run(["umount", str(own)], capture_output=True).returncode == 0:
                break
            time.sleep(0.01)  # what was unmounted lazily lets go in a moment
        else:
            subprocess.run(["umount", "-l", str(own)], check=True)
        for _ in range(_PATIENCE):
            if not self._is_attached():
                return
            time.sleep(0.01)
        # A mount namespace that was made meanwhile has a copy of the mount, for as long as it lives.
        copy = self.image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.image, copy], check=True)
        copy.replace(self.image)

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.syncfs(fd)
        finally:
            os.close(fd)

    def _is_attached(self) -> bool:
        """Whether a loop device has the image."""
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with suppress(OSError):
                if backing.read_text().rstrip("\n") == str(self.image.resolve()):
                    return True
        return False
