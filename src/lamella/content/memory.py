"""Blobs in memory: for tests, and for images that are made and sent on without touching a disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from lamella.content.protocol import BlobInfo, IngestInfo
from lamella.content.verified import VerifiedReader, blob_over_limit, check_whole, no_blob
from lamella.errors import Conflict, FailedPrecondition, Integrity, InvalidInput
from lamella.spec.digest import Digest


class MemoryContent:
    """Blobs that live as long as this object. Implements ContentStore; safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._blobs: dict[Digest, bytes] = {}
        self._partial: dict[str, _Partial] = {}
        self._busy: set[str] = set()

    def open(self, digest: Digest, *, size: int | None = None) -> VerifiedReader:
        """Read a blob; see ContentStore."""
        data = self._get(digest)
        if size is not None and size != len(data):
            raise Integrity(f"it has {len(data)} bytes, not {size}", code="size-mismatch", subject=f"blob {digest}")
        return VerifiedReader(BytesIO(data), digest, len(data))

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """The whole blob, verified; see ContentStore."""
        with self.open(digest) as reader:
            if reader.size > limit:
                raise blob_over_limit(digest, reader.size, limit)
            return reader.read()

    def info(self, digest: Digest) -> BlobInfo:
        """What is known of a blob."""
        return BlobInfo(digest, len(self._get(digest)))

    def exists(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is there, with ``size`` bytes where that is given."""
        data = self._blobs.get(digest)
        return data is not None and (size is None or size == len(data))

    def path(self, digest: Digest) -> Path | None:
        """None: there are no files."""
        return None

    def open_ingest(self, ref: str, *, keep: bool = False) -> MemoryIngest:
        """Begin or take up an ingest; see ContentStore."""
        if not ref:
            raise InvalidInput("an ingest needs a name", code="ingest-ref")
        with self._lock:
            if ref in self._busy:
                reason = "somebody else is receiving the same data now"
                raise Conflict(reason, code="ingest-busy", subject=f"ingest {ref}")
            self._busy.add(ref)
            return MemoryIngest(self, ref, self._partial.setdefault(ref, _Partial()), keep=keep)

    def ingests(self) -> Iterator[IngestInfo]:
        """The ingests that are unfinished."""
        with self._lock:
            return iter(
                [IngestInfo(ref, len(p.data), p.updated, ref in self._busy) for ref, p in self._partial.items()]
            )

    def drop_ingest(self, ref: str) -> bool:
        """Remove what is there of an ingest, unless it is busy."""
        with self._lock:
            return ref not in self._busy and self._partial.pop(ref, None) is not None

    def remove(self, digest: Digest) -> bool:
        """Remove a blob. Returns whether it was there."""
        with self._lock:
            return self._blobs.pop(digest, None) is not None

    def walk(self) -> Iterator[BlobInfo]:
        """Every blob."""
        with self._lock:
            return iter([BlobInfo(digest, len(data)) for digest, data in self._blobs.items()])

    def _get(self, digest: Digest) -> bytes:
        data = self._blobs.get(digest)
        if data is None:
            raise no_blob(digest)
        return data

    def _end(self, ref: str, blob: tuple[Digest, bytes] | None, *, keep: bool) -> None:
        with self._lock:
            self._busy.discard(ref)
            if not keep:
                self._partial.pop(ref, None)
            if blob is not None:
                self._blobs.setdefault(*blob)


@dataclass(slots=True)
class _Partial:
    data: bytearray = field(default_factory=bytearray)
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))


class MemoryIngest:
    """An ingest (see ``protocol.Ingest``) that collects bytes."""

    def __init__(self, store: MemoryContent, ref: str, partial: _Partial, *, keep: bool) -> None:
        self.ref = ref
        self._store = store
        self._keep = keep
        self._partial = partial
        self._ended = False

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        return len(self._partial.data)

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append ``data``."""
        view = memoryview(data).cast("B")
        self._live().data += view
        self._partial.updated = datetime.now(UTC)
        return len(view)

    def read_back(self, offset: int, size: int) -> bytes:
        """Up to ``size`` of the bytes that are there, from ``offset`` on."""
        return bytes(self._live().data[offset : offset + size])

    def digest(self) -> Digest:
        """The digest of the bytes so far."""
        return Digest.of(bytes(self._partial.data))

    def restart(self) -> None:
        """Drop the bytes that are there."""
        self._live().data.clear()

    def commit(self, *, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Verify and keep; after a failure nothing is there."""
        data = bytes(self._live().data)
        digest = Digest.of(data, expected.algorithm if expected else "sha256")
        try:
            check_whole(digest, len(data), expected=expected, size=size)
        except Integrity:
            self.abort()
            raise
        self._end((digest, data))
        return digest

    def abort(self) -> None:
        """End the ingest and drop its bytes."""
        self._end(None)

    def close(self) -> None:
        """End the ingest and leave its bytes."""
        self._end(None, keep=True)

    def _end(self, blob: tuple[Digest, bytes] | None, *, keep: bool = False) -> None:
        if not self._ended:
            self._ended = True
            self._store._end(self.ref, blob, keep=keep)

    def _live(self) -> _Partial:
        if self._ended:
            raise FailedPrecondition("the ingest has ended", code="ingest-ended", subject=f"ingest {self.ref}")
        return self._partial

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keep:
            self.close()
        else:
            self.abort()
