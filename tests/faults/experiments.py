"""One experiment: a copy of the store, an operation that is interrupted, and what has to be true afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import operations

from lamella import Snapshot, Store
from lamella._sys import mountinfo
from lamella.testing.consistency import layout_problems, leftovers, problems
from lamella.testing.supervised import Call, Fault, Run, supervised
from support import needs

FULL = os.environ.get("LAMELLA_FULL_SWEEP", "") not in ("", "0")
"""Whether every system call is tried, and not a choice of them."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is seen before the operation, after it, and the calls that it makes."""

    before: dict[str, Any]
    after: dict[str, Any]
    calls: Sequence[Call]


class Experiment:
    """One operation on copies of one store."""

    def __init__(self, name: str, template: Path, inputs: Path, place: Path) -> None:
        self.name, self._template, self.inputs, self._place = name, template, inputs, place
        self._number = 0

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A copy of the store; an empty directory where the operation makes it."""
        self._number += 1
        with self._copied_to(self._place / f"{self.name}-{self._number}") as root:
            yield root

    @contextmanager
    def _copied_to(self, root: Path) -> Iterator[Path]:
        if self.name == "create":
            root.mkdir()
        else:
            operations.copy_store(self._template, root)
        try:
            yield root
        finally:
            unmount_below(root)
            shutil.rmtree(root)

    def act(self, root: Path) -> Callable[[], None]:
        """The operation, to be called in a process of its own."""
        return partial(operations.perform, self.name, root, self.inputs)

    def run(self, root: Path, fault: Fault | None = None) -> Run:
        """The operation in a process of its own, which fails as told."""
        return supervised(self.act(root), below=root, fault=fault)

    def expect(self) -> Expected:
        """What the operation does when nothing happens to it."""
        with self.fresh() as root:
            before = operations.picture(root)
        with self.fresh() as root:
            run = self.run(root)
            assert run.status == 0, run.errors
            assert run.output == "done\n"
            after = operations.picture(root)
            assert_whole(root)
        return Expected(before, after, run.calls)

    def assert_recovers(self, root: Path, run: Run, expected: Expected) -> None:
        """The store is whole, shows all of the operation or nothing, and the operation can be done again."""
        if self.name != "create":
            assert_none("as it lies there", layout_problems(root))
        seen = operations.picture(root)
        if "done" in run.output:
            assert seen == expected.after, "it was done, and is not there"
        else:
            assert seen in (expected.before, expected.after), "it is there in part"
        assert_whole(root)
        operations.perform(self.name, root, self.inputs)
        assert operations.picture(root) == expected.after, "it cannot be done again"
        with Store.open(root) as store:
            store.gc()
            assert_none("left after gc", leftovers(store))
            assert_none("after gc", problems(store))
            for snapshot in store.snapshots():
                assert_usable(snapshot)
        assert operations.picture(root) == expected.after, "gc has changed it"


def assert_none(when: str, found: list[str]) -> None:
    """Nothing was found."""
    assert not found, "; ".join([when, *found])


def assert_whole(root: Path) -> None:
    """The store opens, and nothing is wrong with it."""
    with Store.open(root) as store:
        assert_none("opened", problems(store))


def assert_usable(snapshot: Snapshot) -> None:
    """The snapshot can be mounted, or unmounted if it was left mounted, and shows what it holds."""
    if snapshot.mounted is not None:
        snapshot.detach()
    with snapshot.mount() as root:
        shown = {os.fsencode(path.relative_to(root)) for path in root.rglob("*")}
    assert shown == {info.path for info in snapshot.files.walk() if info.path}, snapshot.key


def unmount_below(root: Path) -> None:
    """End the mounts that a killed process left."""
    for point in reversed([point.target for point in mountinfo.mount_points() if point.target.is_relative_to(root)]):
        os.system(f"umount -l '{point}'")


def needs_driver(name: str, at: Path) -> None:
    """End the test if the operation's driver does not work at the directory."""
    driver = operations.driver_of(name)
    if driver is not None:
        needs.driver(driver, at)


def choose(calls: Sequence[Call], most: int) -> list[int]:
    """The numbers (from 1) of calls to try: the first and the last of each kind, then some from all over."""
    everything = range(1, len(calls) + 1)
    if FULL or len(calls) <= most:
        return list(everything)
    kinds: dict[tuple[str, ...], list[int]] = {}
    for number, call in enumerate(calls, start=1):
        kinds.setdefault((call.name, *(Path(path).suffix for path in call.paths)), []).append(number)
    chosen = {at for numbers in kinds.values() for at in (numbers[0], numbers[-1])}
    rest = [number for number in everything if number not in chosen]
    return sorted(_spread(sorted(chosen), most) | _spread(rest, most - len(chosen)))


def _spread(numbers: Sequence[int], most: int) -> set[int]:
    """At most so many of the numbers, evenly from first to last."""
    if most <= 0:
        return set()
    step = max(1, -(-len(numbers) // most))
    return set(numbers[::step])
