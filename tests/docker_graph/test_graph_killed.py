"""Processes that write to a graph and are killed at any system call: all or nothing, and the next one goes on."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from graph_support import image, layer

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm
from support.building import directory, file, tar
from support.needs import needs_tool

ID = "ab" * 32
LAYER = tar(directory("d"), file("d/new", "new"), file("d/.wh.old"))
CALLS = "rename,renameat2,fsync,syncfs,unlink,unlinkat,mkdir,mkdirat,rmdir"

PREPARE = """
import io, sys
from pathlib import Path
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage, Record
place, parent, id, data = Path(sys.argv[1]), sys.argv[2], sys.argv[3], open(sys.argv[4], "rb")
graph = Graph.open(place / "graph")
"""
REGISTER = PREPARE + "graph.register(GraphImage(Record(id=id, parent=parent)), data, keep_archive=True); print('done')"
DELETE = PREPARE + "graph.delete(id, force=True); print('done')"
TAG = PREPARE + "graph.tags.set('r', 't', id, force=True); print('done')"

pytestmark = needs_tool("strace")


def killed_at(number, script, *arguments):
    """Run a script that is killed at its ``number``-th call; whether it said that it was done, and whether it was."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}"]
    command += ["-e", f"inject={CALLS}:signal=KILL:when={number}"]
    done = subprocess.run(
        [*command, sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return True, False
    assert done.stderr == "", done.stderr
    return "done" in done.stdout, True


@pytest.fixture(params=[GraphForm.V0_4, GraphForm.AUFS], ids=lambda form: form.name)
def world(request, disk):
    """A graph with a base image, and the archive of a layer for it."""
    graph = Graph.open(disk / "graph", form=request.param)
    base = graph.register(image(), layer(directory("d"), file("d/old", "old")))
    (disk / "layer.tar").write_bytes(LAYER)
    return disk, graph, base


def every_third(first, script, *arguments, check):
    """Kill the script at every third call, from the ``first`` on, until it is through."""
    number = first
    while True:
        said, was_killed = killed_at(number, script, *arguments)
        check(said)
        if not was_killed:
            return
        number += 3


def whole(graph, id):
    view = TreeView(graph.get(id).tree())
    return [info.path for info in view.walk()] == [b"", b"d", b"d/new"]


@pytest.mark.parametrize("first", [1, 2])
def test_register(world, first):
    disk, graph, base = world

    def check(said):
        there = graph.exists(ID)
        assert there or not said
        if there:
            assert whole(graph, ID)
            with pytest.raises(errors.AlreadyExists):
                graph.register(image(ID), None)
            graph.delete(ID)
        assert graph.ids() == [base.id]

    every_third(first, REGISTER, disk, base.id, ID, disk / "layer.tar", check=check)
    graph.register(image(ID, parent=base.id), io.BytesIO(LAYER))
    assert whole(graph, ID)
    assert list(graph.layout.temporary.iterdir()) == []


@pytest.mark.parametrize("first", [1, 2, 3])
def test_delete(world, first):
    disk, graph, base = world

    def check(said):
        there = graph.exists(ID)
        assert not (there and said)
        if there:
            assert whole(graph, ID)
            assert graph.tags.names(ID) in ([], ["r:t"])
        else:
            graph.register(image(ID, parent=base.id), io.BytesIO(LAYER))
        graph.tags.set("r", "t", ID)

    check(said=False)
    every_third(first, DELETE, disk, base.id, ID, disk / "layer.tar", check=check)


def test_tag(world):
    disk, graph, base = world
    graph.register(image(ID, parent=base.id), io.BytesIO(LAYER))
    graph.tags.set("r", "t", base.id)

    def check(said):
        assert graph.tags.names(ID) == (["r:t"] if said else graph.tags.names(ID))
        assert graph.tags.lookup("r:t").id in (ID, base.id)
        graph.tags.set("r", "t", base.id, force=True)

    every_third(1, TAG, disk, base.id, ID, disk / "layer.tar", check=check)
