"""Connections to one database, lent to one thread at a time, that no fork takes along.

SQLite's locks are POSIX locks: a forked child has SQLite's belief in them but not the locks, and would work beside
others unprotected. So connections that nobody uses are closed before a fork, and where one was in use the child is kept
from using that database at all.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella.errors import FailedPrecondition

_LOCK = threading.RLock()
"""Guards every pool, for moments only; held over a fork so that the child finds them whole."""

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_forked: set[str] = set()
"""Databases that a connection was open to when this process was forked."""

_inherited: list[sqlite3.Connection] = []
"""Kept so that they are never closed: that is the parent's to do."""


class Pool:
    """As many connections as were ever in use at once."""

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = path
        self._key = os.path.realpath(path)
        self._connect = connect
        self._idle: list[sqlite3.Connection] = []
        self._lent = 0
        self._closed = False
        with _LOCK:
            _pools.add(self)

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection outside of any transaction; one that is open at the end is rolled back."""
        self.check()
        connection = self._take()
        try:
            yield connection
        finally:
            self._give_back(connection)

    @property
    def forked(self) -> bool:
        """Whether this process came from a fork while a connection to the database was lent."""
        return self._key in _forked

    def check(self) -> None:
        """Raise FailedPrecondition where the database may not be used: after ``close``, or in a child of a fork."""
        if self._closed:
            raise FailedPrecondition("the catalog is closed", code="catalog-closed", subject=str(self._path))
        if self.forked:
            raise FailedPrecondition(
                "the process was forked while a transaction was open",
                code="catalog-forked",
                subject=str(self._path),
                hint="fork outside of transactions, or let the child execute a new program",
            )

    def _take(self) -> sqlite3.Connection:
        with _LOCK:
            self._lent += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._connect()
        except BaseException:
            with _LOCK:
                self._lent -= 1
            raise

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self.forked:
            _inherited.append(connection)
            return
        usable = not self._closed
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            usable = False
        with _LOCK:
            self._lent -= 1
            if usable and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close the connections; those that are lent, when they come back."""
        with _LOCK:
            self._closed = True
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(sqlite3.Error):
                self._idle.pop().close()

    @staticmethod
    def before_fork() -> None:
        """Leave nothing open that need not be."""
        _LOCK.acquire()
        for pool in _pools:
            pool._close_idle()

    @staticmethod
    def after_fork_in_child() -> None:
        """Bar what was in use."""
        for pool in _pools:
            if pool._lent:
                _forked.add(pool._key)
        _LOCK.release()


os.register_at_fork(before=Pool.before_fork, after_in_parent=_LOCK.release, after_in_child=Pool.after_fork_in_child)
