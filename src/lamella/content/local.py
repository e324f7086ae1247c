"""Blobs in a directory, ``blobs/<algorithm>/<hex>``, as OCI image-spec 1.1 ``image-layout.md`` prescribes."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from lamella._sys.files import fsync_dir, os_errors
from lamella.content.ingest import LocalIngest, drop_ingest, ingest_path, scan_ingests
from lamella.content.protocol import Absent, BlobInfo, IngestInfo
from lamella.content.verified import CHUNK, VerifiedReader, blob_over_limit, no_blob
from lamella.errors import Conflict, Integrity, InvalidInput, NotFound
from lamella.spec.digest import ALGORITHMS, Digest
from lamella.spec.endpoint import Reader

_HEX = re.compile(r"[0-9a-f]+")
_POLL = 0.05
"""Seconds between looks at a blob that somebody else makes again."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class LocalContent:
    """The blobs under ``root/blobs``; what is on its way in is under ``root/ingest``. Implements ContentStore.

    Any number of threads and processes may use one root at once. A blob shows under its name only when it is whole,
    verified and on the disk: after a kill or a power cut at any moment it is either there or not. Opening creates
    nothing, so a store that may not be written can be read. Files that are no blobs are left alone and not listed.

    A blob without a file that ``absent`` knows is there all the same: ``exists``, ``info``, ``open`` and ``read`` tell
    no difference, and ``path`` makes it a file again. ``walk`` and ``stored`` tell what has a file.
    """

    def __init__(self, root: Path, *, absent: Absent | None = None) -> None:
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        self._absent = absent
        self._prepared: set[Path] = set()

    def open(self, digest: Digest, *, size: int | None = None) -> VerifiedReader:
        """Read a blob; see ContentStore."""
        stream, length = self._open(digest)
        reader = VerifiedReader(stream, digest, length)
        if size is not None and size != length:
            reader.close()
            raise Integrity(f"it has {length} bytes, not {size}", code="size-mismatch", subject=f"blob {digest}")
        return reader

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """The whole blob, verified; see ContentStore."""
        with self.open(digest) as reader:
            if reader.size > limit:
                raise blob_over_limit(digest, reader.size, limit)
            return reader.read()

    def info(self, digest: Digest) -> BlobInfo:
        """What is known of a blob without reading it."""
        size = self._size_anyhow(digest)
        if size is None:
            raise no_blob(digest)
        return BlobInfo(digest, size)

    def exists(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is there, with ``size`` bytes where that is given."""
        found = self._size_anyhow(digest)
        return found is not None and (size is None or size == found)

    def path(self, digest: Digest) -> Path | None:
        """The file of the blob, made again if it was dropped; None if it is absent."""
        return self._path(digest) if self.stored(digest) or self.restore(digest) else None

    def stored(self, digest: Digest) -> Path | None:
        """The file of the blob if it has one at this moment; nothing is made for this."""
        return None if self._size(digest) is None else self._path(digest)

    def restore(self, digest: Digest) -> bool:
        """Make a blob that has no file a file again, verified and durable; returns whether it has one now.

        Of several that ask at once, one does it and the others wait. Raises what keeps it from being had.
        """
        while self._size(digest) is None:
            size = None if self._absent is None else self._absent.size(digest)
            if self._absent is None or size is None:
                return False
            try:
                with self.open_ingest(f"restore-{digest}") as ingest, self.open(digest, size=size) as reader:
                    if ingest.offset:
                        ingest.restart()
                    file = self._absent.file(digest)
                    if file is not None:
                        reader.drain()
                        self.adopt(file, digest, size, keep=True)
                        continue
                    while data := reader.read(CHUNK):
                        ingest.write(data)
                    ingest.commit(expected=digest, size=size)
            except Conflict as conflict:
                if conflict.code != "ingest-busy":
                    raise
                time.sleep(_POLL)
        return True

    def open_ingest(self, ref: str, *, keep: bool = False, algorithm: str = "sha256") -> LocalIngest:
        """Begin or take up an ingest; see ContentStore. Bytes from an earlier run are hashed again here.

        ``algorithm`` is the one to hash with while writing: committing as a digest of another one reads the file again.
        """
        with os_errors(str(self._ingest)):
            os.makedirs(self._ingest, mode=0o700, exist_ok=True)
        return LocalIngest(self._ingest, ref, self._publish, keep=keep, algorithm=algorithm)

    def ingests(self) -> Iterator[IngestInfo]:
        """The ingests that are unfinished, in no particular order."""
        return scan_ingests(self._ingest)

    def ingest_file(self, ref: str) -> Path:
        """Where the bytes of an unfinished ingest are."""
        return ingest_path(self._ingest, ref)

    def drop_ingest(self, ref: str) -> bool:
        """Remove what is there of an ingest, unless it is busy. Returns whether something was removed."""
        return drop_ingest(self._ingest, ref)

    def adopt(self, path: Path, digest: Digest, size: int, *, keep: bool = False) -> None:
        """Take over a finished file of the same file system as a blob, durably: renamed, or hard-linked with ``keep``.

        The caller vouches for ``digest``: it has hashed what it wrote, and nobody writes the file any more. The file
        becomes 0644. A blob that is there already stays, and without ``keep`` the file goes. Raises Integrity
        (``size-mismatch``), InvalidInput for what is no regular file or lies on another file system.
        """
        with os_errors(str(path)):
            fd = os.open(path, _READ)
            try:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode):
                    raise InvalidInput("only a regular file can become a blob", code="blob-type", subject=str(path))
                if info.st_size != size:
                    raise Integrity(
                        f"it has {info.st_size} bytes, not {size}", code="size-mismatch", subject=f"blob {digest}"
                    )
                self._publish(fd, path, digest, size, keep=keep)
            finally:
                os.close(fd)

    def remove(self, digest: Digest) -> bool:
        """Remove a blob. Returns whether it was there. Not durable: after a power cut it may be there again."""
        try:
            with os_errors(f"blob {digest}"):
                os.unlink(self._path(digest))
        except NotFound:
            return False
        return True

    def walk(self) -> Iterator[BlobInfo]:
        """Every blob, in no particular order; other files are passed over."""
        for algorithm in ALGORITHMS:
            yield from self._walk(algorithm)

    def _walk(self, algorithm: str) -> Iterator[BlobInfo]:
        directory = self._blobs / algorithm
        with suppress(NotFound), os_errors(str(directory)), os.scandir(directory) as entries:
            for entry in entries:
                if len(entry.name) != ALGORITHMS[algorithm] or not _HEX.fullmatch(entry.name):
                    continue
                with suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        yield BlobInfo(Digest(algorithm, entry.name), info.st_size)

    def _path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.hex

    def _size(self, digest: Digest) -> int | None:
        try:
            with os_errors(f"blob {digest}"):
                info = os.stat(self._path(digest), follow_symlinks=False)
        except NotFound:
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def _size_anyhow(self, digest: Digest) -> int | None:
        size = self._size(digest)
        return self._absent.size(digest) if size is None and self._absent is not None else size

    def _open(self, digest: Digest) -> tuple[Reader, int]:
        """The bytes of a blob and their number: those of its file, else what it can be had again from."""
        try:
            fd, size = self._open_file(digest)
            return FileIO(fd, "rb"), size
        except NotFound:
            known = None if self._absent is None else self._absent.size(digest)
            stream = None if self._absent is None or known is None else self._absent.open(digest)
            if stream is None or known is None:
                raise
            return stream, known

    def _open_file(self, digest: Digest) -> tuple[int, int]:
        try:
            with os_errors(f"blob {digest}"):
                fd = os.open(self._path(digest), _READ)
        except NotFound:
            raise no_blob(digest) from None
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(fd)
            raise no_blob(digest)
        return fd, info.st_size

    def _publish(self, fd: int, source: Path, digest: Digest, size: int, *, keep: bool = False) -> None:
        """Give the file ``source``, open as ``fd``, the name of the blob: content first, then the name, both durable.

        The directory is also synced when the blob is there already: who put it there may not have come that far yet.
        """
        target = self._path(digest)
        if self._size(digest) == size:
            if not keep:
                os.unlink(source)
        else:
            self._prepare(target.parent)
            os.fchmod(fd, 0o644)
            os.fsync(fd)
            if keep:
                _link(source, target)
            else:
                os.rename(source, target)
        fsync_dir(target.parent)

    def _prepare(self, directory: Path) -> None:
        """Make the directory of an algorithm, durably; one that is there may have been made but not synced yet."""
        if directory not in self._prepared:
            os.makedirs(directory, exist_ok=True)
            fsync_dir(self._blobs)
            fsync_dir(self._blobs.parent)
            self._prepared.add(directory)


def _link(source: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(target)  # a blob of the wrong size
    with suppress(FileExistsError):
        os.link(source, target, follow_symlinks=False)
