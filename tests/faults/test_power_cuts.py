"""Power cuts: what was reported is there afterwards, and nothing is there in part.

Once by the order of the system calls, seen by strace: what is not ordered by fsync may reach the disk in any order. And
once for real, by a file system that is stopped at any call and forgets what was not synced; the control shows that it
does. dm-log-writes, which would try every order of writes, is not in common kernels.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import operations
import pytest
from experiments import FULL, Experiment, assert_none, choose, needs_driver

from lamella.errors import LamellaError
from lamella.testing import powercut
from lamella.testing import trace as tracing
from lamella.testing.consistency import layout_problems
from lamella.testing.powercut import CuttableDisk
from lamella.testing.supervised import GO_ON, KILL, Call, Run, supervised
from lamella.testing.trace import Call as Traced
from support import needs

CALLS = ("write", "pwrite64", "fsync", "fdatasync", "syncfs", "?rename", "?renameat", "?renameat2", "?link", "linkat")
CALLS += ("?unlink", "unlinkat")
NAMES = [name for name in operations.names() if not name.startswith("mount")]  # no mount outlives the machine
CASES = [("ext4", name) for name in NAMES] + [("xfs", name) for name in (NAMES if FULL else ["load", "rmi", "gc"])]
MOST = 2
"""Calls that are tried of each operation, besides its end; all of them with LAMELLA_FULL_SWEEP=1."""


# -- by the order of system calls


class Order:
    """The system calls of one operation on a copy of the template."""

    def __init__(self, name: str, template: Path, inputs: Path, place: Path) -> None:
        if reason := tracing.missing():
            needs.missing(reason.removeprefix("needs "))
        self.root = operations.copy_store(template, place / "store")
        program = [sys.executable, operations.__file__, name, str(self.root), str(inputs)]
        self.calls = tracing.trace(program, CALLS, below=self.root)

    def all(self, name: str, *parts: str) -> list[int]:
        """Where the calls of a name, on paths with all of these parts, stand."""
        found = [
            at
            for at, call in enumerate(self.calls)
            if call.name.startswith(name) and all(part in call.arguments for part in parts)
        ]
        assert found, f"no {name} of {parts} in {[(call.name, call.arguments) for call in self.calls]}"
        return found

    def commits(self) -> list[int]:
        """Where a commit waits for the disk."""
        return self.all("fdatasync", "catalog.db-wal>")

    def names(self, *parts: str) -> list[int]:
        """Where something gets a name below a directory, by a rename or a link."""
        return [at for at, call in enumerate(self.calls) if call.name[:4] in ("rena", "link") and _target(call, parts)]


def _target(call: Traced, parts: tuple[str, ...]) -> bool:
    return all(part in call.arguments.split('", ', 1)[-1] for part in parts)


@pytest.mark.parametrize("name", ["import", "load", "commit-copy"])
def test_content_then_name_then_directory_then_catalog(name: str, template: Path, inputs: Path, scratch: Path):
    order = Order(name, template, inputs, scratch)
    for directory in ("blobs/sha256", "layers"):
        named = order.names(f"{order.root}/{directory}/")
        assert named
        for at in named:
            source = order.calls[at].arguments.split('"')[1]
            file = f"{source}/layer.tar>" if directory == "layers" else f"{source}>"
            synced = [n for n in order.all("fsync", file) if n < at]
            assert synced, f"{source} gets its name before it is synced"
            assert not [n for n in range(synced[-1], at) if order.calls[n].name in ("write", "pwrite64")
                        and file in order.calls[n].arguments]  # fmt: skip
        assert order.all("fsync", f"/{directory}>")[-1] > named[-1]
    in_place = max(order.all("fsync", f"/{directory}>")[-1] for directory in ("blobs/sha256", "layers"))
    assert [at for at in order.commits() if in_place < at < order.names("index.json")[-1]]


@pytest.mark.parametrize("name", ["rmi", "gc"])
def test_records_then_index_then_files(name: str, template: Path, inputs: Path, scratch: Path):
    order = Order(name, template, inputs, scratch)
    moved = [
        at
        for at, call in enumerate(order.calls)
        if call.name.startswith("rename")
        and any(f'"{order.root}/{part}/' in call.arguments.split(", ")[0] for part in ("blobs", "layers", "trees"))
    ]
    assert moved
    assert order.commits()[0] < order.names("index.json")[-1] < moved[0]


# -- for real


class PowerCut(Experiment):
    """An operation on a disk that is switched off."""

    def __init__(self, name: str, filled: CuttableDisk, inputs: Path, place: Path) -> None:
        super().__init__(name, filled.path, inputs, place)
        self._filled = filled
        self.disk = filled

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """The store on a disk of its own."""
        self._number += 1
        place = self._place / str(self._number)
        place.mkdir()
        self.disk = self._filled.copy(place)
        with self.disk.mounted():
            root = self.disk.path / "store"
            if self.name == "create":
                root = self.disk.path / "new"
                root.mkdir()
                os.sync()
            yield root
        self.disk.image.unlink()

    def run_and_cut(self, root: Path, at: int) -> Run:
        """The operation, with the power cut before its ``at``-th call, or when it has ended."""

        def decide(number: int, call: Call) -> int:
            if number != at:
                return GO_ON
            self.disk.cut()
            return KILL

        run = supervised(self.act(root), below=root, decide=decide)
        self.disk.cut()
        self.disk.restart()
        for mark in root.glob("trees/*/*.boot"):
            mark.write_text("the boot before")  # only this machine has not started anew
        return run


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def filled(request: pytest.FixtureRequest, fast_disk: Path, inputs: Path) -> Iterator[CuttableDisk]:
    """A disk with a store that holds something."""
    if reason := powercut.missing(request.param):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(dir=fast_disk) as place:
        disk = CuttableDisk.make(Path(place), request.param)
        with disk.mounted():
            operations.fill(disk.path / "store", inputs)
        yield disk


@pytest.mark.usefixtures("supervision")
class TestPowerCut:
    @pytest.mark.parametrize(("filled", "name"), CASES, indirect=["filled"])
    @pytest.mark.timeout(3600)
    def test_at_a_system_call(self, name: str, filled: CuttableDisk, inputs: Path, scratch: Path):
        experiment = PowerCut(name, filled, inputs, scratch)
        with experiment.fresh() as root:
            needs_driver(name, root.parent)
        expected = experiment.expect()
        failures = []
        for number in [*choose(expected.calls, MOST), len(expected.calls) + 1]:
            with experiment.fresh() as root:
                run = experiment.run_and_cut(root, number)
                try:
                    experiment.assert_recovers(root, run, expected)
                except (AssertionError, LamellaError) as error:
                    failures.append(f"cut at {run.hit}, printed {run.output!r}: {error}")
        assert not failures, "\n\n".join(failures).replace(str(scratch), "")

    def test_the_control_loses_what_was_not_synced(self, filled: CuttableDisk, inputs: Path, scratch: Path):
        experiment = PowerCut("import", filled, inputs, scratch)
        act = experiment.act

        def without_sync(root: Path):
            def run() -> None:
                os.fsync = lambda fd: None
                act(root)()

            return run

        experiment.act = without_sync
        with experiment.fresh() as root:
            run = experiment.run_and_cut(root, 0)
            assert run.output == "done\n"
            assert layout_problems(root) != []


def test_a_store_is_whole_on_a_disk_that_was_never_cut(filled: CuttableDisk):
    with filled.mounted():
        assert_none("as it lies there", layout_problems(filled.path / "store"))
