"""What every test can have: a store on a real disk, the real images, and a say in what the machine must offer.

``needs_root``, ``needs_tool("umoci")`` and ``needs_driver("overlay")`` mark tests that need these. A test that does not
find what it needs is skipped, and pytest lists all of them with their reasons at the end. With ``LAMELLA_CI=1`` nothing
of that may be lacking: such a test fails, and so does every other one that skips because it ``needs`` something.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

import lamella
from lamella._sys import mountinfo, syscalls
from lamella.mounts.mount import DRIVERS
from lamella.testing import consistency
from support import debian, layouts, needs

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, suppress_health_check=_SLOW)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if needs.CI else "default"))

_UNFIT = {"tmpfs", "ramfs", "overlay", "aufs", "fuse.fuse-overlayfs"}


def pytest_configure(config: pytest.Config) -> None:
    # What a shell runs in the background ignores this signal, and so would the commands that tests interrupt.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        _keep_mounts_apart()
    config.addinivalue_line("markers", "needs_root: the test does what only root may")
    config.addinivalue_line("markers", "needs_tool(*names): the test runs these programs")
    config.addinivalue_line("markers", "needs_driver(name): the test mounts with this driver")


def _keep_mounts_apart() -> None:
    """Give this worker a mount namespace of its own.

    A peer tool that another worker starts in a private namespace would else hold copies of the mounts of this one's
    tests: a snapshot that was just unmounted would still be in use, and rightly be refused.
    """
    with suppress(OSError):  # in a container that may not mount there is nothing to keep apart
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_root") is not None:
        needs.root()
    for marker in item.iter_markers("needs_tool"):
        for name in marker.args:
            needs.tool(name)


@pytest.fixture(autouse=True)
def _driver_works(request: pytest.FixtureRequest) -> None:
    for marker in request.node.iter_markers("needs_driver"):
        needs.driver(marker.args[0], request.getfixturevalue("disk"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if needs.CI and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if needs.is_must_have(reason):
            report.outcome, report.longrepr = "failed", f"nothing may be lacking here, but: {reason}"


# -- places


@pytest.fixture(scope="session")
def real_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for this run on a file system that can hold the branches of a union: no tmpfs, no overlay."""
    candidates = [tmp_path_factory.getbasetemp(), Path("/var/tmp"), Path.cwd(), Path.home()]
    fitting = [path for path in candidates if os.access(path, os.W_OK) and _kind_of(path) not in _UNFIT]
    place = Path(tempfile.mkdtemp(prefix="lamella-test-", dir=(fitting or candidates)[0]))
    yield place
    _remove(place)


def _kind_of(path: Path) -> str:
    """The type of the file system that a path is on."""
    resolved = path.resolve()
    mounts = {point.target: point.fs_type for point in mountinfo.mount_points()}
    return next((mounts[at] for at in (resolved, *resolved.parents) if at in mounts), "")


def _remove(place: Path) -> None:
    for point in reversed([point.target for point in mountinfo.mount_points() if point.target.is_relative_to(place)]):
        os.system(f"umount -l '{point}'")
    for directory, subdirectories, _ in os.walk(place):
        for name in subdirectories:
            path = Path(directory, name)
            if not path.is_symlink() and path.stat().st_mode & 0o700 != 0o700:
                path.chmod(0o700)
    shutil.rmtree(place)


@pytest.fixture
def disk(real_disk: Path) -> Iterator[Path]:
    """An empty directory of this test's own on a real disk."""
    place = Path(tempfile.mkdtemp(prefix="t-", dir=real_disk))
    yield place
    _remove(place)


# -- stores


@pytest.fixture
def store(disk: Path) -> Iterator[lamella.Store]:
    """An empty store on a real disk. When the test is done it must be whole, and nothing may be left behind."""
    with lamella.Store.open(disk / "store") as opened:
        yield opened
        for snapshot in opened.snapshots():
            snapshot.remove(force=True)
        assert consistency.problems(opened) == []
        assert [path.name for path in (disk / "store/ingest").iterdir() if path.name != "layout.lock"] == []
        assert not opened.catalog.leases()
        assert [path for path in _open_files() if f"{disk}/" in path and "/catalog.db" not in path] == []


def _open_files() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


# What users without root mount with shows files of other owners to nobody, so root does not use it.
_FOR_ME = [name for name in DRIVERS if name != "userns" or os.geteuid() != 0]


@pytest.fixture(params=_FOR_ME)
def driver(request: pytest.FixtureRequest, disk: Path) -> str:
    """The name of a driver that works at ``disk``: the test runs with each of them."""
    needs.driver(request.param, disk)
    return str(request.param)


# -- images


@pytest.fixture(scope="session")
def real_layout(real_disk: Path) -> Callable[[str], Path]:
    """Gives a real layout or archive by its name below the folder of real images."""
    return lambda name: layouts.real(name, real_disk / "restored")


@pytest.fixture(scope="session")
def debian_image(real_disk: Path) -> debian.Debian:
    """A Debian root file system under layers that do everything that layers can do; made once a run."""
    place = real_disk / "debian"
    place.mkdir()
    return debian.build(place)
