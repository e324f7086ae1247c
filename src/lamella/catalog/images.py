"""The tables of documents, images and layers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Any

from lamella.catalog.database import Database
from lamella.catalog.records import DocumentRecord, FoundKind, ImageRecord, LayerRecord
from lamella.catalog.rows import (
    descriptor,
    descriptor_columns,
    digest_or_none,
    from_micros,
    platform,
    platform_column,
    read_digest,
    to_micros,
)
from lamella.errors import FailedPrecondition, InvalidInput, NotFound
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import ALGORITHMS, Digest

_IMAGE = (
    "SELECT manifest, media_type, size, id, config_size, parent, platform, created, added"
    " FROM images JOIN documents ON digest = manifest"
)
_ORDER = " ORDER BY added, manifest"
_HEX = re.compile(r"[0-9a-f]{1,128}")
_FOUND: dict[str, FoundKind] = {"image": "manifest", "index": "index", "artifact": "artifact"}


def no_document(digest: Digest) -> NotFound:
    """The failure to find a document."""
    return NotFound("the store has no such document", code="document-not-found", subject=str(digest))


class ImageTables:
    """Implements ``protocol.Images``."""

    _database: Database

    def add_document(self, document: DocumentRecord) -> bool:
        """Record a document; one that is known stays as it is. Returns whether it is new."""
        with self._database.write() as connection:
            return _insert_document(connection, document)

    def add_image(self, image: ImageRecord, document: DocumentRecord) -> bool:
        """Record an image and its document; fills in a parent that was not known. Returns whether it is new."""
        if (image.manifest, image.media_type, image.size) != (document.digest, document.media_type, document.size):
            reason = "the image is not the one that the document describes"
            raise InvalidInput(reason, code="catalog-record", subject=str(image.manifest))
        with self._database.write() as connection:
            _insert_document(connection, document)
            is_new = _insert_image(connection, image)
            if image.parent is not None:
                _set_parent(connection, image.manifest, image.parent, only_unknown=True)
            return is_new

    def document(self, digest: Digest) -> DocumentRecord | None:
        """A document, or None."""
        return next(iter(self._documents("WHERE digest = ?", (str(digest),))), None)

    def documents(self) -> list[DocumentRecord]:
        """Every document, ordered by digest."""
        return self._documents("", ())

    def parents_of(self, digest: Digest) -> list[DocumentRecord]:
        """The documents that name ``digest`` among their children."""
        where = "WHERE digest IN (SELECT document FROM children AS c WHERE c.digest = ?)"
        return self._documents(where, (str(digest),))

    def remove_document(self, digest: Digest) -> bool:
        """Forget a document and its image, unless a name or a snapshot points at it. Returns whether it was known."""
        with self._database.write() as connection:
            text = str(digest)
            names = connection.execute("SELECT name FROM names WHERE target = ? ORDER BY name", (text,)).fetchall()
            if names:
                raise FailedPrecondition(f"it is named {_list(names)}", code="document-named", subject=text)
            keys = connection.execute("SELECT key FROM snapshots WHERE image = ? ORDER BY key", (text,)).fetchall()
            if keys:
                raise FailedPrecondition(f"snapshots are on it: {_list(keys)}", code="document-in-use", subject=text)
            return connection.execute("DELETE FROM documents WHERE digest = ?", (text,)).rowcount > 0

    def image(self, manifest: Digest) -> ImageRecord | None:
        """An image, or None."""
        return next(iter(self._images("WHERE manifest = ?", (str(manifest),))), None)

    def images(self) -> list[ImageRecord]:
        """Every image, the first that was added first."""
        return self._images("", ())

    def images_by_id(self, id: Digest) -> list[ImageRecord]:
        """The images whose config is ``id``."""
        return self._images("WHERE id = ?", (str(id),))

    def children(self, manifest: Digest) -> list[ImageRecord]:
        """The images whose parent is ``manifest``."""
        return self._images("WHERE parent = ?", (str(manifest),))

    def set_parent(self, manifest: Digest, parent: Digest | None) -> None:
        """Set an image's parent. Raises NotFound for the image, FailedPrecondition if it would be its own ancestor."""
        with self._database.write() as connection:
            if not _set_parent(connection, manifest, parent, only_unknown=False):
                raise NotFound("the store has no such image", code="image-not-found", subject=str(manifest))

    def find(self, prefix: str) -> list[tuple[Digest, FoundKind]]:
        """The image ids and document digests that start with ``prefix``, sorted."""
        stated, colon, digits = prefix.rpartition(":")
        if not _HEX.fullmatch(digits) or (colon and stated not in ALGORITHMS):
            return []
        found: list[tuple[Digest, FoundKind]] = []
        with self._database.read() as connection:
            for algorithm in [stated] if colon else ALGORITHMS:
                low = f"{algorithm}:{digits}"
                bounds = (low, low + "g")  # the digits end at f
                rows = connection.execute("SELECT DISTINCT id FROM images WHERE id >= ? AND id < ?", bounds)
                found += [(read_digest(row[0]), "id") for row in rows]
                rows = connection.execute("SELECT digest, kind FROM documents WHERE digest >= ? AND digest < ?", bounds)
                found += [(read_digest(text), _FOUND[kind]) for text, kind in rows]
        return sorted(found)

    def blob_diff(self, blob: Digest) -> Digest | None:
        """The diff_id of a layer blob, if it was ever worked out."""
        with self._database.read() as connection:
            row = connection.execute("SELECT diff_id FROM blob_diffs WHERE blob = ?", (str(blob),)).fetchone()
            return None if row is None else read_digest(row[0])

    def set_blob_diff(self, blob: Digest, diff_id: Digest) -> None:
        """Remember the diff_id of a layer blob. It can be worked out again, so this does not wait for the disk."""
        with self._database.write(durable=False) as connection:
            connection.execute("INSERT OR REPLACE INTO blob_diffs VALUES (?, ?)", (str(blob), str(diff_id)))

    def remove_blob_diff(self, blob: Digest) -> bool:
        """Forget the diff_id of a blob that is gone; returns whether it was known."""
        with self._database.write(durable=False) as connection:
            return connection.execute("DELETE FROM blob_diffs WHERE blob = ?", (str(blob),)).rowcount > 0

    def _documents(self, where: str, parameters: tuple[str, ...]) -> list[DocumentRecord]:
        with self._database.read() as connection:
            query = f"SELECT digest, media_type, size, kind FROM documents {where} ORDER BY digest"
            return [
                DocumentRecord(read_digest(text), media_type, size, kind, _children(connection, text))
                for text, media_type, size, kind in connection.execute(query, parameters)
            ]

    def _images(self, where: str, parameters: tuple[str, ...]) -> list[ImageRecord]:
        with self._database.read() as connection:
            return [_image(connection, row) for row in connection.execute(f"{_IMAGE} {where} {_ORDER}", parameters)]


def _list(rows: Iterable[tuple[str]]) -> str:
    return ", ".join(row[0] for row in rows)


def _children(connection: sqlite3.Connection, document: str) -> tuple[Descriptor, ...]:
    query = "SELECT media_type, digest, size, more FROM children WHERE document = ? ORDER BY position"
    return tuple(descriptor(*row) for row in connection.execute(query, (document,)))


def _image(connection: sqlite3.Connection, row: tuple[Any, ...]) -> ImageRecord:
    manifest, media_type, size, id, config_size, parent, platform_text, created, added = row
    query = "SELECT blob, media_type, size, diff_id, chain_id FROM layers WHERE manifest = ? ORDER BY position"
    return ImageRecord(
        read_digest(manifest),
        media_type,
        size,
        read_digest(id),
        config_size,
        digest_or_none(parent),
        platform(platform_text),
        None if created is None else from_micros(created),
        from_micros(added),
        tuple(
            LayerRecord(read_digest(blob), layer_type, layer_size, read_digest(diff_id), read_digest(chain_id))
            for blob, layer_type, layer_size, diff_id, chain_id in connection.execute(query, (manifest,))
        ),
    )


def _insert_document(connection: sqlite3.Connection, document: DocumentRecord) -> bool:
    text = str(document.digest)
    row = (text, document.media_type, document.size, document.kind)
    if connection.execute("INSERT OR IGNORE INTO documents VALUES (?, ?, ?, ?)", row).rowcount == 0:
        return False
    connection.executemany(
        "INSERT INTO children VALUES (?, ?, ?, ?, ?, ?)",
        [(text, n, *descriptor_columns(child)) for n, child in enumerate(document.children)],
    )
    return True


def _insert_image(connection: sqlite3.Connection, image: ImageRecord) -> bool:
    """Insert an image, its parent left unknown."""
    manifest = str(image.manifest)
    created = None if image.created is None else to_micros(image.created)
    row = (manifest, str(image.id), image.config_size, platform_column(image.platform), created, to_micros(image.added))
    if connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, NULL, ?, ?, ?)", row).rowcount == 0:
        return False
    connection.executemany(
        "INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (manifest, n, str(layer.blob), layer.media_type, layer.size, str(layer.diff_id), str(layer.chain_id))
            for n, layer in enumerate(image.layers)
        ],
    )
    return True


_ANCESTORS = """WITH RECURSIVE ancestors (manifest) AS (
        SELECT ? UNION SELECT parent FROM images JOIN ancestors USING (manifest) WHERE parent IS NOT NULL
    ) SELECT 1 FROM ancestors WHERE manifest = ?"""


def _set_parent(connection: sqlite3.Connection, manifest: Digest, parent: Digest | None, *, only_unknown: bool) -> bool:
    """Set the parent if the image is known (and its parent is not). Returns whether it was set."""
    query = "SELECT parent FROM images WHERE manifest = ?"
    row = connection.execute(query, (str(manifest),)).fetchone()
    if row is None or (only_unknown and row[0] is not None):
        return False
    if parent is not None and connection.execute(_ANCESTORS, (str(parent), str(manifest))).fetchone():
        raise FailedPrecondition(f"its parent {parent} descends from it", code="parent-cycle", subject=str(manifest))
    text = None if parent is None else str(parent)
    connection.execute("UPDATE images SET parent = ? WHERE manifest = ?", (text, str(manifest)))
    return True
