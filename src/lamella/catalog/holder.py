"""Leases as things that live: a row in the catalog, a directory to work in, and a lock that dies with its process."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from lamella._sys.files import os_errors, remove_tree
from lamella._sys.locks import FileLock
from lamella.catalog.protocol import Leases
from lamella.spec.digest import Digest

_PREFIX = "lease-"
_LOCK = "lock"


class Lease:
    """Holds what an operation works on, from its first byte, and the directory that it works in.

    ``directory`` is ``ingest/lease-<id>``; what is in it when the lease ends is dropped. A process that is killed
    leaves its row and its directory, but not its lock: whoever collects garbage next takes them for dead.
    """

    def __init__(self, catalog: Leases, ingest: Path, purpose: str) -> None:
        self.id = secrets.token_hex(8)
        self.directory = ingest / f"{_PREFIX}{self.id}"
        self._catalog = catalog
        with os_errors(str(self.directory)):
            self.directory.mkdir(mode=0o700, parents=True)
        self._lock = FileLock(self.directory / _LOCK)
        try:
            self._lock.acquire()
            catalog.add_lease(self.id, purpose)
        except BaseException:
            self._lock.release()
            remove_tree(self.directory)
            raise

    def hold(self, *resources: Digest) -> None:
        """Keep these from being collected, from now until the lease ends. To be called before looking for them."""
        self._catalog.extend_lease(self.id, [str(resource) for resource in resources])

    def release_holds(self) -> None:
        """Hold nothing any longer; the directory and the lock stay. For an operation that failed and cleans up."""
        self._catalog.remove_lease(self.id)

    def close(self) -> None:
        """End the lease; what is not reachable otherwise is garbage from here on."""
        self._catalog.remove_lease(self.id)
        self._lock.release()
        if self.directory.exists():
            remove_tree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dead_leases(catalog: Leases, ingest: Path) -> tuple[set[str], list[str]]:
    """The ids of leases whose process lives, and of those (with a row, a directory or both) whose process is gone."""
    known = {lease.id for lease in catalog.leases()}
    with_directory = {path.name.removeprefix(_PREFIX) for path in ingest.glob(f"{_PREFIX}*")}
    live = {id for id in known | with_directory if _is_live(ingest / f"{_PREFIX}{id}")}
    return live, sorted((known | with_directory) - live)


def drop_dead(catalog: Leases, ingest: Path, ids: Iterable[str]) -> None:
    """Clear away what dead leases left."""
    for id in ids:
        catalog.remove_lease(id)
        directory = ingest / f"{_PREFIX}{id}"
        if directory.exists() and not _is_live(directory):
            remove_tree(directory)


def _is_live(directory: Path) -> bool:
    """Whether a process holds the lease's lock. A directory that has no lock yet was made this moment: live."""
    if not directory.is_dir():
        return False
    lock = FileLock(directory / _LOCK)
    if not (directory / _LOCK).exists():
        return _is_young(directory)
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def _is_young(directory: Path) -> bool:
    try:
        return time.time() - directory.stat().st_mtime < 60
    except FileNotFoundError:
        return False
