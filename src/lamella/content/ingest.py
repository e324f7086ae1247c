"""One blob on its way into a directory: a file that is locked while it is written and renamed once it is whole.

The lock is ``flock`` on the file itself, so the kernel releases it with its writer, and the file that is unlinked or
renamed takes it along: there are no lock files to clear.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lamella._sys.files import os_errors
from lamella._sys.writeback import Writeback
from lamella.content.protocol import IngestInfo
from lamella.content.verified import CHUNK, check_whole
from lamella.errors import Conflict, FailedPrecondition, InvalidInput, NotFound
from lamella.spec.digest import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

SUFFIX = ".blob"
_NAME_MAX = 255
_PATIENCE = (0.0, 0.01, 0.04, 0.1)
"""Seconds between the tries for a lock: who only looks whether an ingest is busy holds it for microseconds."""

Publish = Callable[[int, Path, Digest, int], None]
"""Makes the open file (descriptor, path) the blob (digest, size)."""


def ingest_path(directory: Path, ref: str) -> Path:
    """The file of the ingest ``ref``: its name says the ref, with what file names may not have written as ``%XX``."""
    raw = ref.encode("utf-8", "surrogateescape")
    quoted = re.sub(rb"[^A-Za-z0-9_.:-]", lambda match: b"%%%02X" % match[0][0], raw)
    if not raw or len(quoted) + len(SUFFIX) > _NAME_MAX:
        raise InvalidInput(f"'{ref[:80]}' is empty or too long for the name of an ingest", code="ingest-ref")
    return directory / (quoted.decode("ascii") + SUFFIX)


def ingest_ref(name: str) -> str | None:
    """The ref that ``ingest_path`` made the file name ``name`` of; None for the name of something else."""
    if not name.endswith(SUFFIX):
        return None
    quoted = os.fsencode(name.removesuffix(SUFFIX))
    raw = re.sub(rb"%([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), quoted)
    return raw.decode("utf-8", "surrogateescape")


def scan_ingests(directory: Path) -> Iterator[IngestInfo]:
    """The ingests in ``directory``."""
    with suppress(NotFound), os_errors(str(directory)), os.scandir(directory) as entries:
        for entry in entries:
            ref = ingest_ref(entry.name)
            if ref is not None:
                with suppress(FileNotFoundError):
                    yield _look(Path(entry.path), ref)


def _look(path: Path, ref: str) -> IngestInfo:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        info = os.fstat(fd)
        updated = datetime.fromtimestamp(info.st_mtime, UTC)
        return IngestInfo(ref, info.st_size, updated, busy=not _try_lock(fd, fcntl.LOCK_SH))
    finally:
        os.close(fd)


def drop_ingest(directory: Path, ref: str) -> bool:
    """Remove an ingest that nobody writes. Returns whether there was one."""
    path = ingest_path(directory, ref)
    with os_errors(f"ingest {ref}"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            if not _try_lock(fd, fcntl.LOCK_EX) or not _is_at(fd, path):
                return False
            os.unlink(path)
            return True
        finally:
            os.close(fd)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Whether ``path`` is (still) the file that ``fd`` has open."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


def _open_locked(path: Path, ref: str) -> int:
    for pause in _PATIENCE:
        time.sleep(pause)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _try_lock(fd, fcntl.LOCK_EX) and _is_at(fd, path):
                locked, fd = fd, -1
                return locked
        finally:
            if fd >= 0:
                os.close(fd)
    raise Conflict("somebody else is receiving the same data now", code="ingest-busy", subject=f"ingest {ref}")


class LocalIngest:
    """An ingest (see ``protocol.Ingest``) that writes a file; ``algorithm`` is that of ``digest()``."""

    def __init__(self, directory: Path, ref: str, publish: Publish, *, keep: bool, algorithm: str) -> None:
        self.ref = ref
        self._path = ingest_path(directory, ref)
        self._publish = publish
        self._keep = keep
        self._hasher = Digest.hasher_of(algorithm)
        with os_errors(f"ingest {ref}"):
            self._fd = _open_locked(self._path, ref)
            self._writeback = Writeback(self._fd)
            try:
                self._offset = self._hash_file(self._hasher)
            except BaseException:
                self.close()
                raise

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        return self._offset

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append ``data``, all of it. Raises ResourceExhausted (``disk-full``) when the disk is full."""
        fd = self._live()
        view = memoryview(data).cast("B")
        length = len(view)
        with os_errors(f"ingest {self.ref}"):
            while view:
                written = os.write(fd, view)
                self._hasher.update(view[:written])
                self._offset += written
                view = view[written:]
        self._writeback.grown(self._offset)
        return length

    def read_back(self, offset: int, size: int) -> bytes:
        """Up to ``size`` of the bytes that are there, from ``offset`` on; another thread may write meanwhile."""
        with os_errors(f"ingest {self.ref}"):
            return os.pread(self._live(), size, offset)

    def digest(self) -> Digest:
        """The digest of the bytes so far."""
        return Digest.finish(self._hasher)

    def restart(self) -> None:
        """Drop the bytes that are there and begin anew."""
        with os_errors(f"ingest {self.ref}"):
            os.ftruncate(self._live(), 0)
        self._hasher = Digest.hasher_of(self._hasher.name)
        self._offset = 0

    def commit(self, *, expected: Digest | None = None, size: int | None = None) -> Digest:
        """Verify, make durable, rename. After a failure nothing is there, and the ingest has ended."""
        fd = self._live()
        try:
            with os_errors(f"ingest {self.ref}"):
                digest = self._digest_as(expected)
                check_whole(digest, self._offset, expected=expected, size=size)
                self._publish(fd, self._path, digest, self._offset)
        except BaseException:
            self.abort()
            raise
        self.close()
        return digest

    def abort(self) -> None:
        """End the ingest and drop its bytes."""
        if self._fd < 0:
            return
        try:
            with os_errors(f"ingest {self.ref}"):
                if _is_at(self._fd, self._path):  # not after the rename: the name may be somebody else's by now
                    os.unlink(self._path)
        finally:
            self.close()

    def close(self) -> None:
        """End the ingest and leave its bytes."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._writeback.stop()
            os.close(fd)

    def _live(self) -> int:
        if self._fd < 0:
            raise FailedPrecondition("the ingest has ended", code="ingest-ended", subject=f"ingest {self.ref}")
        return self._fd

    def _digest_as(self, expected: Digest | None) -> Digest:
        """The digest of the bytes so far, in the algorithm of ``expected``: another than ours is a second reading."""
        if expected is None or expected.algorithm == self._hasher.name:
            return self.digest()
        hasher = expected.hasher()
        self._hash_file(hasher)
        return Digest.finish(hasher)

    def _hash_file(self, hasher: _Hash) -> int:
        offset = 0
        while data := os.pread(self._fd, CHUNK, offset):
            hasher.update(data)
            offset += len(data)
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keep:
            self.close()
        else:
            self.abort()
