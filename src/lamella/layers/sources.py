"""Where the bytes of an entry are: in a layer's tar, or in a directory of the host."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from lamella._sys.beneath import RootDir
from lamella._sys.files import map_os_error, os_errors
from lamella.errors import Integrity, printable
from lamella.layers.entry import Entry
from lamella.layers.filedigests import FileDigests
from lamella.spec.digest import Digest


class ContentSource(Protocol):
    """Opens the content of regular files; ``label`` names the place in messages."""

    label: str

    def open(self, entry: Entry) -> io.RawIOBase:
        """The content of ``entry``: seekable, exactly ``entry.size`` bytes, the caller's to close."""

    def digest(self, entry: Entry) -> Digest | None:
        """The digest of the content of ``entry`` if it is known; nothing is read for this."""


class StoredFile(io.RawIOBase):
    """A window of an open file, seekable; the data segments of a sparse file are put in their places.

    Owns the descriptor. Reads with pread, so that the position of the descriptor does not matter.
    """

    def __init__(self, fd: int, entry: Entry) -> None:
        super().__init__()
        self._fd = fd
        self._size = entry.size
        self._position = 0
        self._entry = entry
        self._segments = _segments(entry)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = (0, self._position, self._size)[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        want = min(len(view), self._size - self._position)
        if want <= 0:
            return 0
        count = self._fill(view[:want])
        self._position += count
        return count

    def _fill(self, view: memoryview) -> int:
        """Fill from the segment, or the hole, that the position is in."""
        for start, length, stored_at in self._segments:
            if self._position < start:
                count = min(len(view), start - self._position)
                view[:count] = bytes(count)
                return count
            if self._position < start + length:
                within = self._position - start
                count = min(len(view), length - within)
                got = os.preadv(self._fd, [view[:count]], stored_at + within)
                if not got:
                    raise Integrity("the stored bytes end too early", code="layer-truncated", entry=self._entry.path)
                return got
        view[:] = bytes(len(view))
        return len(view)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def _segments(entry: Entry) -> list[tuple[int, int, int]]:
    """(logical offset, length, offset in the stored file) of each data segment."""
    if entry.sparse is None:
        return [(0, entry.size, entry.offset)]
    result, at = [], entry.offset
    for start, length in entry.sparse:
        if length:
            result.append((start, length, at))
        at += length
    return result


class TarSource:
    """Content in an uncompressed layer tar.

    ``locate`` gives the tar's path; it may rebuild the tar first, which is why it is asked at each open.
    """

    def __init__(self, label: str, locate: Callable[[], Path], digests: FileDigests | None = None) -> None:
        self.label = label
        self._locate = locate
        self._digests = digests

    def digest(self, entry: Entry) -> Digest | None:
        return None if self._digests is None else self._digests.of(entry)

    def open(self, entry: Entry) -> io.RawIOBase:
        return StoredFile(self.open_tar(), entry)

    def open_tar(self) -> int:
        """A descriptor of the whole tar, the caller's to close."""
        with os_errors(self.label):
            with suppress(FileNotFoundError):  # somebody dropped it since it was located: it is made again
                return os.open(self._locate(), os.O_RDONLY | os.O_CLOEXEC)
            return os.open(self._locate(), os.O_RDONLY | os.O_CLOEXEC)


class HostSource:
    """Content of files in a directory of the host that was scanned; links are never followed.

    ``touched`` holds the paths that may have changed since the directory was filled from a tree; None is all of them.
    """

    def __init__(self, root: Path, touched: set[bytes] | None = None) -> None:
        self.label = str(root)
        self.touched = touched
        self._root = root

    def digest(self, entry: Entry) -> Digest | None:
        return None

    def open(self, entry: Entry) -> io.RawIOBase:
        try:
            with RootDir(self._root) as root:
                fd = root.open(entry.path, os.O_RDONLY | os.O_NONBLOCK, links="refuse")
        except OSError as error:
            raise map_os_error(error, f"{self.label}/{printable(entry.path)}") from error
        # The file may have changed since the scan: what is read is at most what was seen then.
        return StoredFile(fd, entry)
