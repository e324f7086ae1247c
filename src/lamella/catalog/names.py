"""The table of names."""

from __future__ import annotations

from lamella.catalog.database import Database
from lamella.catalog.images import no_document
from lamella.catalog.records import NameRecord
from lamella.catalog.rows import from_micros, now_micros
from lamella.spec.digest import Digest


class NameTable:
    """Implements ``protocol.Names``."""

    _database: Database

    def names(self) -> list[NameRecord]:
        """Every name, sorted."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT name, target, updated FROM names ORDER BY name")
            return [_record(*row) for row in rows]

    def name(self, name: str) -> NameRecord | None:
        """Where a name points, or None."""
        with self._database.read() as connection:
            query = "SELECT name, target, updated FROM names WHERE name = ?"
            row = connection.execute(query, (name,)).fetchone()
            return None if row is None else _record(*row)

    def set_name(self, name: str, target: Digest) -> Digest | None:
        """Point ``name`` at a document; returns where it pointed before. A name that points there already stays."""
        with self._database.write() as connection:
            if not connection.execute("SELECT 1 FROM documents WHERE digest = ?", (str(target),)).fetchone():
                raise no_document(target)
            row = connection.execute("SELECT target FROM names WHERE name = ?", (name,)).fetchone()
            if row is None:
                connection.execute("INSERT INTO names VALUES (?, ?, ?)", (name, str(target), now_micros()))
                return None
            if row[0] != str(target):
                values = (str(target), now_micros(), name)
                connection.execute("UPDATE names SET target = ?, updated = ? WHERE name = ?", values)
            return Digest.parse(row[0])

    def remove_name(self, name: str) -> bool:
        """Remove a name; returns whether there was one."""
        with self._database.write() as connection:
            return connection.execute("DELETE FROM names WHERE name = ?", (name,)).rowcount > 0


def _record(name: str, target: str, updated: int) -> NameRecord:
    return NameRecord(name, Digest.parse(target), from_micros(updated))
