"""How a compressed stream comes again from what it unpacks to: the compressor, its level, and the library's version.

A recipe is worth what its proof is: ``proves`` compresses and compares every byte. It holds for the version of the
library that it names; another version may or may not give the same bytes, which only the digest tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lamella.archive._codecs import GZIP_HEADER, LEVELS, library_of
from lamella.archive.compression import Compression, CompressWriter
from lamella.errors import InvalidInput
from lamella.spec.endpoint import Reader

_CHUNK = 256 << 10
_TEXT = re.compile(r"(none|gzip|bzip2|xz|zstd):(\d{1,2}):([A-Za-z0-9_.+ -]{1,80})")
_ZSTD_HIGHEST = 19
"""Levels above take more memory to try than a store may use."""


@dataclass(frozen=True, slots=True)
class BlobRecipe:
    """A compression at a level by a version of a library, as ``gzip:2:isal 2.32.1 x86_64``."""

    compression: Compression
    level: int
    library: str

    @classmethod
    def now(cls, compression: Compression, level: int | None = None) -> BlobRecipe:
        """What this process compresses with; ``level`` None is the default."""
        if compression is Compression.NONE:
            return cls(compression, 0, "tar")
        level = LEVELS[compression.value][2] if level is None else level
        return cls(compression, level, library_of(compression.value, level))

    @classmethod
    def parse(cls, text: str) -> BlobRecipe:
        """Read what ``str`` wrote. Raises InvalidInput (``blob-recipe``)."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InvalidInput(f"'{text[:80]}' is no recipe of a blob", code="blob-recipe")
        return cls(Compression(found[1]), int(found[2]), found[3])

    def __str__(self) -> str:
        return f"{self.compression.value}:{self.level}:{self.library}"

    @property
    def is_current(self) -> bool:
        """Whether this process has the library that the recipe names, on the kind of machine that it names."""
        return self == BlobRecipe.now(self.compression, self.level)


class CompressReader:
    """The compressed bytes of ``source``, an uncompressed stream that it owns; a ``Reader``."""

    def __init__(self, source: Reader, recipe: BlobRecipe) -> None:
        self._source = source
        self._made: list[bytes] = []
        self._rest = b""
        self._ended = False
        self._writer = CompressWriter(self._made.append, recipe.compression, level=recipe.level)

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        while not self._rest and not self._ended:
            data = self._source.read(_CHUNK)
            if data:
                self._writer.write(data)
            else:
                self._writer.close()
                self._ended = True
            self._rest = b"".join(self._made)
            self._made.clear()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def candidates(head: bytes) -> Iterator[BlobRecipe]:
    """The recipes that a blob which begins with ``head`` can be made by, the likeliest first."""
    compression = Compression.detect(head)
    if compression is Compression.GZIP and not head.startswith(GZIP_HEADER):
        return
    if compression in (Compression.GZIP, Compression.ZSTD):
        lowest, highest, default = LEVELS[compression.value]
        levels = range(lowest, min(highest, _ZSTD_HIGHEST) + 1)
        for level in sorted(levels, key=lambda level: abs(level - default)):
            yield BlobRecipe.now(compression, level)


def proves(recipe: BlobRecipe, blob: Reader, tar: Reader, *, advance: Callable[[int], object] = lambda _: None) -> bool:
    """Whether ``tar``, compressed by the recipe, is ``blob``, byte for byte. Both are read and closed.

    A recipe that is none is told by the first bytes that differ. ``advance`` is called with the bytes compared.
    """
    made = CompressReader(tar, recipe)
    try:
        while data := made.read(_CHUNK):
            if _exactly(blob, len(data)) != data:
                return False
            advance(len(data))
        return not blob.read(1)
    finally:
        made.close()
        blob.close()


def _exactly(reader: Reader, size: int) -> bytes:
    data = reader.read(size)
    while len(data) < size and (more := reader.read(size - len(data))):
        data += more
    return data
