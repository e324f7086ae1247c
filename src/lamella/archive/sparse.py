"""Maps of sparse files: which pieces of the logical file are stored.

Formats: GNU tar manual, "Storing Sparse Files": the old GNU header, and pax formats 0.0, 0.1 and 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lamella.archive.pax import decimal
from lamella.archive.tar_header import BLOCK, MAX_SIZE, bad_header, number
from lamella.errors import ResourceExhausted

Segments = tuple[tuple[int, int], ...]


def checked(pairs: Iterable[tuple[int, int]], *, size: int, stored: int, limit: int, entry: bytes | None) -> Segments:
    """The pieces of a file of ``size`` bytes of which ``stored`` are in the archive; empty pieces are dropped.

    Raises Integrity when pieces overlap, are out of order or of range, or are not ``stored`` bytes in all, and
    ResourceExhausted for more than ``limit`` pieces.
    """
    found = []
    end = total = 0
    for count, (offset, length) in enumerate(pairs):
        if count >= limit:
            raise too_many(limit, entry)
        if offset < end or length < 0 or offset + length > size:
            raise bad_header(f"sparse map: piece at {offset} of {length} bytes overlaps or is out of range", entry)
        end = offset + length
        total += length
        if length:
            found.append((offset, length))
    if total != stored:
        raise bad_header(f"sparse map: pieces of {total} bytes, but {stored} are stored", entry)
    return tuple(found)


def too_many(limit: int, entry: bytes | None) -> ResourceExhausted:
    """What to raise for a map of more pieces than the limit."""
    return ResourceExhausted(f"sparse map of more than {limit} pieces", code="sparse-segments", entry=entry)


def old_gnu(block: bytes, start: int, count: int, entry: bytes | None) -> Iterator[tuple[int, int]]:
    """The pairs in a header (from byte 386, four) or an extension block (from byte 0, 21). Raises Integrity."""
    for at in range(start, start + 24 * count, 24):
        field = block[at : at + 24]
        if not any(field):
            return
        try:
            offset, length = number(field[:12]), number(field[12:])
        except ValueError as error:
            raise bad_header(f"sparse map: {error}", entry) from None
        if not 0 <= offset <= MAX_SIZE or not 0 <= length <= MAX_SIZE:
            raise bad_header("sparse map: a number out of range", entry)
        yield offset, length


def split(text: bytes) -> Iterator[bytes]:
    """The numbers of a map in one record (pax 0.1), which commas divide."""
    at = 0
    while (comma := text.find(b",", at)) >= 0:
        yield text[at:comma]
        at = comma + 1
    yield text[at:]


def from_text(values: Iterable[bytes], entry: bytes | None) -> Iterator[tuple[int, int]]:
    """Pairs from decimal numbers, offset and length in turn (pax 0.0 and 0.1). Raises Integrity."""
    numbers = iter(values)
    for offset in numbers:
        length = next(numbers, b"")  # empty is no number, so an odd one out is an error
        yield decimal(offset, entry), decimal(length, entry)


class MapReader:
    """Collects the map that stands before the data in pax format 1.0, block by block: a count, then that many pairs.

    Raises Integrity when it is malformed and ResourceExhausted for more than ``limit`` pieces.
    """

    def __init__(self, *, limit: int, entry: bytes | None) -> None:
        self._limit = limit
        self._entry = entry
        self._left = b""
        self._wanted = -1
        self._numbers: list[int] = []

    def feed(self, block: bytes) -> bool:
        """Take a block; True while another one is needed."""
        *lines, self._left = (self._left + block).split(b"\n")
        for line in lines:
            if self._wanted < 0:
                count = decimal(line, self._entry)
                if count > self._limit:
                    raise too_many(self._limit, self._entry)
                self._wanted = 2 * count
            elif len(self._numbers) < self._wanted:
                self._numbers.append(decimal(line, self._entry))
        done = len(self._numbers) == self._wanted
        if not done and len(self._left) > BLOCK // 2:
            raise bad_header("sparse map: a number without an end", self._entry)
        return not done

    def pairs(self) -> Iterator[tuple[int, int]]:
        """The pairs, once ``feed`` has returned False."""
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)
