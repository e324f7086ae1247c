"""Work beside the work that makes the bytes: hashing and compressing release the interpreter while they run."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable

from lamella.spec.digest import Digest

_DEPTH = 8
_SMALL = 32 << 10


class Background:
    """Calls ``act`` with each chunk, in order, in a thread of its own. At most eight chunks wait; then ``put`` does.

    What ``act`` raises is raised by the next ``put`` or by ``finish``. Small streams never start a thread.
    """

    def __init__(self, act: Callable[[bytes], object]) -> None:
        self._act = act
        self._queue: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def put(self, data: bytes) -> None:
        """Hand over ``data``, which must not change afterwards."""
        if self._error is not None:
            raise self._error
        if self._thread is None:
            if len(data) < _SMALL:
                self._act(data)
                return
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._queue.put(data)

    def stop(self) -> None:
        """End the thread once what was handed over is done; raises nothing."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """End the thread, and raise what it met."""
        self.stop()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._act(data)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
                self._error = error


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
