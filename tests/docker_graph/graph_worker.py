"""One of many processes that work on one graph until they are killed: see test_graph_parallel.

Says in its log what it begins and what was acknowledged, a line each: ``begin OPERATION ARGUMENTS``, ``done ...``.
"""

from __future__ import annotations

import io
import os
import random
import sys
import tarfile
from pathlib import Path

from lamella import errors
from lamella.formats.docker_graph import Graph, GraphImage, Record, generate_id


def main(place: Path, number: int, seed: int) -> None:
    graph = Graph.open(place / "graph")
    log = os.open(place / f"log-{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    worker = Worker(graph, log, number, random.Random(seed))
    while not (place / "stop").exists():
        worker.step()


class Worker:
    def __init__(self, graph: Graph, log: int, number: int, chance: random.Random) -> None:
        self.graph, self.log, self.number, self.chance = graph, log, number, chance
        self.mine: list[str] = []

    def say(self, *words: str) -> None:
        os.write(self.log, (" ".join(words) + "\n").encode())

    def step(self) -> None:
        act = self.chance.choice([self.create, self.create, self.tag, self.tag, self.checksum, self.delete])
        act() if self.mine else self.create()

    def create(self) -> None:
        id = generate_id()
        parent = self.chance.choice(["", *self.mine[-3:]])
        self.say("begin", "create", id)
        image = GraphImage(Record(id=id, parent=parent))
        try:
            self.graph.register(image, io.BytesIO(layer_of(id)), keep_archive=self.chance.random() < 0.5)
        except errors.FailedPrecondition:
            return  # its parent went meanwhile
        self.say("done", "create", id)
        self.mine.append(id)

    def tag(self) -> None:
        id = self.chance.choice(self.mine)
        repository, tag = f"r{self.number}", f"t{self.chance.randrange(5)}"
        self.say("begin", "tag", f"{repository}:{tag}", id)
        self.graph.tags.set(repository, tag, id, force=True)
        self.say("done", "tag", f"{repository}:{tag}", id)

    def checksum(self) -> None:
        id = self.chance.choice(self.mine)
        self.say("done", "checksum", id, self.graph.get(id).checksum())

    def delete(self) -> None:
        id = self.mine.pop(self.chance.randrange(len(self.mine)))
        self.say("begin", "delete", id)
        try:
            self.graph.delete(id, force=True)
        except errors.FailedPrecondition:
            self.say("refused", "delete", id)
            self.mine.append(id)
            return
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
