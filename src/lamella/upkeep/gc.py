"""Telling garbage from what is needed, and removing it, beside processes that import and mount.

Whatever a name, a snapshot or a live lease reaches stays; everything else goes. The decision and the removal of the
records are one transaction of the catalog, which every writer's lease has to pass too: a writer holds what it works on
before it looks for it, so it either finds it and keeps it, or sees it gone. Files are moved aside inside that
transaction and deleted after it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lamella._sys.files import os_errors, remove_tree
from lamella.catalog.holder import dead_leases, drop_dead
from lamella.catalog.protocol import Catalog
from lamella.catalog.records import Reachable
from lamella.content.local import LocalContent
from lamella.layers.ingest import TAR_NAME
from lamella.layers.rootfs import RootfsStore
from lamella.layers.store import LayerStore
from lamella.layers.trees import TreeStore, disk_usage
from lamella.snapshots.snapshotter import Snapshotter
from lamella.spec.digest import Digest


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
    """Everything of a store that can be garbage."""

    root: Path
    catalog: Catalog
    content: LocalContent
    layers: LayerStore
    trees: TreeStore
    rootfs: RootfsStore
    snapshots: Snapshotter

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
    trash = holdings.ingest / f"trash-{os.urandom(8).hex()}"
    with os_errors(str(holdings.root)):
        if not dry_run:
            trash.mkdir(mode=0o700, parents=True)
        with holdings.catalog.transaction():
            live, dead = dead_leases(holdings.catalog, holdings.ingest)
            reachable = holdings.catalog.reachable(live)
            _Sweep(holdings, reachable, report, None if dry_run else trash, only).run()
        if only is None:
            _leftovers(holdings, dead, report, dry_run=dry_run)
        if not dry_run:
            drop_dead(holdings.catalog, holdings.ingest, dead)
            remove_tree(trash)
            holdings.rootfs.clear()
    return report


class _Sweep:
    def __init__(
        self,
        holdings: Holdings,
        reachable: Reachable,
        report: Report,
        trash: Path | None,
        only: Collection[Digest] | None,
    ) -> None:
        self._holdings, self._reachable, self._report, self._trash, self._only = (
            holdings,
            reachable,
            report,
            trash,
            only,
        )
        self._count = 0

    def run(self) -> None:
        self._documents()
        self._blobs()
        self._layers()
        self._trees()
        self._rootfs()
        if self._only is None:
            self._snapshots()

    def _wanted(self, digest: Digest, keep: Collection[Digest]) -> bool:
        return digest not in keep and (self._only is None or digest in self._only)

    def _documents(self) -> None:
        catalog = self._holdings.catalog
        for document in catalog.documents():
            if self._wanted(document.digest, self._reachable.documents) and self._trash is not None:
                catalog.remove_document(document.digest)

    def _blobs(self) -> None:
        for blob in list(self._holdings.content.walk()):
            if self._wanted(blob.digest, self._reachable.blobs):
                path = self._holdings.content.path(blob.digest)
                if path is not None and self._move("blob", str(blob.digest), path, blob.size):
                    self._holdings.catalog.remove_blob_diff(blob.digest)

    def _layers(self) -> None:
        layers = self._holdings.layers
        for diff_id in list(layers.walk()):
            if self._wanted(diff_id, self._reachable.diff_ids):
                path = layers.path(diff_id)
                self._move("layer", str(diff_id), path, layer_size(path))
                layers.forget(diff_id)

    def _trees(self) -> None:
        trees = self._holdings.trees
        for form, chain_id in list(trees.walk()):
            if self._wanted(chain_id, self._reachable.chain_ids):
                path = trees.path(form, chain_id)
                if self._trash is not None:
                    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
                self._move("tree", f"{form.value} {chain_id}", path, disk_usage(path))

    def _rootfs(self) -> None:
        rootfs = self._holdings.rootfs
        for chain_id in list(rootfs.walk()):
            # What somebody still looks into stays until the next time.
            if self._wanted(chain_id, self._reachable.chain_ids) and (
                self._trash is None or rootfs.release(chain_id)
            ):
                self._move("rootfs", str(chain_id), rootfs.path(chain_id), rootfs.size(chain_id))

    def _snapshots(self) -> None:
        known = {record.key for record in self._holdings.catalog.snapshots()}
        for key in self._holdings.snapshots.directories():
            if key not in known:
                path = self._holdings.snapshots.path(key)
                self._move("snapshot", key, path, disk_usage(path))

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
            return disk_usage(path) - (path / TAR_NAME).stat().st_blocks * 512
    return disk_usage(path)


def _leftovers(holdings: Holdings, dead: Collection[str], report: Report, *, dry_run: bool) -> None:
    """What killed processes left in ``ingest``: lease directories, trash, and unfinished blobs that nobody writes."""
    for id in dead:
        directory = holdings.ingest / f"lease-{id}"
        if directory.exists():
            report.items.append(Collected("ingest", f"lease-{id}", disk_usage(directory)))
    for info in list(holdings.content.ingests()):
        if not info.busy:
            report.items.append(Collected("ingest", info.ref, info.size))
            if not dry_run:
                holdings.content.drop_ingest(info.ref)
    for path in sorted(holdings.ingest.glob("trash-*")):
        if _abandoned(path):
            report.items.append(Collected("ingest", path.name, disk_usage(path)))
            if not dry_run:
                remove_tree(path)


def _abandoned(path: Path) -> bool:
    """Whether a trash directory is a killed process's: a live one empties its own within the hour."""
    try:
        return time.time() - path.stat().st_mtime > 3600
    except FileNotFoundError:
        return False
