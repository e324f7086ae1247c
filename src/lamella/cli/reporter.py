"""Progress on standard error: one line an object, lines of JSON, or nothing; bars are in ``bars``.

Every reporter satisfies ``spec.progress.Progress``, may be called by several threads, and cancels the work of all of
them once ``cancel`` was called.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from lamella.cli.output import clean, human_size
from lamella.spec.progress import Cancelled

Mode = Literal["auto", "bar", "plain", "json", "none"]
MODES: tuple[Mode, ...] = ("auto", "bar", "plain", "json", "none")

_NOTES = 20
"""Notes that are shown; an archive can cause one for each of its files."""
_INTERVAL = 0.1
"""Seconds between two lines of JSON about one object."""


@dataclass(slots=True)
class Task:
    """One object that is worked on. ``done`` and ``total`` count ``unit``."""

    key: str
    action: str
    total: int | None
    unit: str
    done: int = 0
    shown: float = 0.0

    @property
    def amount(self) -> str:
        """What is done, for people."""
        return human_size(self.done) if self.unit == "bytes" else f"{self.done} {self.unit}"


class Reporter:
    """Shows nothing but notes. The base of the others. ``on_cancelled`` is called when a thread begins to unwind."""

    def __init__(self, on_cancelled: Callable[[], None] | None = None) -> None:
        self._on_cancelled = on_cancelled
        self._lock = threading.RLock()
        self._tasks: dict[str, Task] = {}
        self._cancelled = False
        self._notes: set[str] = set()

    # -- the protocol

    def start(self, key: str, action: str, *, total: int | None = None, unit: str = "bytes") -> None:
        """As Progress.start; raises Cancelled after ``cancel``."""
        self._check()
        with self._lock:
            task = self._tasks[key] = Task(key, action, total, unit)
            self._started(task)

    def advance(self, key: str, amount: int) -> None:
        """As Progress.advance; raises Cancelled after ``cancel``."""
        self._check()
        with self._lock:
            task = self._tasks.get(key)
            if task is not None:
                task.done += amount
                self._advanced(task, amount)

    def done(self, key: str, outcome: str = "done") -> None:
        """As Progress.done."""
        with self._lock:
            task = self._tasks.pop(key, None)
            if task is not None:
                self._ended(task, outcome)

    def note(self, text: str) -> None:
        """As Progress.note; each text once, and no more than a screen can hold."""
        with self._lock:
            if text not in self._notes:
                self._notes.add(text)
                if len(self._notes) <= _NOTES:
                    self._noted(text)

    # -- for the command line

    def cancel(self) -> None:
        """Stop the work: the next call of each thread raises. To be called from a signal handler too."""
        self._cancelled = True

    def close(self) -> None:
        """Show what is left to be shown."""
        with self._lock:
            if len(self._notes) > _NOTES:
                self._noted(f"and {len(self._notes) - _NOTES} more such notes")

    def _check(self) -> None:
        if self._cancelled:
            if self._on_cancelled is not None:
                self._on_cancelled()
            raise Cancelled("interrupted", code="interrupted")

    # -- what a kind of reporter shows; called one at a time

    def _started(self, task: Task) -> None:
        pass

    def _advanced(self, task: Task, amount: int) -> None:
        pass

    def _ended(self, task: Task, outcome: str) -> None:
        pass

    def _noted(self, text: str) -> None:
        write_line(f"lamella: note: {clean(text)}")


class PlainReporter(Reporter):
    """A line for each object, when it is done."""

    def _ended(self, task: Task, outcome: str) -> None:
        write_line(f"{task.action} {clean(task.key)}: {task.amount if outcome == 'done' else outcome}")


class JsonReporter(Reporter):
    """Lines of JSON, each with an ``event``: ``start``, ``progress`` (at most ten a second), ``done``, ``note``."""

    def _started(self, task: Task) -> None:
        write_event("start", key=task.key, action=task.action, total=task.total, unit=task.unit)

    def _advanced(self, task: Task, amount: int) -> None:
        now = time.monotonic()
        if now - task.shown >= _INTERVAL:
            task.shown = now
            write_event("progress", key=task.key, done=task.done, total=task.total, unit=task.unit)

    def _ended(self, task: Task, outcome: str) -> None:
        write_event("done", key=task.key, outcome=outcome, done=task.done, unit=task.unit)

    def _noted(self, text: str) -> None:
        write_event("note", text=text)


def write_event(event: str, **fields: object) -> None:
    """A line of JSON on standard error."""
    write_line(json.dumps({"event": event, **fields}))


def write_line(text: str) -> None:
    """A line on standard error. That nobody reads it any longer is no reason to fail."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def reporter_for(mode: Mode, *, plain_terminal: bool, on_cancelled: Callable[[], None] | None = None) -> Reporter:
    """The reporter of a mode; ``auto`` is bars on a terminal and lines elsewhere."""
    if mode == "auto":
        on_terminal = sys.stderr is not None and sys.stderr.isatty() and not plain_terminal
        mode = "bar" if on_terminal else "plain"
    if mode == "bar":
        from lamella.cli.bars import BarReporter

        return BarReporter(on_cancelled)
    kinds = {"json": JsonReporter, "plain": PlainReporter}
    return kinds.get(mode, Reporter)(on_cancelled)
