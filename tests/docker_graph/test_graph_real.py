"""Layers of real images in a graph are what tar, which docker 0.4 ran, makes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from graph_support import image

from lamella.formats.docker_graph import Graph, GraphForm, tarsum
from support.needs import needs_root, needs_tool
from support.trees import assert_same, read_directory


def layers_of(layout: Path):
    """The layers of the first image of a layout, as files."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(blob(layout, index["manifests"][0]).read_bytes())
    return [blob(layout, layer) for layer in manifest["layers"]]


def blob(layout: Path, descriptor):
    return layout / "blobs" / descriptor["digest"].replace(":", "/")


@needs_root
@needs_tool("bsdtar")
@pytest.mark.parametrize("name", ["alpine-3.20", "busybox/glibc"])
@pytest.mark.parametrize("form", [GraphForm.V0_4, GraphForm.VFS], ids=lambda form: form.name)
def test_a_real_layer(real_layout, disk, name, form):
    (layer,) = layers_of(real_layout(name))
    expected = disk / "expected"
    expected.mkdir()
    subprocess.run(["bsdtar", "--numeric-owner", "-xpf", layer, "-C", expected], check=True)
    graph = Graph.open(disk / "graph", form=form)
    with open(layer, "rb") as archive:
        made = graph.register(image(), archive, keep_archive=True)
    shown = read_directory(made.layer())
    wanted = read_directory(expected)
    for tree in (shown, wanted):
        del tree[b""]  # bsdtar leaves a root without an entry as the directory was made
    assert_same(shown, wanted)
    if form is GraphForm.V0_4:
        with made.open_layer() as stored:
            assert stored.read() == layer.read_bytes()
    assert made.checksum() == Graph.open(graph.root).get(made.id).checksum()
    with open(layer, "rb") as archive:
        assert tarsum(archive, made.record.json, version="1").startswith("tarsum.v1+sha256:")
