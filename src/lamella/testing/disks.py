"""Small file systems, to see what happens when they are full. ``missing()`` says why a machine cannot mount them."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@functools.cache
def missing() -> str:
    """Why no small file system can be mounted here; empty if one can."""
    if os.geteuid() != 0:
        return "needs root to mount a small file system"
    with tempfile.TemporaryDirectory() as directory:
        try:
            with small_disk(Path(directory) / "probe", kib=64):
                return ""
        except subprocess.CalledProcessError as error:
            return f"no small file system can be mounted here: {error.stderr.strip()}"


@contextmanager
def small_disk(at: Path, *, kib: int) -> Iterator[Path]:
    """A tmpfs of ``kib`` KiB, mounted at ``at`` for the time of the block; the directory is made if it is not there."""
    at.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(at)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)
