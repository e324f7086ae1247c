"""The taxonomy of failures.

An error is a *kind* (what the caller can do about it: the class) and a *subject* (what it is about: the fields).
Every error has a stable ``code``, the entry and the layer it concerns where there is one, and a hint that mends it
where one is known. The command line prints an error as one line and exits with the ``exit_code`` of its kind.
"""

from __future__ import annotations

from typing import ClassVar, Self


def printable(path: bytes) -> str:
    """A path inside an image as text for a message: UTF-8 where it is, escapes for the rest and for controls."""
    return one_line(path.decode("utf-8", "backslashreplace"))


def one_line(text: str) -> str:
    """Text as it may be shown: what controls a terminal, ends a line or turns its direction becomes an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class LamellaError(Exception):
    """The base of every failure that Lamella reports.

    ``reason`` says why, ``subject`` what it happened to (a file, an image, a name), ``entry`` the path inside the
    image, ``layer`` the layer (its digest as text), ``hint`` what would mend it. ``code`` is stable across releases.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 3

    def __init__(
        self,
        reason: str,
        *,
        code: str = "",
        subject: str = "",
        entry: bytes | None = None,
        layer: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code or self.kind
        self.subject = subject
        self.entry = entry
        self.layer = layer
        self.hint = hint

    def about(self, *, subject: str = "", entry: bytes | None = None, layer: str | None = None) -> Self:
        """Fill in what the raiser could not know; what is already set stays. Returns self."""
        self.subject = self.subject or subject
        self.entry = self.entry if self.entry is not None else entry
        self.layer = self.layer or layer
        return self

    def __str__(self) -> str:
        where = []
        if self.entry is not None:
            where.append(f"entry '{printable(self.entry)}'")
        if self.layer:
            where.append(f"layer {self.layer}")
        text = f"{self.subject}: {self.reason}" if self.subject else self.reason
        return one_line(f"{text} ({', '.join(where)})" if where else text)


class NotFound(LamellaError):
    """What was asked for does not exist."""

    kind, exit_code = "not-found", 10


class AlreadyExists(LamellaError):
    """What was to be created is there already."""

    kind, exit_code = "already-exists", 11


class InvalidInput(LamellaError):
    """What was given is malformed: a name, a document, an archive."""

    kind, exit_code = "invalid-input", 12


class FailedPrecondition(LamellaError):
    """The state of the store does not allow the operation now: an image with children, a snapshot that is mounted."""

    kind, exit_code = "failed-precondition", 13


class Integrity(LamellaError):
    """Bytes are not what their digest, size or checksum promises."""

    kind, exit_code = "integrity", 14


class Conflict(LamellaError):
    """Somebody else holds or changed what the operation needs; trying again may help."""

    kind, exit_code = "conflict", 15


class AccessDenied(LamellaError):
    """The operating system or a server refuses."""

    kind, exit_code = "access-denied", 16


class Authentication(LamellaError):
    """Credentials are missing or wrong."""

    kind, exit_code = "authentication", 17


class Unavailable(LamellaError):
    """A resource outside cannot be reached now."""

    kind, exit_code = "unavailable", 18


class Unsupported(LamellaError):
    """Well formed, but not something this version or this machine can do."""

    kind, exit_code = "unsupported", 19


class ResourceExhausted(LamellaError):
    """A limit was hit: disk space, or a bound on bytes, entries, ratio or depth."""

    kind, exit_code = "resource-exhausted", 20


class Aborted(LamellaError):
    """The operation was cancelled; nothing of it is visible."""

    kind, exit_code = "aborted", 21


class Ambiguous(InvalidInput):
    """A name or an id prefix that more than one object answers to; the message names the candidates."""

    kind, exit_code = "ambiguous", 22


KINDS: tuple[type[LamellaError], ...] = (
    NotFound,
    AlreadyExists,
    InvalidInput,
    FailedPrecondition,
    Integrity,
    Conflict,
    AccessDenied,
    Authentication,
    Unavailable,
    Unsupported,
    ResourceExhausted,
    Aborted,
    Ambiguous,
)
"""Every kind, in the order of its exit code, for the manual."""
