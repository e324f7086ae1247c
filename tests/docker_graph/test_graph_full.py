"""A full disk: what does not fit leaves nothing, and everything that was there stays as it was."""

from __future__ import annotations

import io
import os
import subprocess

import pytest
from graph_support import image, layer, listing

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm
from lamella.formats.docker_graph_source import DockerGraphSource
from support.building import file, tar
from support.needs import needs_root


@pytest.fixture
def small(disk):
    """A file system of two megabytes."""
    (disk / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk / "small"], check=True)
    yield disk / "small"
    subprocess.run(["umount", disk / "small"], check=True)


@needs_root
@pytest.mark.parametrize("form", list(GraphForm), ids=lambda form: form.name)
def test_what_does_not_fit(small, form):
    graph = Graph.open(small / "docker" / "graph", form=form)
    base = graph.register(image(), layer(file("a", "x" * 1000)))
    graph.tags.set("r", "t", base.id)
    graph.layout.temporary.mkdir(exist_ok=True)
    before = listing(small)
    for size in (300_000, 700_000, 3_000_000):
        big = tar(*(file(f"f{number}", b"y" * (size // 10)) for number in range(10)))
        with pytest.raises(errors.ResourceExhausted):
            while True:  # the small ones fit once or twice
                made = graph.register(image(parent=base.id), io.BytesIO(big), keep_archive=True)
                assert len(TreeView(graph.get(made.id).tree()).listdir()) == 11
        for found in graph.all():
            if found.id != base.id:
                graph.delete(found.id)
        assert listing(small) == before


@needs_root
def test_sizes_are_told_without_being_kept(small):
    graph = Graph.open(small / "docker" / "graph", form=GraphForm.V0_6)
    base = graph.register(image(), layer(file("a", "x" * 1000)))
    (base.root() / "layersize").unlink()
    fill(small)
    assert base.size == 1000
    assert sorted(os.listdir(base.root())) == ["json", "layer"]


def fill(small):
    with open(small / "filler", "wb") as filler, pytest.raises(OSError, match="No space"):
        while True:
            os.write(filler.fileno(), bytes(4096))


@needs_root
def test_names_and_checksums_that_cannot_be_written(small):
    graph = Graph.open(small / "docker" / "graph")
    base = graph.register(image(), layer(file("a")))
    graph.tags.set("r", "t", base.id)
    fill(small)
    with pytest.raises(errors.ResourceExhausted):
        graph.tags.set("r", "u", base.id)
    with pytest.raises(errors.ResourceExhausted):
        base.checksum()
    assert graph.tags.repositories == {"r": {"t": base.id}}
    assert graph.checksums() == {}
    os.unlink(small / "filler")
    assert base.checksum().startswith("sha256:")
    assert sorted(os.listdir(graph.root)) == sorted([":tmp:", base.id, "checksums"])


@needs_root
def test_what_there_is_no_room_to_import_is_not_damaged(small, disk):
    graph = Graph.open(disk / "docker" / "graph")
    for size in (10, 3_000_000):
        graph.register(image(), layer(file("a", "x" * size)))
    with pytest.raises(errors.ResourceExhausted):
        DockerGraphSource(graph, small, skip_damaged=True)
