"""Many processes in one graph, killed at random: it opens, and nothing that was acknowledged is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from lamella import TreeView
from lamella.formats.docker_graph import Graph, checksum
from lamella.formats.docker_graph.sidefile import parse_checksums, parse_repositories

WORKER = Path(__file__).with_name("graph_worker.py")
PROCESSES = 8
KILLS = 200
"""About a minute of work."""


def test_nothing_acknowledged_is_lost(disk):
    graph = Graph.open(disk / "graph")
    chance = random.Random(20130603)
    running = {}
    try:
        for _ in range(KILLS):
            for number in range(PROCESSES):
                if number not in running:
                    arguments = [str(word) for word in (disk, number, chance.randrange(1 << 30))]
                    running[number] = subprocess.Popen([sys.executable, WORKER, *arguments], stderr=subprocess.PIPE)
            time.sleep(chance.uniform(0.05, 0.5))
            victim = running.pop(chance.choice(list(running)))
            victim.kill()
            _, complaint = victim.communicate()
            assert complaint == b""
        (disk / "stop").touch()
        for process in running.values():
            _, complaint = process.communicate(timeout=60)
            assert (process.returncode, complaint) == (0, b"")
        running.clear()
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    graph.delete(graph.create(None).id)
    assert list(graph.layout.temporary.iterdir()) == [], "what the killed left is cleared"
    said = [line.split() for path in disk.glob("log-*") for line in path.read_text().splitlines()]
    check_images(graph, said)
    check_names(graph, said)
    check_checksums(graph, said)


def doubtful(said):
    """The ids that somebody may have removed: a removal was begun and not refused."""
    ends = Counter(words[2] for words in said if words[1] == "delete" and words[0] == "begin")
    ends.subtract(words[2] for words in said if words[1] == "delete" and words[0] == "refused")
    return {id for id, count in ends.items() if count}


def check_images(graph, said):
    damaged = []
    there = {found.id: found for found in graph.walk(lambda id, error: damaged.append((id, error)))}
    assert damaged == []
    created = {words[2] for words in said if words[:2] == ["done", "create"]}
    deleted = {words[2] for words in said if words[:2] == ["done", "delete"]}
    kept = created - doubtful(said)
    assert kept <= there.keys()
    assert not deleted & there.keys()
    assert min(len(kept), len(deleted)) > PROCESSES
    assert {found.parent for found in there.values()} - {""} <= there.keys(), "nobody stands on what is gone"
    for id, found in there.items():
        view = TreeView(found.tree())
        assert {f"file-{link.id}".encode() for link in found.history()} == {info.path for info in view.walk()} - {b""}
        assert view.open(f"file-{id}").read() == id.encode()


def check_names(graph, said):
    repositories, damage = parse_repositories(graph.tags.path.read_bytes())
    assert damage is None
    found = {f"{repository}:{tag}": id for repository, tags in repositories.items() for tag, id in tags.items()}
    assert set(found.values()) <= set(graph.ids()), "no name is of an image that is gone"
    last, begun = {}, set()
    for act, _, name, id in (words for words in said if words[1] == "tag"):
        begun.add(name) if act == "begin" else begun.discard(name)
        if act == "done":
            last[name] = id
    gone = doubtful(said)
    assert {name: id for name, id in last.items() if name not in begun and id not in gone}.items() <= found.items()
    assert found


def check_checksums(graph, said):
    kept, damage = parse_checksums((graph.root / "checksums").read_bytes())
    assert damage is None
    assert kept.keys() <= set(graph.ids())
    gone = doubtful(said)
    acknowledged = {words[2]: words[3] for words in said if words[1] == "checksum" and words[2] in graph.ids()}
    assert acknowledged
    for id, sum in acknowledged.items():
        found = graph.get(id)
        assert kept.get(id) == sum or (id in gone and id not in kept)
        with found.open_layer() as layer:
            assert checksum(found.record.json, layer) == sum
