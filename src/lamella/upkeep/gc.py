"""Telling garbage from what is needed, and removing it, beside processes that import and mount.

Whatever a name, a snapshot or a live lease reaches stays; everything else goes. Records go first, in one transaction;
then ``index.json`` is written, which names them no longer; then, in a second transaction, files are moved aside, which
are deleted after it. So whatever is recorded has its files at every moment, and a kill in between leaves garbage only.
Both transactions decide anew, and every writer's lease has to pass them too: a writer holds what it works on before it
looks for it, so it either finds it and keeps it, or sees it gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.catalog.holder import Lease, dead_leases, drop_dead
from lamella.catalog.protocol import Catalog
from lamella.catalog.records import Reachable
from lamella.content.local import LocalContent
from lamella.layers.ingest import TAR_NAME
from lamella.layers.rootfs import RootfsStore
from lamella.layers.store import LayerStore
from lamella.layers.trees import TreeStore
from lamella.mounts.mount import clear_probes
from lamella.snapshots.snapshotter import Snapshotter
from lamella.spec.digest import Digest
from lamella.upkeep.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Collected:
    """One thing that was, or would be, removed: its kind, what it is, and the bytes that it took on disk."""

    kind: str
    name: str
    size: int


@dataclass(slots=True)
class Report:
    """What a collection removed, or would remove."""

    items: list[Collected] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes that are, or would be, free again."""
        return sum(item.size for item in self.items)


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything of a store that can be garbage. ``publish`` brings ``index.json`` up to the catalog."""

    root: Path
    catalog: Catalog
    content: LocalContent
    layers: LayerStore
    trees: TreeStore
    rootfs: RootfsStore
    snapshots: Snapshotter
    publish: Callable[[], None]

    @property
    def ingest(self) -> Path:
        """Where what is being written lies."""
        return self.root / "ingest"


def collect(holdings: Holdings, *, dry_run: bool = False, only: Collection[Digest] | None = None) -> Report:
    """Remove what nothing reaches; with ``only``, nothing but garbage among these digests.

    With ``dry_run`` nothing changes and the report is the same. A kill in between leaves garbage that the next
    collection removes.
    """
    report = Report()
    with os_errors(str(holdings.root)):
        if only is None:
            _abandoned(holdings, report, dry_run=dry_run)  # first: it takes no space, and may make some
        if dry_run:
            _Sweep(holdings, report, None, only).run()
            return report
        with Lease(holdings.catalog, holdings.ingest, "gc") as lease:
            if _forget_documents(holdings, only):
                holdings.publish()
            with holdings.catalog.transaction(durable=False):
                _Sweep(holdings, report, lease.directory, only).run()
        holdings.trees.drop_locks()
        holdings.rootfs.clear()
    return report


def _reachable(holdings: Holdings) -> Reachable:
    live, _ = dead_leases(holdings.catalog, holdings.ingest)
    return holdings.catalog.reachable(live)


def _is_garbage(digest: Digest, keep: Collection[Digest], only: Collection[Digest] | None) -> bool:
    return digest not in keep and (only is None or digest in only)


def _forget_documents(holdings: Holdings, only: Collection[Digest] | None) -> bool:
    """Remove the records of garbage, durably. Returns whether there were any."""
    catalog = holdings.catalog
    with catalog.transaction():
        reachable = _reachable(holdings)
        keep = reachable.documents
        garbage = [record.digest for record in catalog.documents() if _is_garbage(record.digest, keep, only)]
        for digest in garbage:
            catalog.remove_document(digest)
        for record in catalog.dropped_blobs():
            if _is_garbage(record.blob, reachable.blobs, only):
                catalog.remove_dropped_blob(record.blob)
                catalog.remove_blob_diff(record.blob)
                catalog.forget_blob(record.blob)
                garbage.append(record.blob)
    return bool(garbage)


class _Sweep:
    """Reports the files of garbage, and moves them to ``trash`` if there is one. Part of the caller's transaction."""

    def __init__(self, holdings: Holdings, report: Report, trash: Path | None, only: Collection[Digest] | None) -> None:
        self._holdings, self._report, self._trash, self._only = holdings, report, trash, only
        self._count = 0

    def run(self) -> None:
        reachable = _reachable(self._holdings)
        self._blobs(reachable)
        self._layers(reachable)
        self._trees(reachable)
        self._rootfs(reachable)
        if self._only is None:
            self._snapshots()

    def _blobs(self, reachable: Reachable) -> None:
        for blob in list(self._holdings.content.walk()):
            if _is_garbage(blob.digest, reachable.blobs, self._only):
                path = self._holdings.content.stored(blob.digest)
                if path is not None and self._move("blob", str(blob.digest), path, path.stat().st_blocks * 512):
                    self._holdings.catalog.remove_blob_diff(blob.digest)
                    self._holdings.catalog.forget_blob(blob.digest)

    def _layers(self, reachable: Reachable) -> None:
        layers = self._holdings.layers
        for diff_id in list(layers.walk()):
            if _is_garbage(diff_id, reachable.diff_ids, self._only):
                path = layers.path(diff_id)
                self._move("layer", str(diff_id), path, layer_size(path))
                layers.forget(diff_id)

    def _trees(self, reachable: Reachable) -> None:
        trees = self._holdings.trees
        for form, chain_id in list(trees.walk()):
            if _is_garbage(chain_id, reachable.chain_ids, self._only):
                path = trees.path(form, chain_id)
                self._move("tree", f"{form.value} {chain_id}", path, Footprint().tree(path))

    def _rootfs(self, reachable: Reachable) -> None:
        rootfs = self._holdings.rootfs
        for chain_id in list(rootfs.walk()):
            # What somebody still looks into stays until the next time.
            if _is_garbage(chain_id, reachable.chain_ids, self._only) and (
                self._trash is None or rootfs.release(chain_id)
            ):
                self._move("rootfs", str(chain_id), rootfs.path(chain_id), rootfs.size(chain_id))

    def _snapshots(self) -> None:
        known = {record.key for record in self._holdings.catalog.snapshots()}
        for key in self._holdings.snapshots.directories():
            if key not in known:
                path = self._holdings.snapshots.path(key)
                self._move("snapshot", key, path, Footprint().tree(path))

    def _move(self, kind: str, name: str, path: Path, size: int) -> bool:
        """Report ``path``, and move it into the trash unless this is a dry run."""
        self._report.items.append(Collected(kind, name, size))
        if self._trash is None:
            return False
        self._count += 1
        with suppress(FileNotFoundError):
            os.rename(path, self._trash / str(self._count))
        return True


def layer_size(path: Path) -> int:
    """Bytes that removing a layer gives back: a tar that is one file with its blob is counted at the blob."""
    with suppress(FileNotFoundError):
        if (path / TAR_NAME).stat().st_nlink > 1:
            return Footprint().tree(path) - (path / TAR_NAME).stat().st_blocks * 512
    return Footprint().tree(path)


def _abandoned(holdings: Holdings, report: Report, *, dry_run: bool) -> None:
    """What killed processes left in ``ingest``: directories of leases, and unfinished blobs that nobody writes."""
    _, dead = dead_leases(holdings.catalog, holdings.ingest)
    for id in dead:
        directory = holdings.ingest / f"lease-{id}"
        if directory.exists():
            report.items.append(Collected("ingest", f"lease-{id}", Footprint().tree(directory)))
    if not dry_run:
        drop_dead(holdings.catalog, holdings.ingest, dead)
        clear_probes(holdings.root / "snapshots")
    for info in list(holdings.content.ingests()):
        if not info.busy:
            report.items.append(Collected("ingest", info.ref, info.size))
            if not dry_run:
                holdings.content.drop_ingest(info.ref)
