"""A few hundred rounds of the fuzzer, the same ones every time; more by hand: see fuzz_layers.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_layers import Fuzzer
from hostile_world import World, a_place

_ROUNDS = 40
_PARTS = 10


@pytest.fixture(scope="module")
def fuzzer(real_disk: Path) -> Iterator[Fuzzer]:
    with a_place(real_disk) as place:
        world = World(place)
        yield Fuzzer(world)
        world.close()


@pytest.mark.parametrize("part", range(_PARTS))
def test_spoiled_inputs_are_refused_with_typed_errors_or_are_sound_images(fuzzer: Fuzzer, part: int) -> None:
    for number in range(part * _ROUNDS, (part + 1) * _ROUNDS):
        fuzzer.round(number)
    fuzzer.check()


def test_the_rounds_came_through_and_were_refused_for_many_reasons(fuzzer: Fuzzer) -> None:
    assert fuzzer.taken > 20
    assert len(fuzzer.codes) > 15
