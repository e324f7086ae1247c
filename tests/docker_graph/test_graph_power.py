"""What a graph acknowledged is there when the power goes: on a file system that forgets what was not synced."""

from __future__ import annotations

import io
import os

import pytest
from graph_support import image, layer

from lamella import TreeView
from lamella._sys.files import fsync_dir, sync_tree
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage
from lamella.formats.docker_graph.branch import Branch
from lamella.formats.docker_graph.union import unmount
from lamella.mounts.model import Form
from lamella.testing import powercut
from lamella.testing.powercut import CuttableDisk
from support.building import directory, file, gone, tar

ID = "ab" * 32
LAYER = tar(directory("d"), *(file(f"d/{number}", f"{number}" * 5000) for number in range(40)))


@pytest.fixture
def power(tmp_path):
    if reason := powercut.missing():
        pytest.skip(reason)
    with CuttableDisk.make(tmp_path).mounted() as disk:
        yield disk


def lose_power(disk):
    disk.cut()
    disk.restart()


@pytest.mark.parametrize("form", list(GraphForm), ids=lambda form: form.name)
def test_each_thing_that_was_acknowledged(power, form):
    def graph():
        return Graph.open(power.path / "docker" / "graph", form=form)

    base = graph().create(io.BytesIO(LAYER))
    lose_power(power)
    assert len(list(TreeView(graph().get(base.id).tree()).walk())) == 42
    assert TreeView(graph().get(base.id).tree()).open("d/7").read() == b"7" * 5000
    child = graph().register(image(parent=base.id), layer(file("new", "new"), gone("d/7")), keep_archive=True)
    graph().tags.set("r", "t", child.id)
    sum = graph().get(child.id).checksum()
    lose_power(power)
    assert graph().tags.lookup("r:t").id == child.id
    assert graph().get(child.id).checksum() == sum
    assert graph().checksums() == ({child.id: sum} if form is GraphForm.V0_4 else {})
    assert not TreeView(graph().get(child.id).tree()).exists("d/7")
    graph().delete(child.id, force=True)
    lose_power(power)
    assert [found.id for found in graph().all()] == [base.id]
    assert graph().tags.repositories == {}


def test_an_image_that_is_stored_without_a_graph(power):
    made = image(ID).store(power.path / ID, io.BytesIO(LAYER), keep_archive=True)
    lose_power(power)
    assert GraphImage.load(power.path / ID) == made
    assert (power.path / ID / "layer/d/7").read_bytes() == b"7" * 5000
    assert (power.path / ID / "layer.tar.xz").read_bytes() == LAYER


def test_a_branch_that_another_driver_takes_over(power):
    """What was written to it and is on the disk stays there while it takes another form."""
    base = Graph.open(power.path / "graph").create(io.BytesIO(LAYER))
    rw = power.path / "rw"
    rw.mkdir()
    (rw / "new").write_bytes(b"new" * 5000)
    (rw / ".wh.d").touch()
    sync_tree(rw)
    fsync_dir(power.path)
    before = base.changes(rw)
    base.mount(power.path / "rootfs", rw, driver="copy")
    unmount(power.path / "rootfs")
    lose_power(power)
    assert Branch(rw).form is Form.PLAIN
    assert base.changes(rw) == before
    assert (rw / "new").read_bytes() == b"new" * 5000


def test_the_control_loses_what_was_not_synced(power, monkeypatch):
    from lamella._sys import syscalls

    Graph.open(power.path / "graph")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        patch.setattr(syscalls, "syncfs", lambda fd: None)
        made = Graph.open(power.path / "graph").create(io.BytesIO(LAYER))
        assert TreeView(made.tree()).exists("d/7")
    lose_power(power)
    assert not (power.path / "graph" / made.id / "json").exists()
