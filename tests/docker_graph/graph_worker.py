"""One of many processes that work on one graph until they are killed: see test_graph_parallel.

Two threads, each of which says in its log what it begins and how that ended, a line each: ``begin OPERATION
ARGUMENTS``, ``done ...`` for what was acknowledged, ``refused ...`` for what another's work had made impossible.
"""

from __future__ import annotations

import io
import os
import random
import sys
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

from lamella import errors
from lamella.formats.docker_graph import Graph, GraphImage, Record, generate_id


def main(place: Path, number: int, seed: int) -> None:
    graph = Graph.open(place / "graph")
    second = threading.Thread(target=work, args=(graph, place, f"{number}b", random.Random(seed + 1)))
    second.start()
    work(graph, place, f"{number}a", random.Random(seed))
    second.join()


def work(graph: Graph, place: Path, name: str, chance: random.Random) -> None:
    log = os.open(place / f"log-{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    worker = Worker(graph, log, name, chance)
    while not (place / "stop").exists():
        worker.step()


class Worker:
    """Works on everybody's images."""

    def __init__(self, graph: Graph, log: int, name: str, chance: random.Random) -> None:
        self.graph, self.log, self.name, self.chance = graph, log, name, chance

    def say(self, *words: str) -> None:
        os.write(self.log, (" ".join(words) + "\n").encode())

    def step(self) -> None:
        ids = self.graph.ids()
        act = self.chance.choice([self.create, self.create, self.tag, self.tag, self.checksum, self.delete])
        if act == self.create or not ids:
            self.create(self.chance.choice(["", *ids]))
        else:
            act(self.chance.choice(ids))

    def create(self, parent: str) -> None:
        id = generate_id()
        self.say("begin", "create", id)
        image = GraphImage(Record(id=id, parent=parent))
        try:
            self.graph.register(image, io.BytesIO(layer_of(id)), keep_archive=self.chance.random() < 0.5)
        except errors.FailedPrecondition:  # its parent went meanwhile
            self.say("refused", "create", id)
        else:
            self.say("done", "create", id)

    def tag(self, id: str) -> None:
        name = f"r{self.name}:t{self.chance.randrange(5)}"
        self.say("begin", "tag", name, id)
        try:
            self.graph.tags.set(*name.split(":"), id, force=True)
        except errors.NotFound:
            self.say("refused", "tag", name, id)
        else:
            self.say("done", "tag", name, id)

    def checksum(self, id: str) -> None:
        with suppress(errors.NotFound):
            self.say("done", "checksum", id, self.graph.get(id).checksum())

    def delete(self, id: str) -> None:
        self.say("begin", "delete", id)
        try:
            self.graph.delete(id, force=True)
        except (errors.FailedPrecondition, errors.NotFound):  # it has children; it is gone
            self.say("refused", "delete", id)
        else:
            self.say("done", "delete", id)


def layer_of(id: str) -> bytes:
    """A layer that tells whose it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(f"file-{id}")
        info.size = len(id)
        archive.addfile(info, io.BytesIO(id.encode()))
    return out.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
