"""Progress as values: an operation calls the object it was handed, whoever shows it decides how.

An operation announces each object it works on with ``start``, adds bytes with ``advance`` and ends it with ``done``.
A reporter may be called from several threads at once. Raising from a reporter cancels the operation: ``Cancelled`` is
the one to raise, and every operation leaves nothing half-done behind.
"""

from __future__ import annotations

from typing import Protocol

from lamella.errors import Aborted


class Cancelled(Aborted):
    """Raised by a reporter (or a signal handler) to stop the operation that calls it."""


class Progress(Protocol):
    """What an operation reports to. ``key`` tells objects apart; ``unit`` is ``"bytes"`` or ``"entries"``."""

    def start(self, key: str, action: str, *, total: int | None = None, unit: str = "bytes") -> None:
        """Work on ``key`` begins; ``action`` is a word such as ``loading`` or ``extracting``."""

    def advance(self, key: str, amount: int) -> None:
        """``amount`` more units of ``key`` are done. Who waits asks with no key and 0 whether to go on."""

    def done(self, key: str, outcome: str = "done") -> None:
        """Work on ``key`` has ended; ``outcome`` is ``done``, ``exists`` (nothing was to do) or ``failed``."""

    def note(self, text: str) -> None:
        """Something the user should know and no failure: an entry skipped, a time that the file system cannot hold."""


class _NoProgress:
    def start(self, key: str, action: str, *, total: int | None = None, unit: str = "bytes") -> None:
        pass

    def advance(self, key: str, amount: int) -> None:
        pass

    def done(self, key: str, outcome: str = "done") -> None:
        pass

    def note(self, text: str) -> None:
        pass


NO_PROGRESS: Progress = _NoProgress()
"""Reports to nobody."""
