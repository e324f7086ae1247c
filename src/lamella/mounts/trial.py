"""Trying a driver out: the only way to know whether it works at a place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lamella._sys.files import map_os_error, remove_tree
from lamella._sys.locks import DirectoryLock
from lamella.errors import LamellaError, ResourceExhausted
from lamella.mounts.model import Driver, Mount, Probe

PREFIX = ".probe-"
"""What the names of the directories begin with that drivers are tried in."""

D = TypeVar("D", bound=Driver)

_known: dict[tuple[str, Path, int], Probe] = {}


def remembered(name: str, at: Path, attempt: Callable[[Path], Probe]) -> Probe:
    """The answer of ``attempt`` for a driver at a directory, asked for once in a process (and user).

    What only says that something was used up is asked for again.
    """
    try:
        place = at.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        return Probe(ok=False, reason=f"{at}: {error}")
    key = (name, place, os.geteuid())
    if key not in _known:
        probe = attempt(place)
        if probe.exhausted:
            return probe
        _known[key] = probe
    return _known[key]


def forget() -> None:
    """Forget all answers: the machine may have changed."""
    _known.clear()


def try_out(driver: D, at: Path, attempt: Callable[[D, Path], Probe] | None = None) -> Probe:
    """Mount two tiny layers with the driver under ``at``, add and delete a file through the mount, clean up.

    ``attempt`` does something else instead, in the empty directory that it is given.
    """
    try:
        lock = _place(at)
    except OSError as error:
        return _refused(error, at)
    place = lock.path
    try:
        return _try_at(driver, place) if attempt is None else attempt(driver, place)
    except (LamellaError, OSError) as error:
        return _refused(error, place)
    finally:
        with suppress(LamellaError):
            remove_tree(place)
        lock.release()


def _refused(error: LamellaError | OSError, at: Path) -> Probe:
    typed = map_os_error(error, str(at)) if isinstance(error, OSError) else error
    return Probe(ok=False, reason=typed.reason, exhausted=isinstance(typed, ResourceExhausted))


def _place(at: Path) -> DirectoryLock:
    """A new directory, locked: one without a lock was left by a process that was killed."""
    while True:
        lock = DirectoryLock(Path(tempfile.mkdtemp(prefix=PREFIX, dir=at)))
        if lock.acquire():
            return lock


def _try_at(driver: Driver, place: Path) -> Probe:
    directories = [place / name for name in ("top", "bottom", "upper", "work", "root")]
    for directory in directories:
        directory.mkdir()
    top, bottom, upper, work, target = directories
    (top / "from-top").write_bytes(b"top")
    (bottom / "from-bottom").write_bytes(b"bottom")
    mounted = driver.mount(Mount(driver.name, (top, bottom), upper, work), target)
    try:
        root = mounted.root
        if (root / "from-top").read_bytes() + (root / "from-bottom").read_bytes() != b"topbottom":
            return Probe(ok=False, reason="mounted, but the layers do not show")
        (root / "new").write_bytes(b"new")
        (root / "from-bottom").unlink()
        if not (upper / "new").is_file() or not (bottom / "from-bottom").is_file():
            return Probe(ok=False, reason="mounted, but changes do not go to the upper directory")
    finally:
        driver.unmount(mounted)
    return Probe(ok=True)
