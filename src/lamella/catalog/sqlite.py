"""The catalog in SQLite: one file, many threads and processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lamella.catalog.blobs import BlobTables
from lamella.catalog.database import Database
from lamella.catalog.images import ImageTables
from lamella.catalog.leases import LeaseTables
from lamella.catalog.migrations import MIGRATIONS, Migration
from lamella.catalog.names import NameTable
from lamella.catalog.reach import reachable
from lamella.catalog.records import Reachable
from lamella.catalog.snapshots import SnapshotTable
from lamella.errors import Integrity
from lamella.spec.digest import Digest


class SqliteCatalog(ImageTables, BlobTables, NameTable, SnapshotTable, LeaseTables):
    """Implements ``protocol.Catalog``. Opens the file at ``path``, or creates it; its directory must be there.

    Raises Unsupported (``store-too-new``) for the catalog of a later Lamella, Integrity for a file that is none or is
    damaged. ``busy_seconds`` is how long a change waits for those of others before it raises Conflict.
    """

    def __init__(self, path: Path, *, migrations: Sequence[Migration] = MIGRATIONS, busy_seconds: float = 60.0) -> None:
        self._database = Database(path, migrations=migrations, busy_seconds=busy_seconds)

    @property
    def path(self) -> Path:
        """The file. Nothing but this class may open it in this process."""
        return self._database.path

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Make the calls of this thread inside the block one transaction; see ``protocol.Catalog``."""
        with self._database.write(durable=durable):
            yield

    def reachable(self, live_leases: Collection[str]) -> Reachable:
        """Everything that a name, a snapshot or one of these leases leads to."""
        with self._database.read() as connection:
            return reachable(connection, live_leases)

    def used(self, live_leases: Collection[str], manifests: Collection[Digest]) -> Reachable:
        """Everything that these manifests and leases lead to."""
        with self._database.read() as connection:
            return reachable(connection, live_leases, roots={str(manifest) for manifest in manifests})

    def generation(self) -> int:
        """A number that grows with every change of names, documents or dropped blobs that is committed."""
        with self._database.read() as connection:
            (value,) = connection.execute("SELECT value FROM generation").fetchone()
            return int(value)

    def problems(self) -> list[str]:
        """What is wrong with the database itself, a line each."""
        try:
            with self._database.read() as connection:
                return list(_problems(connection))
        except Integrity as error:
            return [str(error)]

    def close(self) -> None:
        """Give back the connections; calls after that raise FailedPrecondition (``catalog-closed``)."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _problems(connection: sqlite3.Connection) -> Iterator[str]:
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield line
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"a row of {table} points at a row of {parent} that is not there"
