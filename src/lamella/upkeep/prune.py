"""Giving back space for what can be had again.

Nothing goes that was not proven a moment before: a blob goes when its layer's tar, compressed anew, was compared with
it byte for byte (or when a registry that is recorded says that it has it), a tar when a blob was unpacked and hashed to
its diff_id. What was proven is held by a lease, and each is dropped in a transaction that looks once more whether what
it stands on is still the very file: of two processes, one of which wants to drop the blob and the other the tar, one
comes too late and leaves it alone.

A blob is first recorded as dropped, durably; then ``index.json`` is written, which lists no image that lacks a blob;
then the file goes. A kill in between leaves a blob that is listed as dropped and is there, which harms nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression
from lamella.archive.recipes import BlobRecipe, candidates, proves
from lamella.catalog.holder import Lease, dead_leases
from lamella.catalog.records import DroppedBlob, LayerRecord, Reachable
from lamella.content.verified import VerifiedReader
from lamella.errors import Integrity, InvalidInput, LamellaError, one_line
from lamella.images.graph import Graph
from lamella.layers.ingest import TAR_NAME
from lamella.spec.digest import Digest
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.upkeep.footprint import Footprint
from lamella.upkeep.gc import Collected, Holdings, Report
from lamella.upkeep.restore import Restorer

_HEAD = 16


@dataclass(frozen=True, slots=True)
class _Proof:
    """That a blob and a tar give each other; ``tar`` and ``blob`` tell whether these are still the files."""

    layer: LayerRecord
    recipe: str
    tar: tuple[int, ...]
    blob: tuple[int, ...]


class Pruner:
    """Prunes one store. ``mounted`` tells the manifests of the images that something mounted stands on."""

    def __init__(
        self,
        graph: Graph,
        holdings: Holdings,
        restorer: Restorer,
        mounted: Callable[[], set[Digest]],
        *,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._graph, self._holdings, self._restorer = graph, holdings, restorer
        self._mounted, self._progress = mounted, progress
        self._catalog, self._content, self._layers = holdings.catalog, holdings.content, holdings.layers
        self._moved = 0

    def run(self, *, compressed: bool, trees: bool, dry_run: bool) -> Report:
        """Drop what is asked for and can be had again; see ``Store.prune``."""
        report = Report()
        with os_errors(str(self._holdings.root)), Lease(self._catalog, self._holdings.ingest, "prune") as lease:
            if compressed:
                self._drop_blobs(lease, report, dry_run=dry_run)
            if trees:
                self._drop_trees(lease, report, dry_run=dry_run)
        if trees and not dry_run:
            self._holdings.trees.drop_locks()
            self._holdings.rootfs.clear()
        return report

    def restore(self) -> Report:
        """Make every layer blob that has no file a file again."""
        report = Report()
        with os_errors(str(self._holdings.root)), Lease(self._catalog, self._holdings.ingest, "restore") as lease:
            for layer in self._all_layers():
                lease.hold(layer.blob, layer.diff_id)
                if self._content.stored(layer.blob) is None and self._content.restore(layer.blob):
                    report.items.append(Collected("blob", str(layer.blob), layer.size))
            for record in self._catalog.dropped_blobs():
                if self._content.stored(record.blob) is not None:
                    self._catalog.remove_dropped_blob(record.blob)
        return report

    # -- blobs

    def _all_layers(self) -> Iterator[LayerRecord]:
        """The layers of all images, each blob once."""
        seen: set[Digest] = set()
        for image in self._catalog.images():
            for layer in image.layers:
                if layer.blob not in seen:
                    seen.add(layer.blob)
                    yield layer

    def _drop_blobs(self, lease: Lease, report: Report, *, dry_run: bool) -> None:
        proofs = []
        for layer in self._all_layers():
            lease.hold(layer.blob, layer.diff_id)
            proof = self._watched("comparing", layer, self._prove_blob)
            if proof is None:
                continue
            if proof.recipe != "none":
                proofs.append(proof)
            elif dry_run or self._make_one(proof, lease.directory):
                report.items.append(_item("blob", layer.blob, self._content.stored(layer.blob)))
        if dry_run:
            report.items += [_item("blob", p.layer.blob, self._content.stored(p.layer.blob)) for p in proofs]
            return
        with self._catalog.transaction():
            for proof in filter(self._holds, proofs):
                self._catalog.add_dropped_blob(_dropped(proof))
        self._holdings.publish()
        with self._catalog.transaction(durable=False):
            for proof in filter(self._holds, proofs):
                path = self._content.stored(proof.layer.blob)
                if path is not None and self._catalog.dropped_blob(proof.layer.blob) is not None:
                    report.items.append(_item("blob", proof.layer.blob, path))
                    self._move(path, lease.directory)

    def _prove_blob(self, layer: LayerRecord) -> _Proof | None:
        """How a blob that has a file of its own can be had again; None if it cannot, or if nothing would be gained."""
        path = self._content.stored(layer.blob)
        tar = self._layers.path(layer.diff_id) / TAR_NAME
        if path is None or not self._layers.has(layer.diff_id) or path.samefile(tar):
            return None
        seen = _identity(tar), _identity(path)
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if Compression.detect(head) is Compression.NONE:
            recipe = "none" if self._is_whole(tar, layer.blob) else None
        else:
            recipe = self._recipe(layer, head, tar)
        if recipe is None and self._is_elsewhere(layer):
            recipe = ""
        return None if recipe is None else _Proof(layer, recipe, *seen)

    def _recipe(self, layer: LayerRecord, head: bytes, tar: Path) -> str | None:
        """The recipe that was noted when the blob was made here, or one of those that are tried."""
        found = list(candidates(head))
        with suppress(InvalidInput):
            noted = BlobRecipe.parse(self._catalog.blob_recipe(layer.blob) or "")
            found = [noted] if noted.is_current else found
        try:
            for recipe in found:
                advance = self._advance(layer)
                if proves(recipe, self._content.open(layer.blob), FileIO(tar, "rb"), advance=advance):
                    return str(recipe)
        except Integrity as error:
            self._progress.note(one_line(str(error)))  # damaged, and so not what the tar gives
        return None

    def _is_elsewhere(self, layer: LayerRecord) -> bool:
        """Whether a repository that the blob came from says that it has it."""
        refetch = self._restorer.refetch
        for repository in self._catalog.blob_sources(layer.blob) if refetch is not None else ():
            assert refetch is not None
            with suppress(LamellaError):  # one that does not answer is no place to have it from
                if refetch.has(repository, layer.blob, layer.size):
                    return True
        return False

    def _is_whole(self, tar: Path, digest: Digest) -> bool:
        with suppress(LamellaError), VerifiedReader(FileIO(tar, "rb"), digest, tar.stat().st_size) as reader:
            reader.drain()
            return True
        return False

    def _make_one(self, proof: _Proof, staging: Path) -> bool:
        """Make an uncompressed blob one file with its tar, which was just found to be the same."""
        path = self._content.stored(proof.layer.blob)
        if path is None or not self._holds(proof):
            return False
        link = staging / f"link-{proof.layer.blob.hex}"
        os.link(self._layers.path(proof.layer.diff_id) / TAR_NAME, link)
        os.rename(link, path)
        return True

    def _holds(self, proof: _Proof) -> bool:
        """Whether the tar and the blob are still the files that were looked at."""
        path = self._content.stored(proof.layer.blob)
        tar = self._layers.path(proof.layer.diff_id) / TAR_NAME
        return path is not None and _identity(tar) == proof.tar and _identity(path) == proof.blob

    # -- trees, metadata, tars

    def _drop_trees(self, lease: Lease, report: Report, *, dry_run: bool) -> None:
        used = self._used(lease)
        proofs: list[_Proof] = []
        for layer in self._all_layers():
            if layer.diff_id in used.diff_ids or layer.diff_id in {proof.layer.diff_id for proof in proofs}:
                continue
            lease.hold(layer.blob, layer.diff_id)
            proof = self._watched("unpacking", layer, self._prove_tar)
            if proof is not None:
                proofs.append(proof)
        trash = None if dry_run else lease.directory
        with self._catalog.transaction():
            used = self._used(lease)
            for proof in filter(self._holds, proofs):
                if proof.layer.diff_id not in used.diff_ids and not self._is_needed(proof.layer.diff_id):
                    self._drop_tar(proof, report, trash)
            self._sweep(used, report, trash)

    def _prove_tar(self, layer: LayerRecord) -> _Proof | None:
        """That a blob which has a file unpacks to the layer; None if it does not, or if nothing would be gained."""
        from lamella.archive.compression import DecompressReader

        path = self._content.stored(layer.blob)
        tar = self._layers.path(layer.diff_id) / TAR_NAME
        if path is None or not tar.is_file() or tar.stat().st_nlink > 1:
            return None
        seen = _identity(tar), _identity(path)
        hasher, advance, consumed = layer.diff_id.hasher(), self._advance(layer), 0
        with (
            suppress(LamellaError),
            self._content.open(layer.blob) as blob,
            DecompressReader(blob, limits=self._graph.limits) as reader,
        ):
            while data := reader.read(256 << 10):
                hasher.update(data)
                advance(reader.consumed - consumed)
                consumed = reader.consumed
            if blob.verified and Digest.finish(hasher) == layer.diff_id:
                return _Proof(layer, "", *seen)
        return None

    def _is_needed(self, diff_id: Digest) -> bool:
        """Whether a blob without a file is made from the tar."""
        return any(
            record.diff_id == diff_id and self._content.stored(record.blob) is None
            for record in self._catalog.dropped_blobs()
        )

    def _drop_tar(self, proof: _Proof, report: Report, trash: Path | None) -> None:
        tar = self._layers.path(proof.layer.diff_id) / TAR_NAME
        report.items.append(_item("tar", proof.layer.diff_id, tar))
        if trash is not None:
            if self._catalog.dropped_blob(proof.layer.blob) is not None:
                self._catalog.remove_dropped_blob(proof.layer.blob)
            self._move(tar, trash)

    def _sweep(self, used: Reachable, report: Report, trash: Path | None) -> None:
        trees, rootfs = self._holdings.trees, self._holdings.rootfs
        for form, chain_id in list(trees.walk()):
            if chain_id not in used.chain_ids:
                path = trees.path(form, chain_id)
                report.items.append(Collected("tree", f"{form.value} {chain_id}", Footprint().tree(path)))
                if trash is not None:
                    self._move(path, trash)
        for chain_id in list(rootfs.walk()):
            if chain_id not in used.chain_ids and (trash is None or rootfs.release(chain_id)):
                report.items.append(Collected("rootfs", str(chain_id), rootfs.size(chain_id)))
                if trash is not None:
                    self._move(rootfs.path(chain_id), trash)

    def _used(self, lease: Lease) -> Reachable:
        """What mounted snapshots and operations under way use. Leases first: what one of them mounts outlives it."""
        live, _ = dead_leases(self._catalog, self._holdings.ingest)
        return self._catalog.used(live - {lease.id}, self._mounted())

    # -- both

    def _move(self, path: Path, trash: Path) -> None:
        self._moved += 1
        with suppress(FileNotFoundError):
            os.rename(path, trash / f"pruned-{self._moved}")

    def _watched(self, action: str, layer: LayerRecord, prove: Callable[[LayerRecord], _Proof | None]) -> _Proof | None:
        self._progress.start(layer.blob.short, action, total=layer.size)
        try:
            proof = prove(layer)
        except BaseException:
            self._progress.done(layer.blob.short, "failed")
            raise
        self._progress.done(layer.blob.short, "kept" if proof is None else "done")
        return proof

    def _advance(self, layer: LayerRecord) -> Callable[[int], object]:
        return lambda amount: self._progress.advance(layer.blob.short, amount)


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is another one, or another's content; nothing for a file that is not there."""
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return ()


def _dropped(proof: _Proof) -> DroppedBlob:
    layer = proof.layer
    return DroppedBlob(layer.blob, layer.size, layer.diff_id, proof.recipe, datetime.now(UTC))


def _item(kind: str, digest: Digest, path: Path | None) -> Collected:
    return Collected(kind, str(digest), 0 if path is None else path.stat().st_blocks * 512)
