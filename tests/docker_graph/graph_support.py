"""Layers and images of 2013, made by hand."""

from __future__ import annotations

import io

from lamella import TreeView
from lamella.formats.docker_graph import GraphImage, Record, generate_id
from support.building import file, tar
from support.trees import read_view


def layer(*items):
    """A layer's archive of these members, open."""
    return io.BytesIO(tar(*items))


def fake_tar():
    """The layer that docker's own tests made."""
    names = ("/etc/postgres/postgres.conf", "/etc/passwd", "/var/log/postgres/postgres.conf")
    return layer(*(file(name, "Hello world!\n", mode=0) for name in names))


def image(id="", **values):
    """An image in no graph, with a random id unless one is given."""
    return GraphImage(Record(id=id or generate_id(), **values))


def chain(graph, count, **values):
    """A base image and its descendants, each with a file of its own; base first."""
    found = []
    for number in range(count):
        parent = found[-1].id if found else ""
        found.append(graph.register(image(parent=parent, **values), layer(file(f"f{number}", str(number)))))
    return found


def container_of(graph, image_id, id="c" * 64):
    """A container as docker keeps it, made of an image; its id."""
    place = graph.layout.home / "containers" / id
    place.mkdir(parents=True)
    (place / "config.json").write_text(f'{{"ID":"{id}","Image":"{image_id}","State":{{"Running":false}}}}')
    return id


def listing(directory):
    """All that is below a directory, with modes; sorted."""
    return {str(path.relative_to(directory)): path.lstat().st_mode & 0o7777 for path in sorted(directory.rglob("*"))}


def read_view_of(found):
    """The whole tree of an image."""
    return read_view(TreeView(found.tree()))
