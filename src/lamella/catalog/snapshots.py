"""The table of snapshots."""

from __future__ import annotations

from lamella.catalog.database import Database
from lamella.catalog.images import no_document
from lamella.catalog.records import SnapshotRecord
from lamella.catalog.rows import digest_or_none, from_micros, to_micros
from lamella.errors import AlreadyExists, Conflict, NotFound
from lamella.spec.digest import Digest


class SnapshotTable:
    """Implements ``protocol.Snapshots``."""

    _database: Database

    def snapshots(self) -> list[SnapshotRecord]:
        """Every snapshot, sorted by key."""
        return self._snapshots("", ())

    def snapshot(self, key: str) -> SnapshotRecord | None:
        """A snapshot, or None."""
        return next(iter(self._snapshots("WHERE key = ?", (key,))), None)

    def snapshots_of(self, manifest: Digest) -> list[SnapshotRecord]:
        """The snapshots on one image."""
        return self._snapshots("WHERE image = ?", (str(manifest),))

    def add_snapshot(self, record: SnapshotRecord) -> None:
        """Record a snapshot. Raises AlreadyExists for its key, NotFound for its image."""
        image = None if record.image is None else str(record.image)
        with self._database.write() as connection:
            if connection.execute("SELECT 1 FROM snapshots WHERE key = ?", (record.key,)).fetchone():
                raise AlreadyExists("there is such a snapshot already", code="snapshot-exists", subject=record.key)
            known = "SELECT 1 FROM documents WHERE digest = ?"
            if record.image is not None and not connection.execute(known, (image,)).fetchone():
                raise no_document(record.image)
            connection.execute(
                "INSERT INTO snapshots (key, image, source, writable, driver, created, mounted)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    record.key,
                    image,
                    record.source,
                    int(record.writable),
                    record.driver,
                    to_micros(record.created),
                    record.mounted,
                ),
            )

    def set_mounted(self, key: str, text: str, *, expect: str | None) -> None:
        """Replace ``mounted``, with ``expect`` only if it is that now. Raises Conflict, NotFound.

        No mount outlives a power cut, so this does not wait for the disk.
        """
        with self._database.write(durable=False) as connection:
            row = connection.execute("SELECT mounted FROM snapshots WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise NotFound("there is no such snapshot", code="snapshot-not-found", subject=key)
            if expect is not None and row[0] != expect:
                raise Conflict(
                    "somebody else has mounted or unmounted it meanwhile", code="snapshot-changed", subject=key
                )
            connection.execute("UPDATE snapshots SET mounted = ? WHERE key = ?", (text, key))

    def remove_snapshot(self, key: str) -> bool:
        """Forget a snapshot; returns whether there was one."""
        with self._database.write() as connection:
            return connection.execute("DELETE FROM snapshots WHERE key = ?", (key,)).rowcount > 0

    def _snapshots(self, where: str, parameters: tuple[str, ...]) -> list[SnapshotRecord]:
        query = f"SELECT key, image, source, writable, driver, created, mounted FROM snapshots {where} ORDER BY key"
        with self._database.read() as connection:
            return [
                SnapshotRecord(
                    key, digest_or_none(image), source, bool(writable), driver, from_micros(created), mounted
                )
                for key, image, source, writable, driver, created, mounted in connection.execute(query, parameters)
            ]
