"""On a full disk an operation fails with ResourceExhausted and leaves nothing; with some space it works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import operations
import pytest
from experiments import FULL, Experiment, needs_driver

from lamella import Store
from lamella.testing import disks
from lamella.testing.consistency import leftovers, problems
from support import needs

PAGE = 4096
OPERATIONS = ["import", "load", "tag", "rmi", "gc", "prune", "restore"]
OPERATIONS += [
    f"{name}-{driver}" for name in ("commit", "prepare", "fork", "rollback") for driver in operations.DRIVERS
]


class FullDisk(Experiment):
    """An operation on a disk in memory that has little space left."""

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A copy of the store on a disk of its own, with space enough."""
        self._number += 1
        place = self._place / str(self._number)
        place.mkdir()
        with disks.small_disk(place, kib=64 << 10), self._copied_to(place / "store") as root:
            for reserve in root.glob("catalog.db-reserve*"):
                reserve.unlink()  # what fails without it is what is asked here
            yield root

    @staticmethod
    def resize(root: Path, *, space: int = -1, inodes: int = -1) -> None:
        """Let the disk have so many bytes, and inodes, left; by default, many."""
        disk = os.statvfs(root)
        used, files = (disk.f_blocks - disk.f_bfree) * disk.f_frsize, disk.f_files - disk.f_ffree
        size = used + space if space >= 0 else 64 << 20
        count = files + inodes if inodes >= 0 else 1 << 20
        # A tmpfs without any block or inode would be one without limits.
        options = f"remount,size={max(size, PAGE)},nr_inodes={max(count, 1)}"
        subprocess.run(["mount", "-o", options, str(root.parent)], check=True)


@pytest.fixture(autouse=True)
def _small_disks() -> None:
    if reason := disks.missing():
        needs.missing(reason.removeprefix("needs "))


def tries(number: int) -> list[int]:
    """How many pages or inodes are left: others for each test."""
    left = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)
    return list(range(400)) if FULL else [*left[number % 4 :: 4]]


@pytest.mark.parametrize("what", ["space", "inodes"])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("supervision")
def test_it_fails_whole_or_works(name: str, what: str, template: Path, inputs: Path, scratch: Path):
    needs_driver(name, scratch)
    experiment = FullDisk(name, template, inputs, scratch)
    expected = experiment.expect()
    failures = []
    for room in tries(OPERATIONS.index(name) + (what == "inodes")):
        with experiment.fresh() as root:
            experiment.resize(root, **{what: room * (PAGE if what == "space" else 1)})
            run = experiment.run(root)
            experiment.resize(root)
            at = f"with {room} left, printed {run.output!r} {run.errors!r}: "
            if run.status != 0 and not (run.status == 3 and run.errors.startswith("resource-exhausted")):
                failures.append(f"{at}no typed error")
                continue
            try:
                experiment.assert_recovers(root, run, expected)
            except AssertionError as error:
                failures.append(f"{at}{error}")
    assert not failures, "\n\n".join(failures).replace(str(scratch), "")


@pytest.mark.parametrize("what", ["space", "inodes"])
def test_a_store_on_a_full_disk_can_be_read_and_emptied(what: str, template: Path, scratch: Path):
    with disks.small_disk(scratch / "disk", kib=64 << 10) as disk:
        root = operations.copy_store(template, disk / "store")
        before = operations.picture(root)
        FullDisk.resize(root, **{what: 0})
        assert operations.picture(root) == before
        with Store.open(root) as store:
            free = os.statvfs(root).f_bavail
            for snapshot in store.snapshots():
                snapshot.remove()
            store.remove(["child:1", "base:1", "moved:1", "moved:2"])
            store.gc()
            assert (store.images(), store.snapshots()) == ([], [])
            assert os.statvfs(root).f_bavail > free
            assert [*problems(store), *leftovers(store)] == []
        FullDisk.resize(root)
        Store.open(root).close()
        assert len(list(root.glob("catalog.db-reserve*"))) == 4


def test_a_new_store_on_a_full_disk(tmp_path: Path):
    with disks.small_disk(tmp_path / "disk", kib=4) as disk:
        (disk / "ballast").write_bytes(bytes(PAGE))
        with pytest.raises(Exception) as raised:
            Store.open(disk / "store").close()
        assert getattr(raised.value, "kind", "") == "resource-exhausted", repr(raised.value)
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        with Store.open(disk / "store") as store:
            assert problems(store) == []
            assert leftovers(store) == []
