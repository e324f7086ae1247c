"""What can hold images: the interface that files, servers and the store itself share, so that any can copy to any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest


class Reader(Protocol):
    """A stream of bytes that is read once, front to back, and closed."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""

    def close(self) -> None:
        """Give back what the stream holds."""


@runtime_checkable
class RewindableReader(Reader, Protocol):
    """A stream that can be told where to go on: for who has the beginning already, or has to send something again."""

    @property
    def resumable(self) -> bool:
        """Whether beginning somewhere in the middle saves what lies before it."""

    def rewind(self, offset: int, /) -> None:
        """Make the next read begin at ``offset``."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An image (a manifest or an index) that an endpoint has, the names it has there, and the parent it remembers."""

    descriptor: Descriptor
    names: tuple[str, ...] = ()
    parent: Digest | None = None
    notes: tuple[str, ...] = field(default=())


@runtime_checkable
class ImageSource(Protocol):
    """An endpoint to read from. Nothing that it returns is verified yet: the reader of it does that."""

    def offers(self) -> Sequence[Offer]:
        """The images at this endpoint."""

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob. Raises NotFound."""

    def close(self) -> None:
        """Give back what the endpoint holds."""


@runtime_checkable
class ResumableSource(Protocol):
    """An endpoint that can begin to read a blob in the middle of it, at no cost."""

    def open_blob_at(self, descriptor: Descriptor, offset: int) -> Reader:
        """The bytes of one blob from ``offset`` on. Raises NotFound."""


@runtime_checkable
class ImageSink(Protocol):
    """An endpoint to write to. Nothing shows before ``finish``; ``abort`` leaves the place as it was."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether this blob is there already, whole."""

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob: layers and configs first, manifests after what they name.

        The bytes are checked against the descriptor before they count. Raises Integrity. May be called by several
        threads at once, for different blobs.
        """

    def finish(self, offers: Iterable[Offer]) -> None:
        """Make the images visible under their names, atomically where the format can."""

    def abort(self) -> None:
        """Drop what was written."""
