"""Digests of the content of a layer's files: computed while the layer streams by, kept in its index.

Kept for regular files with content, by where their bytes begin in the tar. Sparse files have none: their holes can be
larger than any disk. An empty file needs none kept.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterator

from lamella.layers.entry import Entry, Kind
from lamella.layers.hashing import Background
from lamella.spec.digest import Digest

RECORD = struct.Struct("<Q32s")
"""Where the content of a file begins in the tar, and its sha256; ordered by the first."""
EMPTY = Digest.of(b"")


def has_digest(entry: Entry) -> bool:
    """Whether a file's digest is kept."""
    return entry.kind == Kind.REGULAR and entry.size > 0 and entry.sparse is None


class FileDigests:
    """The digests of one layer, as they stand in its index."""

    __slots__ = ("_data", "_positions")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._positions: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self._data) // RECORD.size

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the tar, sha256) of each file."""
        return RECORD.iter_unpack(self._data)

    def of(self, entry: Entry) -> Digest | None:
        """The digest of an entry's content; None for what has none."""
        if entry.kind != Kind.REGULAR:
            return None
        if not entry.size:
            return EMPTY
        if self._positions is None:
            self._positions = {offset: at for at, (offset, _) in enumerate(self)}
        at = self._positions.get(entry.offset)
        if at is None or entry.sparse is not None:
            return None
        return Digest("sha256", self._data[at * RECORD.size + 8 : (at + 1) * RECORD.size].hex())

    def offsets(self, digest: Digest) -> set[int]:
        """Where the files with this content begin."""
        wanted = bytes.fromhex(digest.hex)
        if digest.algorithm != "sha256" or wanted not in self._data:
            return set()
        return {offset for offset, found in self if found == wanted}


class FileHasher:
    """Hashes the files in a tar that goes by in chunks, in a thread beside the caller.

    ``begin`` is called for each file, in order, before the chunk that its content begins in, or one before that, is
    given to ``put``. As of ``Background``, ``stop`` may be called wherever a signal hits the caller.
    """

    def __init__(self) -> None:
        self._worker = Background(self._take)
        self._begun: list[tuple[int, int]] = []
        self._batches: deque[list[tuple[int, int]]] = deque()
        self._waiting: deque[tuple[int, int]] = deque()
        self._at = 0
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._records = bytearray()
        self.stop = self._worker.stop

    def begin(self, offset: int, size: int) -> None:
        """Announce a file of ``size`` bytes, one at least, whose content begins at ``offset`` of the tar."""
        self._begun.append((offset, size))

    def put(self, data: bytes) -> None:
        """Pass the next chunk of the tar."""
        self._batches.append(self._begun)
        self._begun = []
        self._worker.put(data)

    def finish(self) -> bytes:
        """End the thread; the records of all files whose content has gone by whole."""
        self._worker.finish()
        return bytes(self._records)

    def _take(self, data: bytes) -> None:
        waiting, start, end = self._waiting, self._at, self._at + len(data)
        waiting.extend(self._batches.popleft())
        self._at = end
        view = memoryview(data)
        while waiting:
            offset, size = waiting[0]
            at = offset + self._hashed
            if at >= end:
                return
            stop = min(offset + size, end)
            self._hash.update(view[at - start : stop - start])
            self._hashed += stop - at
            if self._hashed < size:
                return
            self._records += RECORD.pack(offset, self._hash.digest())
            self._hash, self._hashed = hashlib.sha256(), 0
            waiting.popleft()
