"""Reading what lies in files: a stretch of one, and small documents as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lamella._sys.files import os_errors
from lamella.errors import LamellaError, ResourceExhausted
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader
from lamella.spec.progress import Progress

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 1 << 20


class FileRange:
    """The bytes ``offset`` to ``offset + size`` of an open file, as a stream.

    Owns a duplicate of the descriptor and reads at positions, so several ranges of one file can be read at once, by
    several threads. A file that ends earlier ends the stream.
    """

    __slots__ = ("_fd", "_left", "_offset", "_subject")

    def __init__(self, fd: int, offset: int, size: int, *, subject: str) -> None:
        self._subject = subject
        with os_errors(subject):
            self._fd = os.dup(fd)
        self._offset = offset
        self._left = size

    @property
    def left(self) -> int:
        """Bytes that are still to be read: all of them before the first read."""
        return self._left

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        wanted = min(size, self._left)
        if wanted <= 0:
            return b""
        with os_errors(self._subject):
            data = os.pread(self._fd, wanted, self._offset)
        self._offset += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the duplicate; nothing happens the second time."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StreamReader:
    """What an open descriptor delivers, from where it stands: a pipe, a device, a file. The descriptor stays open."""

    __slots__ = ("_fd", "_subject")

    def __init__(self, fd: int, *, subject: str) -> None:
        self._fd = fd
        self._subject = subject

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        with os_errors(self._subject):
            return os.read(self._fd, size)

    def close(self) -> None:
        """The descriptor is the caller's."""


class CountedReader:
    """A stream whose bytes are reported as progress on ``key``; leaving the ``with`` block closes it and reports that.

    ``total`` is how many bytes there will be, None if nobody knows.
    """

    def __init__(self, reader: Reader, progress: Progress, key: str, action: str, *, total: int | None = None) -> None:
        self._reader = reader
        self._progress = progress
        self._key = key
        try:
            progress.start(key, action, total=total)
        except BaseException:  # cancelled before it began: nobody else would close it
            reader.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._progress.done(self._key, "done" if kind is None else "failed")

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end. Raises what the progress raises to cancel."""
        data = self._reader.read(size)
        self._progress.advance(self._key, len(data))
        return data

    def close(self) -> None:
        """Close the stream."""
        self._reader.close()


def open_file(path: Path) -> FileRange:
    """The bytes of a file of ours, whole."""
    with os_errors(str(path)):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return FileRange(fd, 0, os.fstat(fd).st_size, subject=str(path))
        finally:
            os.close(fd)


def digest_of(reader: Reader, hasher: _Hash) -> Digest:
    """The digest of all that ``reader`` has, by ``hasher``; the reader stays open."""
    while data := reader.read(CHUNK):
        hasher.update(data)
    return Digest.finish(hasher)


def read_document(reader: Reader, what: str, limit: int) -> bytes:
    """All that ``reader`` has, which is then closed. Raises ResourceExhausted as soon as that is over ``limit``."""
    pieces: list[bytes] = []
    left = limit + 1
    try:
        while left and (data := reader.read(min(left, CHUNK))):
            pieces.append(data)
            left -= len(data)
    finally:
        reader.close()
    if not left:
        raise ResourceExhausted(f"{what} has more than {limit} bytes", code="document-size")
    return b"".join(pieces)


def locate(error: LamellaError, subject: str) -> None:
    """Make ``error`` say in which file it arose: a document's reader does not know where the document came from."""
    if subject not in error.subject:
        error.subject = f"{subject}: {error.subject}" if error.subject else subject
