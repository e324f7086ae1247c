"""What must stay when garbage is collected: the closure of names, snapshots and live leases."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from lamella.catalog.records import Reachable
from lamella.errors import InvalidInput
from lamella.spec.digest import Digest

_ROOTS = "SELECT target FROM names UNION SELECT image FROM snapshots WHERE image IS NOT NULL"
_HELD = "SELECT resource FROM lease_resources WHERE lease = ?"
_EDGES = """SELECT document, digest FROM children
    UNION ALL SELECT manifest, parent FROM images WHERE parent IS NOT NULL"""


def reachable(
    connection: sqlite3.Connection, live_leases: Collection[str], *, roots: Collection[str] | None = None
) -> Reachable:
    """The closure over the children of documents and the parents of images, from ``roots``: all there are, if None.

    A digest that a lease holds may be a document, a blob, a diff_id or a chain_id: it is kept as each of them.
    """
    held = {row[0] for lease in live_leases for row in connection.execute(_HELD, (lease,)) if _is_digest(row[0])}
    if roots is None:
        roots = {row[0] for row in connection.execute(_ROOTS)}
    reached = _closure(connection, held | set(roots))
    documents = {row[0] for row in connection.execute("SELECT digest FROM documents")}
    diff_ids, chain_ids = set(held), set(held)
    for manifest, diff_id, chain_id in connection.execute("SELECT manifest, diff_id, chain_id FROM layers"):
        if manifest in reached:
            diff_ids.add(diff_id)
            chain_ids.add(chain_id)
    known = connection.execute("SELECT blob, diff_id FROM blob_diffs UNION SELECT blob, diff_id FROM dropped_blobs")
    diff_ids.update(diff_id for blob, diff_id in known if blob in reached)
    return Reachable(_digests(reached & documents), _digests(reached), _digests(diff_ids), _digests(chain_ids))


def _closure(connection: sqlite3.Connection, roots: set[str]) -> set[str]:
    edges: dict[str, list[str]] = {}
    for source, target in connection.execute(_EDGES):
        edges.setdefault(source, []).append(target)
    reached, waiting = set(roots), list(roots)
    while waiting:
        for target in edges.get(waiting.pop(), ()):
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    return reached


def _digests(texts: set[str]) -> frozenset[Digest]:
    return frozenset(Digest.parse(text) for text in texts)


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidInput:
        return False
    return True
