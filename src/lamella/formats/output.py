"""Where an archive goes: a file that appears whole or not at all, or a stream."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lamella._sys.files import fsync_dir, os_errors
from lamella.archive.compression import Compression, CompressWriter
from lamella.archive.tar import Member, MemberType, TarWriter
from lamella.errors import FailedPrecondition
from lamella.formats.scratch import Scratch

Write = Callable[[bytes], object]

_BUFFER = 1 << 20


class Output:
    """The destination of one archive, with a scratch directory for what is gathered before.

    ``path`` None is standard output. A path that is a link is followed; one that is a pipe or a device is written to as
    a stream. Anything else is replaced atomically and durably when ``writing`` ends without an error, with the
    permissions that the umask gives, and stays as it was otherwise. The scratch directory lies beside the file, for a
    stream in ``spool`` (the system's temporary directory if that is None).

    Raises FailedPrecondition (``output-is-directory``), NotFound or AccessDenied when nothing can be written there.
    """

    def __init__(self, path: Path | None, *, spool: Path | None = None) -> None:
        self.subject = "standard output" if path is None else str(path)
        self._path = path
        self._replaces = path is not None and _replaceable(path)
        if path is not None and self._replaces:
            self._path = Path(os.path.realpath(path))
            self.scratch = Scratch(self._path.parent)
        else:
            self.scratch = Scratch(Path(tempfile.gettempdir()) if spool is None else spool)

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """A function that takes the archive's bytes in order; to be entered once."""
        if self._path is not None and self._replaces:
            with self._file(self._path) as write:
                yield write
            return
        with os_errors(self.subject):
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
            fd = os.dup(1) if self._path is None else os.open(self._path, flags)
            with open(fd, "wb", buffering=_BUFFER) as stream:
                yield stream.write

    @contextmanager
    def _file(self, path: Path) -> Iterator[Write]:
        with os_errors(self.subject):
            fd = self.scratch.create("output")
            with open(fd, "wb", buffering=_BUFFER) as stream:
                yield stream.write
                stream.flush()
                os.fsync(fd)
            (self.scratch / "output").rename(path)
            fsync_dir(path.parent)

    @contextmanager
    def tar(self, compression: Compression, level: int | None = None) -> Iterator[TarWriter]:
        """The destination as a tar to add members to; to be entered once, instead of ``writing``."""
        with self.writing() as write, CompressWriter(write, compression, level=level) as compressed:
            with TarWriter(compressed.write) as writer:
                yield writer

    def close(self) -> None:
        """Remove the scratch directory, and with it everything that was not finished."""
        self.scratch.close()


def _replaceable(path: Path) -> bool:
    """Whether ``path`` is a file or nothing yet; pipes and devices are not, and must not be renamed over."""
    with os_errors(str(path)):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return True
    if stat.S_ISDIR(mode):
        raise FailedPrecondition("it is a directory", code="output-is-directory", subject=str(path))
    return stat.S_ISREG(mode)


def file_member(name: str, size: int) -> Member:
    """A file of an archive, with fixed metadata: root's, read by all, from 1970."""
    return Member(name.encode(), MemberType.REGULAR, mode=0o644, size=size)


def directory_member(name: str) -> Member:
    """A directory of an archive, with fixed metadata."""
    return Member(name.encode() + b"/", MemberType.DIRECTORY, mode=0o755)


def link_member(name: str, target: str) -> Member:
    """A symbolic link of an archive, with fixed metadata."""
    return Member(name.encode(), MemberType.SYMLINK, mode=0o777, linkname=target.encode())
