"""An OCI image layout directory (image-spec 1.1 ``image-layout.md``) to write images to."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from lamella._sys.beneath import RootDir
from lamella._sys.files import fsync_dir, os_errors
from lamella.content.verified import VerifiedReader
from lamella.errors import Conflict, FailedPrecondition, LamellaError, NotFound
from lamella.formats import scratch
from lamella.formats.files import locate, read_document
from lamella.formats.layout import INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, blob_path, check_layout_file
from lamella.formats.layout_index import updated_index
from lamella.formats.oci_layout import DirectoryFiles
from lamella.formats.scratch import Scratch
from lamella.formats.spool import Spool
from lamella.spec import jsondoc
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits


class OciLayoutSink:
    """Writes images into a layout directory (an ImageSink), which may hold a layout already: what it has stays.

    A new or empty directory becomes a layout. One that holds anything else is refused with FailedPrecondition
    (``not-a-layout``), a layout of another version with Unsupported. Blobs are verified while they are taken and kept
    aside; ``finish`` puts them in place, those first and index.json last, each atomically and durably. Blobs that are
    there with the right size are not written again; one of another size is replaced. ``abort``, and a ``finish``
    that fails, leave the directory as it was. Leaving a ``with`` block aborts what was not finished.

    ``write_blob`` and ``has_blob`` may be called by several threads. Several processes may write to one layout.
    """

    def __init__(self, directory: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._directory = directory
        self._subject = str(directory)
        self._limits = limits
        self._relied: dict[Digest, Descriptor] = {}
        self._open = True
        with os_errors(self._subject):
            self._created = _make(directory)
            self._root = RootDir(directory)
            self._files = DirectoryFiles(directory)
            try:
                self._check()
                self._scratch = Scratch(directory)
            except BaseException:
                self._close()
                raise
        self._spool = Spool(self._scratch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was taken already, or lies in the layout with this size. Its bytes are not read."""
        if self._spool.size(descriptor.digest) == descriptor.size:
            return True
        if not self._in_place(descriptor):
            return False
        self._relied[descriptor.digest] = descriptor
        return True

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob; ``reader`` stays the caller's. Raises Integrity when the bytes are not the descriptor's."""
        verified = VerifiedReader(reader, descriptor.digest, descriptor.size)
        self._spool.store(verified, digest=descriptor.digest, durable=True)

    def finish(self, offers: Iterable[Offer]) -> None:
        """Make the images part of the layout. Ends the sink, whatever comes of it.

        Raises FailedPrecondition (``blob-not-written``) for an offer whose document is not there, Conflict
        (``blob-vanished``) if a blob that ``has_blob`` reported has been removed since.
        """
        wanted = tuple(offers)
        try:
            for offer in wanted:
                if not self.has_blob(offer.descriptor):
                    raise FailedPrecondition(
                        f"{offer.descriptor.digest} is offered and was not written",
                        code="blob-not-written",
                        subject=self._subject,
                    )
            with os_errors(self._subject), self._locked():
                self._publish(wanted)
            self._created = False
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what was taken, and the directory if it was made here; nothing happens after the end."""
        if self._open:
            self._open = False
            self._scratch.close()
            self._close()

    def _close(self) -> None:
        self._root.close()
        self._files.close()
        if self._created:
            with suppress(OSError):  # somebody put something into it meanwhile
                self._directory.rmdir()

    def _check(self) -> None:
        names = [name for name in os.listdir(self._directory) if not name.startswith(scratch.PREFIX)]
        if names and LAYOUT_FILE not in names and INDEX_FILE not in names:
            raise FailedPrecondition(
                "the directory holds something that is no image layout",
                code="not-a-layout",
                subject=self._subject,
                hint="give a new or empty directory",
            )
        marker = self._document(LAYOUT_FILE)
        try:
            if marker is not None:
                check_layout_file(marker, self._limits)
            updated_index(self._document(INDEX_FILE), (), limits=self._limits)
        except LamellaError as error:
            locate(error, self._subject)
            raise

    def _document(self, name: str) -> bytes | None:
        try:
            return read_document(self._files.open(name), name, self._limits.document_bytes)
        except NotFound:
            return None

    def _in_place(self, descriptor: Descriptor) -> bool:
        try:
            fd = self._root.open(blob_path(descriptor.digest).encode(), os.O_PATH, links="beneath")
        except OSError:
            return False
        try:
            info = os.fstat(fd)
        finally:
            os.close(fd)
        return stat.S_ISREG(info.st_mode) and info.st_size == descriptor.size

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Between sinks, one publishes at a time."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks: index.json is atomic all the same
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _publish(self, offers: tuple[Offer, ...]) -> None:
        vanished = [d for d in self._relied.values() if self._spool.size(d.digest) is None and not self._in_place(d)]
        if vanished:
            raise Conflict(
                f"{vanished[0].digest} was in the layout and has been removed meanwhile",
                code="blob-vanished",
                subject=self._subject,
                hint="try again",
            )
        raw = updated_index(self._document(INDEX_FILE), offers, limits=self._limits)
        placing = _Placing(self._root, self._directory, self._scratch)
        try:
            if self._document(LAYOUT_FILE) is None:
                placing.document(LAYOUT_FILE, jsondoc.render({"imageLayoutVersion": LAYOUT_VERSION}))
            for digest in self._spool.digests():
                placing.blob(digest, self._spool.path(digest))
            placing.sync()
            placing.document(INDEX_FILE, raw)
        except BaseException:
            if self._document(INDEX_FILE) != raw:
                placing.undo()
            raise
        if self._created:
            fsync_dir(self._directory.parent)


class _Placing:
    """The files that one ``finish`` adds to a layout, so that a failure can take them away again."""

    def __init__(self, root: RootDir, directory: Path, scratch: Scratch) -> None:
        self._root = root
        self._directory = directory
        self._scratch = scratch
        self._files: list[bytes] = []
        self._directories: list[bytes] = []
        self._touched: set[bytes] = set()

    def document(self, name: str, data: bytes) -> None:
        """Put a document into the layout, atomically and durably; one of that name that is there is replaced."""
        target = self._directory / name
        new = not target.is_symlink() and not target.exists()
        with open(self._scratch.create(name), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (self._scratch / name).rename(target)
        if new:
            self._files.append(name.encode())
        fsync_dir(self._directory)

    def blob(self, digest: Digest, source: Path) -> None:
        """Move a finished file to the place of its blob."""
        directory, _, name = blob_path(digest).encode().rpartition(b"/")
        for path in (b"blobs", directory):
            self._make(path)
        self._touched.update((b"blobs", directory))
        target = self._root.open(directory, os.O_PATH | os.O_DIRECTORY, links="beneath")
        try:
            if not _exists(name, target):
                self._files.append(directory + b"/" + name)
            os.rename(source, name, dst_dir_fd=target)
        finally:
            os.close(target)

    def sync(self) -> None:
        """Make the names of the blobs durable."""
        for path in self._touched:
            fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY, links="beneath")
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def undo(self) -> None:
        """Remove what was added; what cannot be removed is garbage that nothing names."""
        for path in reversed(self._files):
            with suppress(OSError):
                self._remove(path)
        for path in reversed(self._directories):
            with suppress(OSError):
                self._remove(path, directory=True)

    def _make(self, path: bytes) -> None:
        if path in self._touched:
            return
        parent, name = self._parent(path)
        try:
            os.mkdir(name, dir_fd=parent)
            self._directories.append(path)
        except FileExistsError:
            pass
        finally:
            os.close(parent)

    def _remove(self, path: bytes, *, directory: bool = False) -> None:
        parent, name = self._parent(path)
        try:
            (os.rmdir if directory else os.unlink)(name, dir_fd=parent)
        finally:
            os.close(parent)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        parent, _, name = path.rpartition(b"/")
        return self._root.open(parent, os.O_PATH | os.O_DIRECTORY, links="beneath"), name


def _exists(name: bytes, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make(directory: Path) -> bool:
    """Make the directory if it is not there; whether it was made."""
    try:
        directory.mkdir()
    except FileExistsError:
        if not directory.is_dir():
            raise FailedPrecondition(
                "it is a file, and no directory", code="not-a-layout", subject=str(directory)
            ) from None
        return False
    return True
