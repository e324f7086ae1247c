"""Having the kernel write a growing file to its disk, so that the fsync at its end finds little left to do."""

from __future__ import annotations

import _thread
import queue
from contextlib import suppress

from lamella._sys import syscalls

_STEP = 8 << 20
"""Bytes after which writing is begun: the kernel would else keep them until it is told to sync, or memory is short."""


class Writeback:
    """Begins writing what was added to a file, in a thread of its own: the call waits when the disk has enough to do.

    A hint, and nothing but: it reports nothing, and what must last is synced by its owner. Small files never start a
    thread. Like ``Background`` of the layers it may be stopped wherever a signal hits the caller.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begun = 0
        self._ranges: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._running = self._stopped = False

    def grown(self, size: int) -> None:
        """Say that the file has ``size`` bytes now."""
        if size - self._begun < _STEP:
            return
        if not self._running:
            _thread.start_new_thread(self._run, ())
            self._running = True
        self._ranges.put((self._begun, size - self._begun))
        self._begun = size

    def stop(self) -> None:
        """End the thread; to be called before the file is closed. Raises nothing.

        What is still waiting to be begun is left to the kernel: whoever gives up does not wait for the disk.
        """
        if self._running:
            self._running = False
            self._stopped = True
            self._ranges.put(None)
            self._ended.get()

    def _run(self) -> None:
        while (wanted := self._ranges.get()) is not None:
            if not self._stopped:
                with suppress(OSError):  # the owner's fsync meets it too, and says so
                    syscalls.sync_file_range(self._fd, *wanted)
        self._ended.put(None)
