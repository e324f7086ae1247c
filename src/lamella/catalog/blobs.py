"""The tables of how layer blobs can be had again, and of those that were dropped because they can."""

from __future__ import annotations

from lamella.catalog.database import Database
from lamella.catalog.records import DroppedBlob
from lamella.catalog.rows import from_micros, now_micros, read_digest, to_micros
from lamella.spec.digest import Digest

_DROPPED = "SELECT blob, size, diff_id, recipe, dropped FROM dropped_blobs"


class BlobTables:
    """Implements ``protocol.Blobs``."""

    _database: Database

    def blob_recipe(self, blob: Digest) -> str | None:
        """What the blob is made by from its layer's tar, if that is known."""
        with self._database.read() as connection:
            row = connection.execute("SELECT recipe FROM blob_recipes WHERE blob = ?", (str(blob),)).fetchone()
            return None if row is None else str(row[0])

    def set_blob_recipe(self, blob: Digest, recipe: str) -> None:
        """Remember what a blob is made by. It can be found out again, so this does not wait for the disk."""
        with self._database.write(durable=False) as connection:
            connection.execute("INSERT OR REPLACE INTO blob_recipes VALUES (?, ?)", (str(blob), recipe))

    def blob_sources(self, blob: Digest) -> list[str]:
        """The repositories that are known to have a blob, the one seen last first."""
        query = "SELECT repository FROM blob_sources WHERE blob = ? ORDER BY seen DESC, repository"
        with self._database.read() as connection:
            return [str(row[0]) for row in connection.execute(query, (str(blob),))]

    def add_blob_source(self, blob: Digest, repository: str) -> None:
        """Remember that a repository has a blob; this does not wait for the disk."""
        with self._database.write(durable=False) as connection:
            row = (str(blob), repository, now_micros())
            connection.execute("INSERT OR REPLACE INTO blob_sources VALUES (?, ?, ?)", row)

    def forget_blob(self, blob: Digest) -> None:
        """Forget the recipe and the sources of a blob that is gone."""
        with self._database.write(durable=False) as connection:
            connection.execute("DELETE FROM blob_recipes WHERE blob = ?", (str(blob),))
            connection.execute("DELETE FROM blob_sources WHERE blob = ?", (str(blob),))

    def dropped_blobs(self) -> list[DroppedBlob]:
        """Every blob that was dropped, ordered by digest."""
        with self._database.read() as connection:
            return [_dropped(*row) for row in connection.execute(f"{_DROPPED} ORDER BY blob")]

    def dropped_blob(self, blob: Digest) -> DroppedBlob | None:
        """What is known of a blob that was dropped, or None."""
        with self._database.read() as connection:
            row = connection.execute(f"{_DROPPED} WHERE blob = ?", (str(blob),)).fetchone()
            return None if row is None else _dropped(*row)

    def add_dropped_blob(self, record: DroppedBlob) -> None:
        """Record that a blob is about to lose its file; replaces an earlier record of it."""
        row = (str(record.blob), record.size, str(record.diff_id), record.recipe, to_micros(record.dropped))
        with self._database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO dropped_blobs VALUES (?, ?, ?, ?, ?)", row)

    def remove_dropped_blob(self, blob: Digest) -> bool:
        """Record that a blob has its file again, or is gone for good; returns whether it was listed."""
        with self._database.write() as connection:
            return connection.execute("DELETE FROM dropped_blobs WHERE blob = ?", (str(blob),)).rowcount > 0


def _dropped(blob: str, size: int, diff_id: str, recipe: str, dropped: int) -> DroppedBlob:
    return DroppedBlob(read_digest(blob), size, read_digest(diff_id), recipe, from_micros(dropped))
