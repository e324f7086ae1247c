"""The schema, as the ordered list of the steps that led to it. A step that was released is never edited.

Times are microseconds since 1970 (UTC), digests are ``algorithm:hex``, platforms their JSON. ``children.more`` is the
JSON of a descriptor that has other fields than the three, else empty.
"""

from __future__ import annotations

Migration = tuple[str, ...]
"""The statements of one step; they run in one transaction."""

_FIRST: Migration = (
    """CREATE TABLE documents (
        digest TEXT NOT NULL PRIMARY KEY,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL CHECK (size >= 0),
        kind TEXT NOT NULL CHECK (kind IN ('image', 'index', 'artifact'))
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE children (
        document TEXT NOT NULL REFERENCES documents ON DELETE CASCADE,
        position INTEGER NOT NULL,
        media_type TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL CHECK (size >= 0),
        more TEXT NOT NULL,
        PRIMARY KEY (document, position)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX children_by_digest ON children (digest)",
    """CREATE TABLE images (
        manifest TEXT NOT NULL PRIMARY KEY REFERENCES documents ON DELETE CASCADE,
        id TEXT NOT NULL,
        config_size INTEGER NOT NULL CHECK (config_size >= 0),
        parent TEXT,
        platform TEXT NOT NULL,
        created INTEGER,
        added INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX images_by_id ON images (id)",
    "CREATE INDEX images_by_parent ON images (parent)",
    """CREATE TABLE layers (
        manifest TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        position INTEGER NOT NULL,
        blob TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL CHECK (size >= 0),
        diff_id TEXT NOT NULL,
        chain_id TEXT NOT NULL,
        PRIMARY KEY (manifest, position)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE blob_diffs (
        blob TEXT NOT NULL PRIMARY KEY,
        diff_id TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE names (
        name TEXT NOT NULL PRIMARY KEY,
        target TEXT NOT NULL REFERENCES documents,
        updated INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX names_by_target ON names (target)",
    """CREATE TABLE snapshots (
        key TEXT NOT NULL PRIMARY KEY,
        image TEXT REFERENCES documents,
        source TEXT NOT NULL,
        writable INTEGER NOT NULL CHECK (writable IN (0, 1)),
        driver TEXT NOT NULL,
        created INTEGER NOT NULL,
        mounted TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX snapshots_by_image ON snapshots (image)",
    """CREATE TABLE leases (
        id TEXT NOT NULL PRIMARY KEY,
        created INTEGER NOT NULL,
        purpose TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE lease_resources (
        lease TEXT NOT NULL REFERENCES leases ON DELETE CASCADE,
        resource TEXT NOT NULL,
        PRIMARY KEY (lease, resource)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE generation (value INTEGER NOT NULL) STRICT",
    "INSERT INTO generation VALUES (0)",
    *(
        f"CREATE TRIGGER {table}_{verb.lower()} AFTER {verb} ON {table} "
        "BEGIN UPDATE generation SET value = value + 1; END"
        for table in ("names", "documents")
        for verb in ("INSERT", "UPDATE", "DELETE")
    ),
)

_DROPPED: Migration = (
    """CREATE TABLE blob_recipes (
        blob TEXT NOT NULL PRIMARY KEY,
        recipe TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE blob_sources (
        blob TEXT NOT NULL,
        repository TEXT NOT NULL,
        seen INTEGER NOT NULL,
        PRIMARY KEY (blob, repository)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE dropped_blobs (
        blob TEXT NOT NULL PRIMARY KEY,
        size INTEGER NOT NULL CHECK (size >= 0),
        diff_id TEXT NOT NULL,
        recipe TEXT NOT NULL,
        dropped INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    *(
        f"CREATE TRIGGER dropped_blobs_{verb.lower()} AFTER {verb} ON dropped_blobs "
        "BEGIN UPDATE generation SET value = value + 1; END"
        for verb in ("INSERT", "UPDATE", "DELETE")
    ),
)
"""How blobs can be had again: by a recipe, from a repository; and those that were dropped because they can."""

MIGRATIONS: tuple[Migration, ...] = (_FIRST, _DROPPED)
"""Step n, counted from 1, makes a catalog of version n from one of version n - 1."""
