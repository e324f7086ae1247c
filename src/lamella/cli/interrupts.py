"""Signals that end the command: the work is unwound and cleaned up, and the exit code tells which signal it was.

The first signal asks: whoever reports progress is stopped at its next report, where nothing is half done. What has not
stopped soon after, because it waits for input say, gets an exception wherever it is, though not inside of Python's own
locks, which that would leave locked. A second signal ends the process at once. That is safe: a store expects to be
killed at any time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 0.5
"""Seconds for the work to stop by itself."""
_AGAIN = 0.02
_LIMIT = 3.0
"""Seconds that locks are respected for."""
_WITH_LOCKS = frozenset({"threading", "queue", "concurrent", "importlib", "_frozen_importlib"})


class Interrupted(BaseException):
    """Raised in the main thread by a signal; no library code takes it for a failure that it could handle."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What shells expect of a command that a signal ended."""
        return 128 + self.number


class Interrupts:
    """The handling of signals of one run. ``listeners`` are told of the first signal; ``received`` is its number."""

    def __init__(self) -> None:
        self.received = 0
        self.listeners: list[Callable[[], None]] = []
        self._until = 0.0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals while the block runs; what the caller of this process chose to ignore stays ignored."""
        previous = {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGALRM)}
        handled = [number for number in _SIGNALS if previous[number] is not signal.SIG_IGN]
        for number in handled:
            signal.signal(number, self._handle)
        signal.signal(signal.SIGALRM, self._insist)
        try:
            yield
        finally:
            self.disarm()
            for number in (*handled, signal.SIGALRM):
                signal.signal(number, previous[number])

    def disarm(self) -> None:
        """The work is being unwound: it must not be interrupted while it cleans up. May be called by any thread."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._until = time.monotonic() + _LIMIT
        for handled in _SIGNALS:
            if signal.getsignal(handled) == self._handle:
                signal.signal(handled, signal.SIG_DFL)
        for listener in self.listeners:
            listener()
        if self.listeners:
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
        else:
            self._insist(signal.SIGALRM, frame)

    def _insist(self, _: int, frame: FrameType | None) -> None:
        module = "" if frame is None else str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _WITH_LOCKS and time.monotonic() < self._until:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        raise Interrupted(self.received)
