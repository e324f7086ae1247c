"""Making a catalog file, telling it from other files, and bringing an older one up to date."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from lamella._sys.files import drop_temporaries, os_errors, write_atomic
from lamella.catalog.migrations import Migration
from lamella.errors import Integrity, Unsupported

APPLICATION_ID = 0x4C414D4C
"""``LAML``: tells a catalog from any other SQLite database."""

_WAL = b"\x02\x02"


def create(path: Path, migrations: Sequence[Migration]) -> None:
    """Put a new catalog at ``path`` if there is nothing; it appears whole, and once however many processes do this.

    It is built in memory, as a database that is being set up by one process while others open it fails in many ways.
    The lock is on the directory. Write-ahead logging is switched on where SQLite keeps that: bytes 18 and 19 of the
    header (sqlite.org/fileformat2.html, "File format version numbers").
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, 0, migrations)
        image = bytearray(connection.serialize())
    image[18:20] = _WAL
    with os_errors(str(path)):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            if not path.exists():
                drop_temporaries(path)
                write_atomic(path, bytes(image))
        finally:
            os.close(directory)


def version(connection: sqlite3.Connection, newest: int, path: Path) -> int:
    """The version of a catalog.

    Raises Integrity (``catalog-not-database``) for what is none, Unsupported (``store-too-new``) for one of a later
    Lamella.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise Integrity("it is not a Lamella catalog", code="catalog-not-database", subject=str(path))
    (found,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    if found is None:
        raise Integrity("it does not say its version", code="catalog-damaged", subject=str(path))
    if found > newest:
        raise Unsupported(
            f"the store has version {found}, and this Lamella knows those up to {newest}",
            code="store-too-new",
            subject=str(path),
            hint="use a newer Lamella",
        )
    return int(found)


def migrate(connection: sqlite3.Connection, current: int, migrations: Sequence[Migration]) -> None:
    """Take the steps after ``current``, in the transaction that the caller has open."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT"
    )
    for number, statements in enumerate(migrations[current:], current + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO schema_version VALUES (?, ?)", (number, time.time_ns() // 1000))
