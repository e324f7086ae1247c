"""What takes the disk: ``lamella df``. Every size is bytes on disk, and every byte is counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lamella._sys.probes import can_reflink
from lamella.catalog.holder import dead_leases
from lamella.catalog.records import ImageRecord, Reachable
from lamella.errors import LamellaError
from lamella.images.graph import Graph
from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from lamella.mounts.model import Form
from lamella.spec.digest import Digest
from lamella.upkeep.footprint import Footprint
from lamella.upkeep.gc import Holdings, collect

KINDS = ("blob", "tar", "index", "rootfs", "tree", "snapshot", "ingest", "catalog")
"""What is told apart: blobs, uncompressed layers, their indexes, mountable metadata of images, extracted directories,
snapshots, what is unfinished, and the catalog with ``index.json``."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One row: how many things of a kind there are, and bytes that they take on disk.

    ``reclaimable`` is what ``gc`` would remove, as nothing needs it. ``prunable`` is what ``prune`` may drop of the
    rest, as it can be had again: for blobs and tars that is an estimate, since they are only dropped once it was tried.
    """

    kind: str
    count: int
    size: int
    reclaimable: int
    prunable: int


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What one image takes on disk, in bytes: all of it, what no other image has, and what others have too."""

    name: str
    id: str
    size: int
    unique: int
    shared: int


def usage(holdings: Holdings, mounted: Callable[[], set[Digest]]) -> list[Usage]:
    """The disk use of a store by kind. A tar that is one file with its blob is counted as blob."""
    found = _Found(holdings)
    garbage = {(item.kind, item.name) for item in collect(holdings, dry_run=True).items}
    live, _ = dead_leases(holdings.catalog, holdings.ingest)
    used = holdings.catalog.used(live, mounted())
    sums: dict[str, list[int]] = {kind: [0, 0, 0, 0] for kind in KINDS}
    for thing in found.things():
        row = sums[thing.kind]
        row[0] += thing.count
        row[1] += thing.size
        if (thing.garbage, thing.name) in garbage:
            row[2] += thing.size
        elif found.is_prunable(thing, used):
            row[3] += thing.size
    return [Usage(kind, *row) for kind, row in sums.items()]


@dataclass(frozen=True, slots=True)
class _Thing:
    """Something on disk: its kind here and in a collection of garbage, what it is called there, and its bytes."""

    kind: str
    garbage: str
    name: str
    size: int
    count: int = 1
    digest: Digest | None = None


class _Found:
    """Walks a store. The order decides where a file with several names is counted."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._disk = Footprint(reflinks=shares_blocks(holdings.root))
        self._plain: set[Digest] = set()

    def things(self) -> Iterator[_Thing]:
        here = self._holdings
        for blob in here.content.walk():
            path = here.content.stored(blob.digest)
            if path is not None:
                yield _Thing("blob", "blob", str(blob.digest), self._disk.file(path), digest=blob.digest)
        for diff_id in here.layers.walk():
            path, name = here.layers.path(diff_id), str(diff_id)
            tar = path / TAR_NAME
            yield _Thing("tar", "layer", name, self._disk.file(tar), int(tar.is_file()), diff_id)
            yield _Thing("index", "layer", name, self._disk.file(path / INDEX_NAME))
        for chain_id in here.rootfs.walk():
            size = sum(self._disk.file(path) for path in here.rootfs.files(chain_id))
            yield _Thing("rootfs", "rootfs", str(chain_id), size, digest=chain_id)
        for form, chain_id in here.trees.walk():
            size = self._disk.tree(here.trees.path(form, chain_id))
            yield _Thing("tree", "tree", f"{form.value} {chain_id}", size, digest=chain_id)
        for key in here.snapshots.directories():
            yield _Thing("snapshot", "snapshot", key, self._disk.tree(here.snapshots.path(key)))
        yield from self._unfinished()
        files = [*here.root.glob("catalog.db*"), here.root / "index.json", here.root / "oci-layout"]
        yield _Thing("catalog", "", "", sum(map(self._disk.file, files)))

    def _unfinished(self) -> Iterator[_Thing]:
        here = self._holdings
        for path in here.ingest.glob("lease-*"):
            yield _Thing("ingest", "ingest", path.name, self._disk.tree(path))
        for info in here.content.ingests():
            yield _Thing("ingest", "ingest", info.ref, self._disk.file(here.content.ingest_file(info.ref)))

    def is_prunable(self, thing: _Thing, used: Reachable) -> bool:
        """Whether something that is needed can be had again, and nobody is using it."""
        if thing.digest is None:
            return False
        if thing.kind == "blob":
            catalog = self._holdings.catalog
            return catalog.blob_recipe(thing.digest) is not None or bool(catalog.blob_sources(thing.digest))
        if thing.kind == "tar":
            return thing.digest not in used.diff_ids and thing.digest in self._unpackable()
        return thing.digest not in used.chain_ids

    def _unpackable(self) -> set[Digest]:
        """The layers that a blob with a file unpacks to."""
        if not self._plain:
            self._plain = {
                layer.diff_id
                for image in self._holdings.catalog.images()
                for layer in image.layers
                if layer.blob != layer.diff_id and self._holdings.content.stored(layer.blob) is not None
            }
        return self._plain


def shares_blocks(root: Path) -> bool:
    """Whether files of a store may share blocks; where nothing can be written, they are taken to."""
    try:
        return can_reflink(root)
    except LamellaError:
        return True


def image_usage(graph: Graph, holdings: Holdings) -> list[ImageUsage]:
    """What each image takes, the largest first."""
    parts = {record.manifest: set(_parts(holdings, record)) for record in graph.catalog.images()}
    owners = Counter(part for found in parts.values() for part in found)
    names = graph.names_by_target()
    rows = []
    for image in graph.images():
        found = parts[image.digest]
        size, unique = _size(found), _size(part for part in found if owners[part] == 1)
        name = ", ".join(names.get(image.digest, [])) or "<none>"
        rows.append(ImageUsage(name, image.id.hex, size, unique, size - unique))
    return sorted(rows, key=lambda row: -row.size)


def _parts(holdings: Holdings, image: ImageRecord) -> Iterator[Path]:
    """The files and directories that an image consists of, there or not."""
    content = holdings.content
    for digest in (image.manifest, image.id, *(layer.blob for layer in image.layers)):
        path = content.stored(digest)
        if path is not None:
            yield path
    for layer in image.layers:
        directory = holdings.layers.path(layer.diff_id)
        yield from (directory / TAR_NAME, directory / INDEX_NAME)
        yield from (holdings.trees.path(form, layer.chain_id) for form in Form)
    if image.layers:
        yield from holdings.rootfs.files(image.layers[-1].chain_id)


def _size(parts: Iterable[Path]) -> int:
    """Bytes on disk; a tar that is one file with its blob is counted once."""
    disk = Footprint()
    return sum(disk.tree(part) if part.is_dir() else disk.file(part) for part in parts)
