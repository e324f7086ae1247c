"""Running a command and taking its time and its peak memory; a fresh file system for each run."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One run: wall seconds, and the peak resident memory of the largest process in MiB."""

    seconds: float
    peak_mib: float


def run(command: list[str], **kwargs: object) -> Sample:
    """Run ``command`` to its end; raises with its output if it fails."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **kwargs)  # type: ignore[call-overload]
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            text = output.read()[-2000:].decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{text}")
    return Sample(seconds, usage.ru_maxrss / 1024)


@contextmanager
def fresh_file_system(where: Path, gib: int = 12) -> Iterator[Path]:
    """An empty ext4 on a loop device, mounted; without root, an empty directory. Gone afterwards."""
    if os.geteuid() or not shutil.which("mkfs.ext4"):
        with tempfile.TemporaryDirectory(prefix="fs-", dir=where) as directory:
            yield Path(directory)
        return
    with _disk(where, gib) as image, tempfile.TemporaryDirectory(prefix="fs-", dir=where) as target:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", str(image)], check=True)
        # Past the page cache of the file below: what is written is not copied once more.
        attach = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        try:
            subprocess.run(["mount", device, target], check=True)
            yield Path(target)
        finally:
            subprocess.run(["umount", "-R", "-l", target], check=False)
            subprocess.run(["losetup", "--detach", device], check=False)


@contextmanager
def _disk(where: Path, gib: int) -> Iterator[Path]:
    """A file to stand for a disk, kept for the next time. Its blocks are all there, as those of a disk are.

    With holes in it, whoever waits for what was written would wait for the file system below to find blocks as well.
    """
    for number in itertools.count():
        path = where / f"disk-{gib}-{number}"
        with open(path, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            piece = bytes(4 << 20)
            while file.tell() < gib << 30:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            yield path
            return


def remove_disks(where: Path) -> None:
    """Remove the files that stood for disks."""
    for path in where.glob("disk-*"):
        path.unlink()


def sync() -> None:
    """Leave nothing to write back to the next run."""
    os.sync()


def median(samples: list[Sample]) -> Sample:
    """The median time of several runs, and the highest memory."""
    return Sample(statistics.median(s.seconds for s in samples), max(s.peak_mib for s in samples))


def drop_caches() -> bool:
    """Make the kernel forget what it has cached of files; False for those who may not."""
    sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def repeat(times: int, once: Callable[[], Sample], *, cold: bool = False) -> Sample:
    """The median of ``times`` runs; with ``cold``, nothing is cached before each."""
    samples = []
    for _ in range(times):
        sync()
        if cold:
            drop_caches()
        samples.append(once())
    return median(samples)


LAMELLA = [sys.executable, "-m", "lamella"]


def have(tool: str) -> bool:
    """Whether a peer is installed."""
    return shutil.which(tool) is not None
