"""Holding what clients push until a manifest names it, and no longer than that."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from lamella.catalog.holder import Lease
from lamella.spec.digest import Digest


class Holds:
    """Keeps blobs and documents from being collected for at least ``expiry`` and at most twice as many seconds.

    A client looks whether a blob is there, or sends it, and names it in a manifest some time later; nobody tells the
    server when a client has given up. So there are leases, a new one each ``expiry`` seconds, and the one before.
    Thread-safe. ``make`` makes a lease; ``abandoned`` is told what was in one that has ended.
    """

    def __init__(self, make: Callable[[], Lease], expiry: float, abandoned: Callable[[set[Digest]], None]) -> None:
        self._make, self._expiry, self._abandoned = make, expiry, abandoned
        self._lock = threading.Lock()
        self._leases: deque[tuple[float, Lease, set[Digest]]] = deque()

    def hold(self, *digests: Digest) -> None:
        """Keep these from now on. To be called before looking for them."""
        with self._lock:
            now = time.monotonic()
            if not self._leases or now - self._leases[-1][0] > self._expiry:
                self._leases.append((now, self._make(), set()))
            _, lease, held = self._leases[-1]
            new = [digest for digest in digests if digest not in held]
            if new:
                lease.hold(*new)
                held.update(new)

    @property
    def ids(self) -> list[str]:
        """The ids of the leases."""
        with self._lock:
            return [lease.id for _, lease, _ in self._leases]

    def expire(self) -> None:
        """End the leases that have had their time; what is in them and was never named is garbage then."""
        over: set[Digest] = set()
        with self._lock:
            while self._leases and time.monotonic() - self._leases[0][0] > 2 * self._expiry:
                _, lease, held = self._leases.popleft()
                lease.close()
                over |= held
        if over:
            self._abandoned(over)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            while self._leases:
                self._leases.popleft()[1].close()
