"""Many processes on one store, some of them killed: nothing that was acknowledged is lost, and no lock stays."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import operations
import pytest
import worker
from experiments import FULL, assert_none, unmount_below

from lamella import Reference, Store
from lamella._sys.locks import DirectoryLock, FileLock
from lamella.testing.consistency import leftovers, problems

PROCESSES = 6
OPERATIONS = 200 if FULL else 25
GENERATIONS = 3
KILLED = PROCESSES // 2 * (GENERATIONS - 1)
PATIENCE = 900


@dataclass(slots=True)
class Acknowledged:
    """What the logs of the workers say that is true, and what may be true."""

    names: dict[str, str | None] = field(default_factory=dict)
    snapshots: dict[str, bool] = field(default_factory=dict)
    operations: int = 0
    ended: int = 0

    def read(self, log: Path) -> None:
        """Take one worker's log."""
        for line in log.read_text().splitlines():
            word, *rest = line.split()
            self.operations += word == "begin"
            self.ended += word == "end"
            if word in ("name", "no-name"):
                self.names[canonical(rest[0])] = rest[1] if word == "name" else None
            elif word in ("snapshot", "no-snapshot"):
                self.snapshots[rest[0]] = word == "snapshot"


def canonical(name: str) -> str:
    """A name as the catalog has it."""
    return str(Reference.parse(name).without_digest())


class Crew:
    """The workers on one store."""

    def __init__(self, root: Path, inputs: Path, place: Path, seed: int) -> None:
        self._root, self._inputs, self._place = root, inputs, place
        self._random = random.Random(seed)
        self.failures: list[str] = []

    def run(self, *, killing: bool) -> Acknowledged:
        """Let all of them work to their end; with ``killing`` every second one is killed, and a new one begins."""
        with ThreadPoolExecutor(PROCESSES) as pool:
            plans = [
                (number, self._random.randrange(1 << 30), killing and number % 2 == 1) for number in range(PROCESSES)
            ]
            list(pool.map(lambda plan: self._one(*plan), plans))
        acknowledged = Acknowledged()
        for log in sorted(self._place.glob("w*.log")):
            acknowledged.read(log)
        return acknowledged

    def _one(self, number: int, seed: int, is_killed: bool) -> None:
        chance = random.Random(seed)
        for generation in range(GENERATIONS if is_killed else 1):
            log = self._place / f"w{number}x{generation}.log"
            program = [sys.executable, worker.__file__, self._root, self._inputs, log, str(seed + generation)]
            last = not is_killed or generation == GENERATIONS - 1
            with subprocess.Popen([*program, str(OPERATIONS)], stderr=subprocess.PIPE, text=True) as process:
                if not last:
                    self._kill_during(process, log, chance.randrange(1, OPERATIONS), chance.random() / 50)
                _, errors = process.communicate(timeout=PATIENCE)
            if process.returncode != 0 and (last or process.returncode != -9):
                self.failures.append(f"{log.stem}: {errors}")

    @staticmethod
    def _kill_during(process: subprocess.Popen[str], log: Path, operation: int, later: float) -> None:
        """Kill a worker a little after it has begun its n-th operation."""
        while process.poll() is None:
            if log.exists() and log.read_text().count("begin") >= operation:
                time.sleep(later)
                process.kill()
                return
            time.sleep(0.002)


def locks(root: Path) -> Iterator[str]:
    """The locks that somebody holds."""
    for path in [*root.glob("snapshots/*/lock"), *root.glob("**/*.lock")]:
        lock = FileLock(path)
        if not lock.acquire(blocking=False):
            yield str(path)
        lock.release()
    for path in [root, *root.glob("ingest/lease-*"), *root.glob("snapshots/*/upper")]:
        held = DirectoryLock(path)
        if not held.acquire(blocking=False):
            yield str(path)
        held.release()


@pytest.mark.parametrize("seed", range(20 if FULL else 1))
@pytest.mark.parametrize("killing", [False, True], ids=["undisturbed", "some-killed"])
@pytest.mark.timeout(PATIENCE)
def test_everything_at_once(killing: bool, seed: int, inputs: Path, scratch: Path):
    root = scratch / "store"
    crew = Crew(root, inputs, scratch, seed)
    try:
        acknowledged = crew.run(killing=killing)
        assert not crew.failures, "\n".join(crew.failures)
        assert acknowledged.ended == PROCESSES
        assert acknowledged.operations >= PROCESSES * OPERATIONS
        assert list(locks(root)) == []
        with Store.open(root) as store:
            assert_as_acknowledged(store, acknowledged, KILLED if killing else 0)
            assert_none("when all have ended", problems(store))
            for snapshot in store.snapshots():
                if snapshot.mounted is not None:
                    assert killing
                    snapshot.detach()
            store.gc()
            assert_none("left after gc", leftovers(store))
            assert_none("after gc", problems(store))
            assert_as_acknowledged(store, acknowledged, KILLED if killing else 0)
            for snapshot in store.snapshots():
                snapshot.remove(force=True)
            store.remove([record.name for record in store.catalog.names()], force=True)
            store.gc()
            assert list(root.glob("blobs/*/*")) == []
            assert [path.name for path in root.glob("layers/*")] == []
            assert_none("when all is removed", [*leftovers(store), *problems(store)])
    finally:
        unmount_below(root)


def assert_as_acknowledged(store: Store, acknowledged: Acknowledged, killed: int) -> None:
    """What was reported is there; what was reported as removed is not. A worker that was killed was at one thing."""
    names = {record.name: str(record.target) for record in store.catalog.names()}
    snapshots = {snapshot.key for snapshot in store.snapshots()}
    in_flight = 0
    for name, digest in acknowledged.names.items():
        if names.get(name) != digest:
            in_flight += 1
            assert digest is not None or name not in names, f"{name} was removed and is there"
            assert name not in names, f"{name} is {names.get(name)}, not {digest}"
    for key, is_there in acknowledged.snapshots.items():
        if (key in snapshots) != is_there:
            in_flight += 1
            assert is_there, f"the snapshot {key} was removed and is there"
    assert in_flight <= killed, f"{in_flight} things that were acknowledged are not as they were"


def _load(root: str, inputs: str, barrier, results) -> None:
    with Store.open(root) as store:
        barrier.wait()
        loaded = store.load(Path(inputs) / "layout")
        results.put([name for one in loaded for name in one.names])


def test_processes_that_load_the_same_image_all_succeed(inputs: Path, scratch: Path):
    context = get_context("spawn")
    for attempt in range(5):
        root = scratch / str(attempt)
        barrier, results = context.Barrier(3), context.Queue()
        arguments = (str(root), str(inputs), barrier, results)
        processes = [context.Process(target=_load, args=arguments) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        names = [results.get(timeout=PATIENCE) for _ in processes]
        assert names[0] == names[1] == names[2]
        with Store.open(root) as store:
            assert_none("loaded", [*problems(store), *leftovers(store)])


def test_processes_that_prepare_the_same_image_all_succeed(inputs: Path, scratch: Path):
    root = scratch / "store"
    with Store.open(root) as store:
        store.import_rootfs(inputs / "base.tar.gz", "base:1")
        drivers = operations.drivers(root)
    for driver in drivers:
        code = f"import sys, lamella; s = lamella.Store.open(sys.argv[1]); s.prepare('base:1', driver={driver!r})"
        processes = [subprocess.Popen([sys.executable, "-c", code, root], stderr=subprocess.PIPE) for _ in range(4)]
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, errors
    with Store.open(root) as store:
        assert len(store.snapshots()) == 4 * len(drivers)
        assert_none("prepared", [*problems(store), *leftovers(store)])
