"""Work beside other work on the same bytes: inflating, hashing and compressing release the interpreter."""

from __future__ import annotations

import _thread
import hashlib
import queue
from collections.abc import Callable
from contextlib import suppress

from lamella.spec.digest import Digest

_DEPTH = 8
_SMALL = 32 << 10
_PATIENCE = 1.0


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


class Ahead:
    """Calls ``make`` in a thread of its own, up to eight chunks ahead of who takes them; the empty chunk is the last.

    What ``make`` raises is raised by ``take`` in its place. Streams that end within their first chunk never start a
    thread. Like ``Background`` it may be stopped wherever a signal hits the caller.
    """

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._running = False
        self._error: BaseException | None = None
        self._first = True
        self._over = self._stopped = False

    def take(self) -> bytes:
        """The next chunk; empty at the end, and ever after."""
        if self._over:
            return b""
        if self._running:
            data = self._chunks.get()
            self._room.put(None)
        else:
            data = self._make()
            if len(data) >= _SMALL and not self._first:
                self._start()
            self._first = False
        if not data:
            self._over = True
            if self._error is not None:
                raise self._error
        return data

    def _start(self) -> None:
        for _ in range(_DEPTH):
            self._room.put(None)
        _thread.start_new_thread(self._run, ())
        self._running = True

    def stop(self) -> None:
        """End the thread after the chunk that it is making; raises nothing.

        A thread that waits for input, which may never come, is left behind after a second; what it gets is dropped.
        """
        if self._running:
            self._running = False
            self._stopped = True
            self._room.put(None)
            with suppress(queue.Empty):
                self._ended.get(timeout=_PATIENCE)
        self._over = True

    def _run(self) -> None:
        data = b"-"
        try:
            while data:
                self._room.get()
                if self._stopped:
                    break
                data = self._make()
                self._chunks.put(data)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            self._error = error
            self._chunks.put(b"")
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
