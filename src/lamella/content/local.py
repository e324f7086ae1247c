"""Blobs in a directory, ``blobs/<algorithm>/<hex>``, as OCI image-spec 1.1 ``image-layout.md`` prescribes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from lamella._sys.files import fsync_dir, os_errors
from lamella.content.ingest import LocalIngest, drop_ingest, scan_ingests
from lamella.content.protocol import BlobInfo, IngestInfo
from lamella.content.verified import VerifiedReader, blob_over_limit, no_blob
from lamella.errors import Integrity, InvalidInput, NotFound
from lamella.spec.digest import ALGORITHMS, Digest

_HEX = re.compile(r"[0-9a-f]+")
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class LocalContent:
    """The blobs under ``root/blobs``; what is on its way in is under ``root/ingest``. Implements ContentStore.

    Any number of threads and processes may use one root at once. A blob shows under its name only when it is whole,
    verified and on the disk: after a kill or a power cut at any moment it is either there or not. Opening creates
    nothing, so a store that may not be written can be read. Files that are no blobs are left alone and not listed.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        self._prepared: set[Path] = set()

    def open(self, digest: Digest, *, size: int | None = None) -> VerifiedReader:
        """Read a blob; see ContentStore."""
        fd, length = self._open(digest)
        reader = VerifiedReader(FileIO(fd, "rb"), digest, length)
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
        size = self._size(digest)
        if size is None:
            raise no_blob(digest)
        return BlobInfo(digest, size)

    def exists(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is there, with ``size`` bytes where that is given."""
        found = self._size(digest)
        return found is not None and (size is None or size == found)

    def path(self, digest: Digest) -> Path | None:
        """The file of the blob; None if it is absent."""
        return None if self._size(digest) is None else self._path(digest)

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

    def _open(self, digest: Digest) -> tuple[int, int]:
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
