"""Leases as things that live: a row in the catalog, and a directory that is locked while its process lives."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lamella._sys.files import os_errors, remove_tree
from lamella._sys.locks import DirectoryLock
from lamella.catalog.protocol import Leases
from lamella.errors import LamellaError
from lamella.spec.digest import Digest

_PREFIX = "lease-"


class Lease:
    """Holds what an operation works on, from its first byte, and the directory that it works in.

    ``directory`` is ``ingest/lease-<id>``; what is in it when the lease ends is dropped. A process that is killed
    leaves its row and its directory, but not the lock on the directory: whoever collects garbage next clears them.
    """

    def __init__(self, catalog: Leases, ingest: Path, purpose: str) -> None:
        self._catalog = catalog
        self.id, self._lock = _claim(ingest)
        self.directory = self._lock.path
        try:
            catalog.add_lease(self.id, purpose)
        except BaseException:
            self._drop_directory()
            raise

    def hold(self, *resources: Digest) -> None:
        """Keep these from being collected, from now until the lease ends. To be called before looking for them."""
        self._catalog.extend_lease(self.id, [str(resource) for resource in resources])

    def release_holds(self) -> None:
        """Hold nothing any longer; the directory and the lock stay. For an operation that failed and cleans up."""
        self._catalog.remove_lease(self.id)

    def close(self) -> None:
        """End the lease; what is not reachable otherwise is garbage from here on.

        The directory goes first: on a full disk that makes the space to forget the row. If that fails all the same, the
        operation has not failed with it: the row is one of a dead lease, which the next collection drops.
        """
        self._drop_directory()
        with suppress(LamellaError):
            self._catalog.remove_lease(self.id)

    def _drop_directory(self) -> None:
        try:
            remove_tree(self.directory)
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _claim(ingest: Path) -> tuple[str, DirectoryLock]:
    """A new directory, locked. One that a collector took for a dead lease's before it was locked is made anew."""
    while True:
        id = secrets.token_hex(8)
        directory = ingest / f"{_PREFIX}{id}"
        with os_errors(str(directory)):
            directory.mkdir(mode=0o700, parents=True)
        lock = DirectoryLock(directory)
        if lock.acquire():
            return id, lock


def dead_leases(catalog: Leases, ingest: Path) -> tuple[set[str], list[str]]:
    """The ids of leases whose process lives, and of those (with a row, a directory or both) whose process is gone."""
    known = {lease.id for lease in catalog.leases()}
    with_directory = {path.name.removeprefix(_PREFIX) for path in ingest.glob(f"{_PREFIX}*")}
    live = {id for id in with_directory if _is_live(ingest / f"{_PREFIX}{id}")}
    return live, sorted((known | with_directory) - live)


def drop_dead(catalog: Leases, ingest: Path, ids: Iterable[str]) -> None:
    """Clear away what dead leases left; one that turns out to live stays."""
    for id in ids:
        directory = ingest / f"{_PREFIX}{id}"
        lock = DirectoryLock(directory)
        if lock.acquire(blocking=False):
            try:
                remove_tree(directory)
            finally:
                lock.release()
        if not directory.exists():
            catalog.remove_lease(id)


def _is_live(directory: Path) -> bool:
    """Whether a process holds the lock of a lease's directory."""
    lock = DirectoryLock(directory)
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return directory.exists()
