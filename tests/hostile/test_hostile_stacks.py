"""Random layers at odds with each other: the merged tree and what every driver mounts must be the same, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from build import digest, layout
from hostile_stacks import stack
from hostile_world import World, a_place

from lamella import Image, LamellaError
from lamella.mounts import mount as mounting
from support import needs, trees

_SEEDS = range(60)
_NAME = "hostile:1"


@pytest.fixture(scope="module")
def world(real_disk: Path) -> Iterator[World]:
    needs.root()
    with a_place(real_disk) as place:
        found = World(place)
        yield found
        found.close()


@pytest.mark.parametrize("seed", _SEEDS)
def test_a_random_stack_is_refused_whole_or_looks_the_same_however_it_is_mounted(world: World, seed: int) -> None:
    layers = stack(seed, bytes(world.canary))
    with world.unharmed():
        image = _load_what_can_be(world, layers)
        compare_mounts(world, image)
        world.clear()


def test_enough_of_the_random_stacks_are_images(world: World) -> None:
    """The generator is worth something only if a fair part of what it makes comes through in several layers."""
    tall = 0
    with world.unharmed():
        for seed in range(20):
            tall += len(_load_what_can_be(world, stack(seed, bytes(world.canary))).layers) > 1
            world.clear()
    assert tall >= 5


def _load_what_can_be(world: World, layers: list[bytes]) -> Image:
    """The image of as many of the layers as can be applied; the one that cannot has to be named."""
    while True:
        try:
            with world.scratch() as scratch:
                world.store.load(layout(*layers, name=_NAME).write(scratch / "layout"))
            return world.store.image(_NAME)
        except LamellaError as error:
            names = [{digest(data), *_blob_names(data)} for data in layers]
            broken = [i for i, known in enumerate(names) if error.layer in known]
            assert broken, str(error)
            assert error.entry is not None
            layers = layers[: broken[0]] + layers[broken[0] + 1 :]


def _blob_names(data: bytes) -> list[str]:
    from build import gz

    return [digest(gz(data))]


def compare_mounts(world: World, image: Image) -> None:
    """Assert that each driver shows the merged tree, and that nothing counts as changed."""
    merged = trees.read_view(image)
    for driver in ("overlay", "copy", "erofs"):
        if not mounting.driver(driver).probe(world.place).ok:
            continue
        snapshot = world.store.prepare(image, f"stack-{driver}", driver=driver)
        with snapshot.mount() as root:
            shown = merged if driver == "copy" else _visible(merged)
            trees.assert_same(shown, trees.read_directory(root))
            assert snapshot.changes() == []


def _visible(merged: trees.Tree) -> trees.Tree:
    """Without character devices 0/0, which no overlay shows, and which are then no name of a group either."""
    gone = {path for path, leaf in merged.items() if leaf.kind == "char" and leaf.device == (0, 0)}
    return {path: leaf for path, leaf in merged.items() if path not in gone}
