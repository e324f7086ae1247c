"""What this machine, this caller and this directory can do, found out by doing it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lamella._sys import syscalls
from lamella._sys.files import os_errors

_CAP_SYS_ADMIN = 21


def is_root() -> bool:
    """Whether the caller is the superuser of its user namespace."""
    return os.geteuid() == 0


def can_mount() -> bool:
    """Whether the caller has CAP_SYS_ADMIN in effect, without which the kernel refuses every mount."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def can_reflink(directory: Path) -> bool:
    """Whether files in a directory that can be written may share their blocks (xfs and btrfs, mostly)."""
    with os_errors(str(directory)):
        with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as target:
            source.write(b"x" * 4096)
            source.flush()
            try:
                syscalls.clone_file(source.fileno(), target.fileno())
            except OSError:
                return False
            return True
