"""SQLite's failures in Lamella's terms."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from lamella.errors import (
    AccessDenied,
    Conflict,
    FailedPrecondition,
    Integrity,
    LamellaError,
    ResourceExhausted,
    Unavailable,
)

_RESTORE = "restore catalog.db from a copy; images can be loaded again"


def map_sqlite_error(error: sqlite3.Error, path: Path) -> LamellaError:
    """The typed error for what SQLite said about the database at ``path``."""
    reason, subject = str(error), str(path)
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    match extended & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            hint = "another process works on this store for long; try again"
            return Conflict(reason, code="catalog-busy", subject=subject, hint=hint)
        case sqlite3.SQLITE_FULL:
            return ResourceExhausted(reason, code="disk-full", subject=subject, hint="free some space and try again")
        case sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_TOOBIG:
            return ResourceExhausted(reason, code="catalog-limit", subject=subject)
        case sqlite3.SQLITE_NOTADB:
            return Integrity(reason, code="catalog-not-database", subject=subject, hint=_RESTORE)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return AccessDenied(reason, code="catalog-access", subject=subject)
        case sqlite3.SQLITE_CANTOPEN:
            return _cannot_open(reason, path)
        case sqlite3.SQLITE_IOERR if extended == sqlite3.SQLITE_IOERR_SHMSIZE:
            return ResourceExhausted(reason, code="disk-full", subject=subject, hint="free some space and try again")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PROTOCOL | sqlite3.SQLITE_NOLFS:
            return Unavailable(reason, code="catalog-io", subject=subject)
        case sqlite3.SQLITE_CONSTRAINT:
            return FailedPrecondition(reason, code="catalog-constraint", subject=subject)
        case _:  # a malformed file, and a table or a column that is not there
            return Integrity(reason, code="catalog-damaged", subject=subject, hint=_RESTORE)


def _is_full(directory: Path) -> bool:
    """Whether the file system of a directory has no space, or no inode, for one file more."""
    try:
        space = os.statvfs(directory)
    except OSError:
        return False
    return space.f_bavail == 0 or (space.f_files > 0 and space.f_favail == 0)


def _cannot_open(reason: str, path: Path) -> LamellaError:
    """SQLite does not say why. The file is not opened to find out: closing it would drop SQLite's locks on it."""
    if _is_full(path.parent):
        hint = "free some space (or inodes) and try again"
        return ResourceExhausted(reason, code="disk-full", subject=str(path), hint=hint)
    if not path.exists() or (os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
        return Unavailable(reason, code="catalog-io", subject=str(path))
    return AccessDenied(reason, code="catalog-access", subject=str(path))
