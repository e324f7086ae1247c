"""The index of one layer, on disk and in memory.

The file (``layer.index``) is: 8 bytes of magic with the version, then blocks, each a 4-byte little-endian length and a
MessagePack array of up to 2,048 entries; a zero length ends them. Behind it stand the diff_id (32 bytes of a sha256)
and three 8-byte little-endian numbers: the bytes of the tar, of the content of its files, and the count of entries. The
file ends with the sha256 of everything before that digest. An index whose digest does not fit is damaged, and is made
anew from the layer's bytes.

Version 2 is the same with the digests of files: between the zero length and the diff_id stand their count (8 bytes,
little-endian) and so many records of 40 bytes, each where a file's content begins in the tar (8 bytes) and its sha256.
An index without them is written as version 1.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamella._sys.files import os_errors
from lamella.errors import Integrity
from lamella.layers.entry import Entry, Kind
from lamella.layers.filedigests import RECORD, FileDigests
from lamella.spec.digest import Digest

MAGIC = b"LAMIDX\x00\x01"
MAGIC_WITH_DIGESTS = b"LAMIDX\x00\x02"
_BLOCK = 2_048
_DIGEST_SIZE = 32
_SIZE_MAX = (1 << 64) - 1


_TRAILER = struct.Struct("<32sQQQ")


class LayerIndex:
    """The rows of one layer: ``entries`` in the order of the stream, and its ``markers`` apart.

    ``digests`` are those of the content of its files, None if they were not computed.
    """

    __slots__ = ("__weakref__", "content_size", "diff_id", "digests", "entries", "markers", "tar_size")

    def __init__(
        self,
        diff_id: Digest | None,
        entries: list[Entry],
        markers: list[Entry],
        tar_size: int,
        content_size: int,
        digests: FileDigests | None = None,
    ) -> None:
        self.diff_id = diff_id
        self.entries = entries
        self.markers = markers
        self.tar_size = tar_size
        self.content_size = content_size
        self.digests = digests

    @classmethod
    def of(
        cls,
        rows: Iterable[Entry],
        *,
        diff_id: Digest | None = None,
        tar_size: int = 0,
        digests: FileDigests | None = None,
    ) -> LayerIndex:
        """An index of rows that are in memory, such as those of a scanned directory."""
        entries: list[Entry] = []
        markers: list[Entry] = []
        size = 0
        first_marker = Kind.WHITEOUT
        for row in rows:
            (markers if row.kind >= first_marker else entries).append(row)
            size += row.size
        return cls(diff_id, entries, markers, tar_size, size, digests)

    @classmethod
    def load(cls, path: Path) -> LayerIndex:
        """Read and verify an index file. Raises Integrity for anything but a whole, undamaged index."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Integrity(f"the index cannot be read: {error.strerror}", code="index-damaged") from error
        body, digest = memoryview(data)[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
        if data[: len(MAGIC)] not in (MAGIC, MAGIC_WITH_DIGESTS) or hashlib.sha256(body).digest() != digest:
            raise Integrity("the index is damaged", code="index-damaged", subject=str(path))
        decoder = msgspec.msgpack.Decoder(list[Entry])
        blocks: list[list[Entry]] = []
        at = len(MAGIC)
        while length := int.from_bytes(body[at : at + 4], "little"):
            blocks.append(decoder.decode(body[at + 4 : at + 4 + length]))
            at += 4 + length
        at += 4
        digests = None
        if data[: len(MAGIC)] == MAGIC_WITH_DIGESTS:
            end = at + 8 + RECORD.size * int.from_bytes(body[at : at + 8], "little")
            digests = FileDigests(bytes(body[at + 8 : end]))
            at = end
        diff_id, tar_size, _, _ = _TRAILER.unpack(body[at:])
        rows = itertools.chain.from_iterable(blocks)
        return cls.of(rows, diff_id=Digest("sha256", diff_id.hex()), tar_size=tar_size, digests=digests)

    @classmethod
    def has_digests(cls, path: Path) -> bool:
        """Whether the index file at ``path`` has digests of files, told by its first bytes. Raises NotFound."""
        with os_errors(str(path)), open(path, "rb") as file:
            return file.read(len(MAGIC_WITH_DIGESTS)) == MAGIC_WITH_DIGESTS

    @classmethod
    def sizes(cls, path: Path) -> tuple[int, int]:
        """The bytes of the tar and of the content of its files, read from the end of an index without the rest."""
        with os_errors(str(path)), open(path, "rb") as file:
            file.seek(-_DIGEST_SIZE - _TRAILER.size, os.SEEK_END)
            _, tar_size, content_size, _ = _TRAILER.unpack(file.read(_TRAILER.size))
        return tar_size, content_size

    def __iter__(self) -> Iterator[Entry]:
        yield from self.entries
        yield from self.markers


def with_digests(data: bytes, digests: bytes) -> bytes:
    """The index file ``data`` with these digests of files, records of ``filedigests`` in order, if it has none yet.

    Raises Integrity for one that is damaged.
    """
    if hashlib.sha256(data[:-_DIGEST_SIZE]).digest() != data[-_DIGEST_SIZE:]:
        raise Integrity("the index is damaged", code="index-damaged")
    if data.startswith(MAGIC_WITH_DIGESTS):
        return data
    end = len(data) - _DIGEST_SIZE - _TRAILER.size
    body = MAGIC_WITH_DIGESTS + data[len(MAGIC) : end] + _counted(digests) + data[end:-_DIGEST_SIZE]
    return body + hashlib.sha256(body).digest()


def _counted(digests: bytes) -> bytes:
    return (len(digests) // RECORD.size).to_bytes(8, "little") + digests


class IndexWriter:
    """Writes an index while the layer's stream is read, and keeps its rows: who takes a layer in looks at them next.

    ``with_digests`` says that ``finish`` will be given the digests of files.
    """

    def __init__(self, file: BinaryIO, *, with_digests: bool = False) -> None:
        self._file = file
        self._with_digests = with_digests
        self._hash = hashlib.sha256()
        self._encoder = msgspec.msgpack.Encoder()
        self._rows: list[Entry] = []
        self._pending: list[Entry] = []
        self.content_size = 0
        self._put(MAGIC_WITH_DIGESTS if with_digests else MAGIC)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add rows, as they come."""
        pending = self._pending
        for entry in entries:
            pending.append(entry)
            self.content_size += entry.size
            if len(pending) == _BLOCK:
                self._flush()

    @property
    def last(self) -> bytes | None:
        """The path of the row that was added last."""
        last = self._pending or self._rows
        return last[-1].path if last else None

    @property
    def entries(self) -> int:
        """How many rows were added."""
        return len(self._rows) + len(self._pending)

    def finish(self, diff_id: Digest, tar_size: int, digests: bytes = b"") -> LayerIndex:
        """Write what is pending, the trailer and the digest. The file is the caller's to sync and close.

        ``digests`` are the records of ``filedigests``, in order. Returns what the file holds.
        """
        if self._pending:
            self._flush()
        # Sparse files of nearly 2**63 bytes are possible in any number; the sum is kept in 64 bits.
        self.content_size = min(self.content_size, _SIZE_MAX)
        self._put(b"\0\0\0\0")
        if self._with_digests:
            self._put(_counted(digests))
        self._put(_TRAILER.pack(bytes.fromhex(diff_id.hex), tar_size, self.content_size, self.entries))
        self._file.write(self._hash.digest())
        known = FileDigests(digests) if self._with_digests else None
        return LayerIndex.of(self._rows, diff_id=diff_id, tar_size=tar_size, digests=known)

    def _flush(self) -> None:
        block = self._encoder.encode(self._pending)
        self._put(len(block).to_bytes(4, "little") + block)
        self._rows += self._pending
        self._pending.clear()

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
