"""A graph that may not be written to is read all the same."""

from __future__ import annotations

import subprocess

import pytest
from graph_support import image, layer

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm
from support.building import file
from support.needs import needs_root


@pytest.fixture
def readonly(disk):
    """Mounts what is below a directory read-only at another, until the test ends."""
    places = []

    def make(source, target):
        target.mkdir()
        subprocess.run(["mount", "--bind", source, target], check=True)
        places.append(target)
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        return target

    yield make
    for place in places:
        subprocess.run(["umount", place], check=True)


@needs_root
@pytest.mark.parametrize("form", list(GraphForm), ids=lambda form: form.name)
def test_reading(disk, readonly, form):
    written = Graph.open(disk / "docker" / "graph", form=form)
    base = written.register(image(), layer(file("a", "12345")))
    child = written.register(image(parent=base.id), layer(file("b", "123")))
    written.tags.set("r", "t", child.id)
    (child.root() / "layersize").unlink(missing_ok=True)
    place = readonly(disk / "docker", disk / "readonly")
    graph = Graph.open(place, create=False)
    assert graph.layout.form is form
    found = graph.tags.lookup("r:t")
    assert found == child
    assert TreeView(found.tree()).open("a").read() == b"12345"
    assert (found.size, found.virtual_size) == (3, 8)
    assert found.checksum() == child.checksum()
    assert found.tarsum() == child.tarsum()
    for act in (
        lambda: graph.create(layer(file("c"))),
        lambda: graph.delete(child.id, force=True),
        lambda: graph.tags.set("r", "u", child.id),
        lambda: graph.tags.delete("r"),
    ):
        with pytest.raises(errors.AccessDenied):
            act()
    assert [image.id for image in graph.all()] == sorted([base.id, child.id])
    assert graph.tags.names(child.id) == ["r:t"]
