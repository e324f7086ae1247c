"""Images of many layers, which need more than the kernel's page of mount options."""

from __future__ import annotations

import pytest

import lamella
from support import building
from support.needs import needs_driver, needs_root
from support.trees import assert_same, read_directory, read_view

COUNT = 500


@pytest.fixture(scope="module")
def store(real_disk):
    """A store with such an image: each layer changes a file that all have, and every other deletes one of the last."""
    layers = []
    for n in range(COUNT):
        left = building.gone(f"left-{n - 1:03}") if n % 2 else building.file(f"left-{n:03}")
        layers.append(building.tar(building.file("common", f"{n}"), building.file(f"f{n:03}"), left))
    with lamella.Store.open(real_disk / "many-layers") as opened:
        opened.load(building.layout(real_disk / "many-layers-layout", layers))
        yield opened


@needs_root
@needs_driver("overlay")
def test_five_hundred_layers_mount_on_overlay(store):
    image = store.image("it")
    assert len(image.layers) == COUNT
    with store.prepare(image, "work", driver="overlay") as snapshot:
        with snapshot.mount() as root:
            assert_same(read_directory(root), read_view(image))
            assert (root / "common").read_text() == f"{COUNT - 1}"
            assert not list(root.glob("left-*"))
            (root / "f000").unlink()
        assert [str(change) for change in snapshot.changes()] == ["D /f000"]
        child = snapshot.commit()
    assert len(child.layers) == COUNT + 1
    assert len(list(child.walk())) == COUNT + 1
    assert [(step.layer, step.action) for _, step in child.provenance("f000")] == [(0, "A"), (COUNT, "D")]
