"""Many processes in one graph, killed at random: it opens, and nothing that was acknowledged is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
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
    graph.create(None)
    assert list(graph.layout.temporary.iterdir()) == [], "what the killed left is cleared"
    check_images(graph, logs(disk))
    check_names(graph, logs(disk))
    check_checksums(graph, logs(disk))


def logs(place):
    """The lines of each log, as words; the last may be cut off by nothing, as one write is one line."""
    for path in sorted(place.glob("log-*")):
        yield [line.split() for line in path.read_text().splitlines()]


def check_images(graph, all_lines):
    damaged = []
    there = {found.id for found in graph.walk(lambda id, error: damaged.append((id, error)))}
    assert damaged == []
    made = kept = 0
    for lines in all_lines:
        created = {words[2] for words in lines if words[:2] == ["done", "create"]}
        begun = [words[2] for words in lines if words[:2] == ["begin", "delete"]]
        refused = {words[2] for words in lines if words[:2] == ["refused", "delete"]}
        deleted = {words[2] for words in lines if words[:2] == ["done", "delete"]}
        doubtful = {id for id in begun if id not in refused or begun.count(id) > 1}
        made += len(created)
        kept += len(created - doubtful)
        assert created - doubtful <= there
        assert not deleted & there
        for id in sorted(created & there):
            view = TreeView(graph.get(id).tree())
            assert view.open(f"file-{id}").read() == id.encode()
    assert made > PROCESSES
    assert kept > PROCESSES


def check_names(graph, all_lines):
    repositories, damage = parse_repositories(graph.tags.path.read_bytes())
    assert damage is None
    for number, lines in enumerate(all_lines):
        last, doubtful, gone = {}, set(), set()
        for words in lines:
            if words[:2] == ["begin", "tag"]:
                doubtful.add(words[2])
            elif words[:2] == ["done", "tag"]:
                last[words[2]] = words[3]
                doubtful.discard(words[2])
            elif words[:2] == ["begin", "delete"]:
                gone.add(words[2])
        for name, id in last.items():
            if name not in doubtful and id not in gone:
                assert repositories[f"r{number}"][name.partition(":")[2]] == id


def check_checksums(graph, all_lines):
    kept, damage = parse_checksums((graph.root / "checksums").read_bytes())
    assert damage is None
    there = set(graph.ids())
    for lines in all_lines:
        for words in lines:
            if words[:2] == ["done", "checksum"] and words[2] in there:
                found = graph.get(words[2])
                assert kept[words[2]] == words[3]
                with found.open_layer() as layer:
                    assert checksum(found.record.json, layer) == words[3]
