"""Work beside the work that makes the bytes: hashing and compressing release the interpreter while they run."""

from __future__ import annotations

import _thread
import hashlib
import queue
from collections.abc import Callable

from lamella.spec.digest import Digest

_DEPTH = 8
_SMALL = 32 << 10


class Background:
    """Calls ``act`` with each chunk, in order, in a thread of its own. At most eight chunks wait; then ``put`` does.

    What ``act`` raises is raised by the next ``put`` or by ``finish``. Small streams never start a thread. An exception
    that a signal raises in the caller, wherever it is, leaves the thread such that ``stop`` ends it: no lock that is
    written in Python is used, for such an exception can come between taking one and the code that gives it back.
    """

    def __init__(self, act: Callable[[bytes], object]) -> None:
        self._act = act
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._running = False
        self._error: BaseException | None = None

    def put(self, data: bytes) -> None:
        """Hand over ``data``, which must not change afterwards."""
        if self._error is not None:
            raise self._error
        if not self._running:
            if len(data) < _SMALL:
                self._act(data)
                return
            for _ in range(_DEPTH):
                self._room.put(None)
            _thread.start_new_thread(self._run, ())
            self._running = True
        self._room.get()
        self._chunks.put(data)

    def stop(self) -> None:
        """End the thread once what was handed over is done; raises nothing."""
        if self._running:
            self._running = False
            self._chunks.put(None)
            self._ended.get()

    def finish(self) -> None:
        """End the thread, and raise what it met."""
        self.stop()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (data := self._chunks.get()) is not None:
            if self._error is None:
                try:
                    self._act(data)
                except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
                    self._error = error
            self._room.put(None)
        self._ended.put(None)


class ThreadedHasher:
    """A sha256 that is computed beside the caller."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._worker = Background(self._hash.update)
        self.update = self._worker.put
        self.close = self._worker.stop

    def digest(self) -> Digest:
        """The digest of all that was given; ends the thread."""
        self._worker.finish()
        return Digest.finish(self._hash)
