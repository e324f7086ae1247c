"""Signals that end the command: the work is unwound and cleaned up, and the exit code tells which signal it was."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    """What to do at the first signal: tell ``listeners`` (they stop work in other threads), then raise.

    A second signal ends the process at once. That is safe: a store expects to be killed at any time.
    """

    def __init__(self) -> None:
        self.received = 0
        self.listeners: list[Callable[[], None]] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals while the block runs; what the caller of this process chose to ignore stays ignored."""
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        handled = [number for number, handler in previous.items() if handler is not signal.SIG_IGN]
        for number in handled:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, previous[number])

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received = number
        for handled in _SIGNALS:
            if signal.getsignal(handled) == self._handle:
                signal.signal(handled, signal.SIG_DFL)
        for listener in self.listeners:
            listener()
        raise Interrupted(number)
