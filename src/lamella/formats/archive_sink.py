"""What the sinks have in common that write one archive: gather, verify, and write everything at the end."""

from __future__ import annotations

import abc
import io
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

from lamella.archive.compression import Compression
from lamella.archive.tar import Member
from lamella.content.verified import VerifiedReader
from lamella.errors import LamellaError
from lamella.formats.files import CountedReader, locate
from lamella.formats.output import Output, directory_member, file_member
from lamella.formats.spool import Spool
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

Content = bytes | Digest | None
"""What a member of the archive holds: bytes, a gathered blob, nothing."""


class ArchiveSink(abc.ABC):
    """The base of the sinks that write a tar (ImageSinks); subclasses say which members it gets.

    ``path`` None is standard output. Blobs are verified and gathered in a scratch directory: beside the file, or in
    ``spool`` for a stream. ``finish`` writes the archive, which replaces a file atomically and durably; nothing of it
    shows before. The bytes depend on the images and their names only, not on the order in which blobs came.
    ``compression`` is that of the whole archive. Leaving a ``with`` block aborts what was not finished.

    ``write_blob`` and ``has_blob`` may be called by several threads.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        spool: Path | None = None,
        compression: Compression = Compression.NONE,
        level: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._output = Output(path, spool=spool)
        self._spool = Spool(self._output.scratch)
        self._compression = compression
        self._level = level
        self._limits = limits
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was taken already."""
        return self._spool.size(descriptor.digest) == descriptor.size

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob; ``reader`` stays the caller's. Raises Integrity when the bytes are not the descriptor's."""
        verified = VerifiedReader(reader, descriptor.digest, descriptor.size)
        self._spool.store(verified, digest=descriptor.digest)

    def finish(self, offers: Iterable[Offer]) -> None:
        """Write the archive with these images. Ends the sink, whatever comes of it.

        Raises FailedPrecondition (``blob-not-written``) for an image of which something is missing, InvalidInput for
        names that the format cannot have, Unsupported for documents that it cannot hold.
        """
        try:
            members = list(self._members(tuple(offers)))
            with self._output.tar(self._compression, self._level) as tar:
                for member, content in members:
                    if content is None:
                        tar.add(member)
                        continue
                    name, reader = member.name.decode(), self._open(content)
                    with CountedReader(reader, self._progress, name, "writing", total=member.size) as counted:
                        tar.add(member, counted)
        except LamellaError as error:
            locate(error, self._output.subject)
            raise
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what was taken; nothing happens after the end."""
        self._output.close()

    @abc.abstractmethod
    def _members(self, offers: tuple[Offer, ...]) -> Iterator[tuple[Member, Content]]:
        """The members of the archive, in the order in which they are written."""

    def _file(self, name: str, content: bytes | Digest) -> tuple[Member, Content]:
        if isinstance(content, bytes):
            return file_member(name, len(content)), content
        with closing(self._spool.open(content)) as reader:
            return file_member(name, reader.left), content

    def _directory(self, name: str) -> tuple[Member, Content]:
        return directory_member(name), None

    def _open(self, content: bytes | Digest) -> Reader:
        return io.BytesIO(content) if isinstance(content, bytes) else self._spool.open(content)
