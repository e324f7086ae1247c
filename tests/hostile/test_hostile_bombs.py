"""Bombs against the limits that everybody has who gives none: they end in an error long before the disk does."""

from __future__ import annotations

import gzip
import io
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from build import END, header
from hostile_world import World

from lamella.errors import ResourceExhausted

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PIECE = bytes(64 << 20)
_MEMORY = 192 << 20


@pytest.fixture(scope="module")
def world(real_disk: Path) -> Iterator[World]:
    place = real_disk / "bombs"
    place.mkdir()
    found = World(place)
    yield found
    found.close()


class _Parts(io.RawIOBase):
    """Pieces one after the other, which together need no memory."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)[::-1]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._parts:
            return b""
        part = self._parts.pop()
        if len(part) > size:
            self._parts.append(part[size:])
        return part[:size]


def _gzip_well(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb_of_a_terabyte_goes_off_at_the_ratio_of_the_default_limits(world: World, compression: str) -> None:
    """16,384 frames or members of 64 MiB of zeros, all but the first the same bytes."""
    compress = _gzip_well if compression == "gzip" else zstd.compress
    head = compress(header(b"zeros", size=1 << 40))
    piece = compress(_PIECE)
    with world.unharmed():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ResourceExhausted) as caught:
            world.store.import_rootfs(_Parts(head, *[piece] * 16_384, compress(END)), "bomb:1")
        assert (caught.value.code, caught.value.entry) == ("compression-bomb", b"zeros")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MEMORY >> 10
