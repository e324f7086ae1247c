"""What every blob store offers, whatever it keeps the bytes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from lamella.content.verified import VerifiedReader
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob that is there, whole; ``size`` in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class IngestInfo:
    """An ingest that was begun and not finished: ``size`` bytes of it are there, the last came at ``updated``.

    ``ref`` is what to open or drop it by. ``busy`` says that somebody is writing it now.
    """

    ref: str
    size: int
    updated: datetime
    busy: bool


class Absent(Protocol):
    """Knows the blobs that have no file because they can be had again, and has them again. Thread-safe."""

    def size(self, digest: Digest) -> int | None:
        """The bytes of a blob that can be had again; None for one that is not known here. Makes nothing."""

    def open(self, digest: Digest) -> Reader | None:
        """The bytes of a blob that can be had again, not verified; None for one that is not known here.

        Raises what keeps a known one from being had, such as a repository that does not answer.
        """

    def file(self, digest: Digest) -> Path | None:
        """A file of the same file system that has these very bytes and can be linked, not verified; None if none."""


class Ingest(Protocol):
    """A blob on its way in, used by one thread. Nothing of it is visible before ``commit`` has returned.

    Leaving the ``with`` block without a commit aborts, unless the ingest was opened with ``keep=True``: then the bytes
    stay for the next one that opens the same ref.
    """

    @property
    def ref(self) -> str:
        """The name that the ingest was opened by."""

    @property
    def offset(self) -> int:
        """Bytes that are there, those from an earlier run included: where the next write goes."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append ``data``, all of it; returns its length. Raises ResourceExhausted when the disk is full."""

    def read_back(self, offset: int, size: int) -> bytes:
        """Up to ``size`` of the bytes that are there, from ``offset`` on. Another thread may write meanwhile."""

    def digest(self) -> Digest:
        """The digest of the bytes so far, those from an earlier run included."""

    def restart(self) -> None:
        """Drop the bytes that are there and begin anew at offset 0, for a source that cannot resume."""

    def commit(self, *, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Make the blob visible and durable, atomically; ends the ingest. A blob that is there already is no error.

        Raises Integrity (``digest-mismatch``, ``size-mismatch``) if the bytes are not what is expected; whatever is
        raised, nothing stays.
        """

    def abort(self) -> None:
        """End the ingest and drop its bytes. Does nothing after commit, abort or close."""

    def close(self) -> None:
        """End the ingest and leave its bytes for the next one to open this ref. Does nothing after the end."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ContentStore(Protocol):
    """Blobs by digest. Safe for use by several threads, and by several processes where they share the store."""

    def open(self, digest: Digest, *, size: int | None = None) -> VerifiedReader:
        """Read a blob; the reader checks every byte. The caller closes it.

        Raises NotFound, and Integrity if the blob has other than the ``size`` bytes that its descriptor announced.
        """

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """The whole blob, verified. Raises NotFound, Integrity, and ResourceExhausted if it is over ``limit`` bytes."""

    def info(self, digest: Digest) -> BlobInfo:
        """What is known of a blob without reading it. Raises NotFound."""

    def exists(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is there, with ``size`` bytes where that is given. Reads nothing."""

    def path(self, digest: Digest) -> Path | None:
        """The file that is the blob, for reading and mounting; None if it is absent or the store has no files.

        What is read through it is not verified.
        """

    def open_ingest(self, ref: str, *, keep: bool = False) -> Ingest:
        """Begin, or take up again, the ingest named ``ref``: any text, chosen by the caller.

        Raises Conflict (``ingest-busy``) while another ingest of the same ref is open, in any process.
        """

    def ingests(self) -> Iterator[IngestInfo]:
        """The ingests that are unfinished, in no particular order."""

    def drop_ingest(self, ref: str) -> bool:
        """Remove what is there of an ingest, unless it is busy. Returns whether something was removed."""

    def remove(self, digest: Digest) -> bool:
        """Remove a blob; who has it open reads on. Returns whether it was there."""

    def walk(self) -> Iterator[BlobInfo]:
        """Every blob, in no particular order. One that comes or goes meanwhile may or may not be among them."""
