"""One of several processes that work on one store: random operations, and a log of what was acknowledged.

``worker.py ROOT INPUTS LOG SEED COUNT``. Every worker has names and snapshots of its own; images, layers and blobs are
shared with the others. Before an operation it writes ``begin`` to its log, and after it returned what it made true: a
line ``name NAME DIGEST``, ``no-name NAME``, ``snapshot KEY``, ``no-snapshot KEY``. A failure ends it with a traceback.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import operations

from lamella import LamellaError, Store
from lamella.errors import FailedPrecondition


class Worker:
    """The operations of one process, which remembers what it has."""

    def __init__(self, store: Store, inputs: Path, log: Path, seed: int) -> None:
        self._store, self._inputs = store, inputs
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._random = random.Random(seed)
        self._me = log.stem
        self._drivers = operations.drivers(store.root)
        self._count = 0
        self.names: list[str] = []
        self.snapshots: list[str] = []

    def work(self, count: int) -> None:
        """So many operations."""
        always: list[Callable[[], None]] = [self.import_, self.import_, self.load, self.gc, self.read, self.prune]
        with_names = [self.tag, self.rmi, self.prepare, self.prepare, self.save]
        with_snapshots = [self.mount, self.commit, self.fork, self.roll_back, self.remove]
        for _ in range(count):
            choices = always + (with_names if self.names else []) + (with_snapshots if self.snapshots else [])
            self.say("begin")
            self._random.choice(choices)()

    def say(self, *words: object) -> None:
        """One line of the log, written at once."""
        os.write(self._log, f"{' '.join(map(str, words))}\n".encode())

    def _new(self, what: str) -> str:
        self._count += 1
        return f"{self._me}-{what}{self._count}"

    def import_(self) -> None:
        name = f"{self._new('image')}:1"
        source = self._random.choice(["base.tar.gz", "other.tar", "garbage.tar"])
        image = self._store.import_rootfs(self._inputs / source, name, recipe=operations.RECIPE)
        self._have(name, image.digest)

    def _have(self, name: str, digest: object) -> None:
        self.say("name", name, digest)
        self.names.append(name)

    def load(self) -> None:
        for loaded in self._store.load(self._inputs / "layout"):
            for name in loaded.names:
                self.say("name", name, loaded.descriptor.digest)

    def tag(self) -> None:
        name = f"{self._new('tag')}:1"
        source = self._random.choice(self.names)
        digest = self._store.image(source).digest
        self._store.tag(source, name)
        self._have(name, digest)

    def rmi(self) -> None:
        name = self._random.choice(self.names)
        try:
            self._store.remove([name])
        except FailedPrecondition as error:
            if error.code != "image-in-use":
                raise
            return
        self.say("no-name", name)
        self.names.remove(name)

    def gc(self) -> None:
        self._store.gc()

    def prune(self) -> None:
        """Drop what can be had again, or have all of it again."""
        match self._random.randrange(4):
            case 0:
                self._store.prune(compressed=True)
            case 1:
                self._store.prune(trees=True)
            case 2:
                self._store.prune(compressed=True, trees=True)
            case _:
                self._store.restore_blobs()

    def save(self) -> None:
        """An image of one's own, to memory's end: every blob of it is read and checked."""
        with self._store.lease("reading") as lease:
            self._store.save(self.names[:1], lease.directory / "saved", format="oci-dir")

    def read(self) -> None:
        """Every file of an image or of a snapshot of one's own."""
        for name in self.names[:1]:
            operations.files(self._store.image(name).files)
        for key in self.snapshots[:1]:
            operations.files(self._store.snapshot(key).files)

    def prepare(self) -> None:
        key = self._new("snapshot")
        self._store.prepare(self._random.choice(self.names), key, driver=self._random.choice(self._drivers))
        self._keep(key)

    def _keep(self, key: str) -> None:
        self.say("snapshot", key)
        self.snapshots.append(key)

    def mount(self) -> None:
        snapshot = self._store.snapshot(self._random.choice(self.snapshots))
        image = operations.files(snapshot.image.files)
        with snapshot.mount() as root:
            for path, (_, *_, content) in image.items():
                if content and (root / os.fsdecode(path)).is_file():
                    (root / os.fsdecode(path)).read_bytes()
            (root / f"written-{self._random.randrange(5)}").write_bytes(operations.BIG[self._random.randrange(9) :])

    def commit(self) -> None:
        name = f"{self._new('commit')}:1"
        image = self._store.snapshot(self._random.choice(self.snapshots)).commit(name, recipe=operations.RECIPE)
        self._have(name, image.digest)

    def fork(self) -> None:
        key = self._new("fork")
        self._store.fork(self._random.choice(self.snapshots), key)
        self._keep(key)

    def roll_back(self) -> None:
        self._store.snapshot(self._random.choice(self.snapshots)).roll_back()

    def remove(self) -> None:
        key = self._random.choice(self.snapshots)
        self._store.snapshot(key).remove()
        self.say("no-snapshot", key)
        self.snapshots.remove(key)


def main() -> None:
    """Work, and say how it ended."""
    root, inputs, log, seed, count = sys.argv[1:]
    with Store.open(root) as store:
        worker = Worker(store, Path(inputs), Path(log), int(seed))
        try:
            worker.work(int(count))
        except LamellaError as error:
            print(f"{error.kind} {error.code}: {error}", file=sys.stderr)
            raise
        worker.say("end")


if __name__ == "__main__":
    main()
