"""The SQLite database under the catalog: transactions on one file, for the threads of this process.

Write-ahead log: readers see the last commit and wait for nobody, one writer at a time waits for its turn at BEGIN.
Nothing else in the process may open the file: closing it would drop the locks that SQLite holds on it.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lamella.catalog import schema
from lamella.catalog.failures import map_sqlite_error
from lamella.catalog.migrations import MIGRATIONS, Migration
from lamella.catalog.pool import Pool
from lamella.errors import Aborted, FailedPrecondition, Integrity, InvalidInput, Unsupported

_OLDEST_SQLITE = (3, 37)


@dataclass(slots=True)
class _Transaction:
    connection: sqlite3.Connection
    durable: bool
    depth: int = 0


class _Current(threading.local):
    transaction: _Transaction | None = None


class Database:
    """Opens or creates the file at ``path``. Raises what ``schema.version`` does and what ``failures`` maps to.

    ``busy_seconds`` is how long a transaction waits for its turn before it raises Conflict.
    """

    def __init__(self, path: Path, *, migrations: Sequence[Migration] = MIGRATIONS, busy_seconds: float = 60.0) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise Unsupported(f"SQLite {sqlite3.sqlite_version} is too old; 3.37 is needed", code="sqlite-too-old")
        self.path = path.absolute()
        self._busy_seconds = busy_seconds
        self._pool = Pool(self.path, self._connect)
        self._current = _Current()
        if not self.path.exists():
            schema.create(self.path, migrations)
        try:
            self._upgrade(migrations)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view: that of this thread's transaction if it is in one, else the last commit."""
        try:
            with self._errors():
                transaction = self._current.transaction
                if transaction is not None:
                    yield self._still_open(transaction)
                    return
                with self._pool.lend() as connection:
                    connection.execute("BEGIN")
                    yield connection
        except InvalidInput as error:  # a digest, a document or a platform that nobody can have written
            if error.code == "catalog-text":
                raise
            raise Integrity(f"a row is damaged: {error}", code="catalog-damaged", subject=str(self.path)) from error

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction, or a part of the one that this thread is in; an exception that leaves the block undoes it."""
        with self._errors():
            transaction = self._current.transaction
            if transaction is None:
                with self._outermost(durable=durable) as connection:
                    yield connection
            else:
                with self._part(transaction, durable=durable) as connection:
                    yield connection

    @contextmanager
    def _outermost(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        with self._pool.lend() as connection:
            # FULL makes COMMIT wait for the disk. Set here, as SQLite refuses it inside a transaction.
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            transaction = self._current.transaction = _Transaction(connection, durable)
            try:
                yield connection
            finally:
                self._current.transaction = None
            self._still_open(transaction).execute("COMMIT")

    @contextmanager
    def _part(self, transaction: _Transaction, *, durable: bool) -> Iterator[sqlite3.Connection]:
        if durable and not transaction.durable:
            raise FailedPrecondition(
                "a change that has to survive a power cut, in a transaction that need not", code="catalog-durability"
            )
        connection = self._still_open(transaction)
        transaction.depth += 1
        name = f"part{transaction.depth}"
        connection.execute(f"SAVEPOINT {name}")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction and not self._pool.forked:
                connection.execute(f"ROLLBACK TO {name}")
                connection.execute(f"RELEASE {name}")
            raise
        else:
            self._still_open(transaction).execute(f"RELEASE {name}")
        finally:
            transaction.depth -= 1

    def _still_open(self, transaction: _Transaction) -> sqlite3.Connection:
        """The connection of a transaction, unless SQLite has undone all of it, as it does when the disk is full."""
        self._pool.check()
        if not transaction.connection.in_transaction:
            raise Aborted("the transaction was undone by an earlier failure", code="catalog-undone")
        return transaction.connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise map_sqlite_error(error, self.path) from error
        except UnicodeEncodeError as error:  # half a surrogate pair, as a file name that is not UTF-8 comes with
            raise InvalidInput(f"{error.object[:80]!r} is no text", code="catalog-text") from error

    def close(self) -> None:
        """Close every connection; one that is in use, when its transaction ends."""
        self._pool.close()

    def _connect(self) -> sqlite3.Connection:
        quoted = re.sub(rb"[^A-Za-z0-9_./-]", lambda match: b"%%%02X" % match[0][0], os.fsencode(self.path))
        connection = sqlite3.connect(
            f"file:{quoted.decode('ascii')}?mode=rw",  # never creates: an empty file is no catalog
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _upgrade(self, migrations: Sequence[Migration]) -> None:
        newest = len(migrations)
        with self.read() as connection:
            found = schema.version(connection, newest, self.path)
        if found < newest:
            with self.write() as connection:  # another process may have been faster
                schema.migrate(connection, schema.version(connection, newest, self.path), migrations)
