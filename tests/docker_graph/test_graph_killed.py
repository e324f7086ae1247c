"""What is killed, or fails, at any of its system calls: all or nothing, and the next one goes on."""

from __future__ import annotations

import errno
import io
import shutil
import tempfile
from pathlib import Path

import pytest
from graph_support import image, layer

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm
from lamella.testing import supervised
from lamella.testing.supervised import CALLS, Fault
from support import needs
from support.building import directory, file, tar

ID, BASE = "ab" * 32, "cd" * 32
LAYER = tar(directory("d"), file("d/new", "new"), file("d/.wh.old"))
TAKE_SPACE = frozenset(name for name in CALLS if name.startswith(("write", "open", "mkdir", "copy")))


def register(graph):
    graph.register(image(ID, parent=BASE), io.BytesIO(LAYER), keep_archive=True)


def delete(graph):
    assert graph.delete(ID, force=True) == ["r:t"]


def tag(graph):
    graph.tags.set("r", "o", ID, force=True)


def untag(graph):
    graph.tags.delete("r")


def checksum(graph):
    graph.get(ID).checksum()


class World:
    """A graph, and copies of it for an operation to be disturbed in."""

    def __init__(self, place, form, act):
        self.template, self.copy, self.form, self.act = place / "template", place / "copy", form, act
        graph = Graph.open(self.template / "graph", form=form)
        graph.register(image(BASE), layer(directory("d"), file("d/old", "old")))
        graph.get(BASE).checksum()
        if act is not register:
            register(graph)
            graph.tags.set("r", "t", ID)
        if act in (tag, untag):
            graph.tags.set("r", "o", BASE)
        if act is delete:
            checksum(graph)
        self.fresh()

    def fresh(self):
        """Make a new copy."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.template, self.copy, symlinks=True)
        self.graph = Graph.open(self.copy / "graph", form=self.form)

    def run(self, fault=None):
        """Do it in a new copy and in another process, which ends with status 3 when it fails as it should."""
        self.fresh()

        def act():
            try:
                self.act(self.graph)
            except errors.LamellaError as error:
                print(f"{type(error).__name__}: {error}")
                raise SystemExit(3) from error

        return supervised.supervised(act, below=self.copy, fault=fault)

    def sweep(self, fault):
        """Runs with the fault at each call in turn."""
        number = 1
        while (run := self.run(fault(number))).was_hit:
            yield run
            number += 1
        assert run.status == 0, run.errors
        assert number > 2

    def picture(self):
        """The images and all that is in them, their names, their checksums."""
        images = {found.id: [info.path for info in TreeView(found.tree()).walk()] for found in self.graph.all()}
        return images, self.graph.tags.repositories, self.graph.checksums()

    def files(self):
        """All that lies there outside of the temporary directory."""
        temporary = self.graph.layout.temporary
        paths = sorted(path for path in self.copy.rglob("*") if temporary not in (path, *path.parents))
        return {str(path.relative_to(self.copy)): path.read_bytes() if path.is_file() else None for path in paths}


ACTS = [(form, act) for form in (GraphForm.V0_4, GraphForm.AUFS) for act in (register, delete)]
ACTS += [(GraphForm.V0_4, act) for act in (tag, untag, checksum)]


@pytest.fixture
def place(tmp_path):
    """A directory, in memory where that can be, as nothing here is about what a disk keeps."""
    if reason := supervised.missing():
        needs.missing(f"seccomp user notifications: {reason}")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


@pytest.fixture(params=ACTS, ids=lambda param: f"{param[0].name}-{param[1].__name__}")
def world(request, place):
    """A graph, and what is done to it."""
    return World(place, *request.param)


def test_killed(world):
    before = world.picture()
    assert world.run().status == 0
    after = world.picture()
    assert after != before
    for run in world.sweep(Fault):
        seen = world.picture()
        if world.act is delete and seen[0] == before[0]:  # checksum and names go first
            assert all(part in (old, new) for part, old, new in zip(seen, before, after, strict=True)), run.hit
        else:
            assert seen in (before, after), run.hit
        assert_goes_on(world.graph)
        assert list(world.graph.layout.temporary.iterdir()) == [], run.hit
        assert list(world.copy.rglob("*.tmp")) == [], run.hit


def assert_goes_on(graph):
    if ID not in graph.ids():
        register(graph)
    graph.tags.set("r", "t", ID, force=True)
    graph.get(ID).checksum()
    assert [info.path for info in TreeView(graph.get(ID).tree()).walk()] == [b"", b"d", b"d/new"]
    assert "r:t" in graph.delete(ID, force=True)
    assert graph.ids() == [BASE]
    assert ID not in graph.checksums()


def test_a_call_that_fails(world):
    before, files = world.picture(), world.files()
    assert world.run().status == 0
    after = world.picture()
    for run in world.sweep(lambda number: Fault(number, errno.EIO)):
        if run.status == 3:
            assert (world.picture(), world.files()) == (before, files), (run.hit, run.output)
        else:
            assert run.status == 0, run.errors
            assert world.picture() == after, run.hit


def test_a_disk_that_is_full_from_some_call_on(world):
    images, names, _ = world.picture()
    assert world.run().status == 0
    after = world.picture()
    for run in world.sweep(lambda number: Fault(number, errno.ENOSPC, calls=TAKE_SPACE, lasting=True)):
        assert run.status in (0, 3), run.errors
        assert world.picture()[:2] == ((images, names) if run.status == 3 else after[:2]), (run.hit, run.output)


def when(calls, name, path):
    """The number of the first call of a name that is about a path, or makes it."""
    return next(number for number, call in enumerate(calls) if call.name == name and str(path) in call.paths)


@pytest.mark.parametrize("form", list(GraphForm), ids=lambda form: form.name)
def test_all_of_an_image_is_synced_before_it_shows(place, form):
    """Cutting the power does not tell: a journal keeps the order of what is not synced, too."""
    world = World(place, form, register)
    calls = world.run().calls
    root, layout = world.graph.root, world.graph.layout
    shown = when(calls, "rename", root / ID)
    synced = {Path(call.paths[0]) for call in calls[:shown] if call.name == "fsync"}
    names = {path.name for path in synced}
    assert {"json", "layer", "d", "new"} <= names
    assert form is GraphForm.V0_4 or "layersize" in names
    assert form is not GraphForm.AUFS or any(name.startswith(".layers.") for name in names)
    assert {place.parent for place in layout.driver_places(ID)} <= synced
    assert when(calls[shown:], "fsync", root)


def test_names_go_before_their_image_and_its_layer_last(place):
    world = World(place, GraphForm.AUFS, delete)
    calls = world.run().calls
    root, layout = world.graph.root, world.graph.layout
    steps = [when(calls, "rename", layout.tags), when(calls, "fsync", layout.home)]
    steps += [when(calls, "rename", root / ID), when(calls, "fsync", root), when(calls, "rename", layout.layer(ID))]
    assert steps == sorted(steps)
