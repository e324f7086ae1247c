"""The tables of leases. A lease ends with its process at the latest, so none of this waits for the disk."""

from __future__ import annotations

from collections.abc import Iterable

from lamella.catalog.database import Database
from lamella.catalog.records import LeaseRecord
from lamella.catalog.rows import from_micros, now_micros
from lamella.errors import AlreadyExists, NotFound


class LeaseTables:
    """Implements ``protocol.Leases``."""

    _database: Database

    def add_lease(self, id: str, purpose: str) -> None:
        """Record a lease. Raises AlreadyExists."""
        purpose = purpose.encode("utf-8", "backslashreplace").decode("utf-8")  # it may name a file that is not UTF-8
        with self._database.write(durable=False) as connection:
            row = (id, now_micros(), purpose)
            if connection.execute("INSERT OR IGNORE INTO leases VALUES (?, ?, ?)", row).rowcount == 0:
                raise AlreadyExists("there is such a lease already", code="lease-exists", subject=f"lease {id}")

    def extend_lease(self, id: str, resources: Iterable[str]) -> None:
        """Hold more. Raises NotFound for the lease."""
        rows = [(id, resource) for resource in resources]
        with self._database.write(durable=False) as connection:
            if not connection.execute("SELECT 1 FROM leases WHERE id = ?", (id,)).fetchone():
                raise NotFound("there is no such lease", code="lease-not-found", subject=f"lease {id}")
            connection.executemany("INSERT OR IGNORE INTO lease_resources VALUES (?, ?)", rows)

    def remove_lease(self, id: str) -> bool:
        """Drop a lease and what it holds; returns whether there was one."""
        with self._database.write(durable=False) as connection:
            return connection.execute("DELETE FROM leases WHERE id = ?", (id,)).rowcount > 0

    def leases(self) -> list[LeaseRecord]:
        """Every lease, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT id, created, purpose FROM leases ORDER BY created, id")
            return [LeaseRecord(id, from_micros(created), purpose) for id, created, purpose in rows]

    def lease_resources(self, id: str) -> frozenset[str]:
        """What a lease holds; nothing if there is no such lease."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT resource FROM lease_resources WHERE lease = ?", (id,))
            return frozenset(row[0] for row in rows)
