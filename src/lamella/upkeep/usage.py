"""What takes the disk: ``lamella df``."""

from __future__ import annotations

from dataclasses import dataclass

from lamella.images.graph import Graph
from lamella.layers.trees import disk_usage
from lamella.upkeep.gc import Holdings, collect, layer_size


@dataclass(frozen=True, slots=True)
class Usage:
    """One row: how many things of a kind there are, the bytes that they take on disk, and how many are garbage."""

    kind: str
    count: int
    size: int
    reclaimable: int


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What one image takes, in bytes of blobs and tars: all of it, and what no other image has."""

    name: str
    id: str
    size: int
    unique: int


def usage(holdings: Holdings) -> list[Usage]:
    """The disk use of a store by kind. A tar that is one file with its blob is counted as blob."""
    garbage: dict[str, int] = {}
    for item in collect(holdings, dry_run=True).items:
        garbage[item.kind] = garbage.get(item.kind, 0) + item.size
    blobs = list(holdings.content.walk())
    layers = list(holdings.layers.walk())
    trees = list(holdings.trees.walk())
    rootfs = list(holdings.rootfs.walk())
    snapshots = list(holdings.snapshots.directories())
    rows = [
        ("blob", len(blobs), sum(blob.size for blob in blobs)),
        ("layer", len(layers), sum(layer_size(holdings.layers.path(diff_id)) for diff_id in layers)),
        ("tree", len(trees), sum(disk_usage(holdings.trees.path(form, chain)) for form, chain in trees)),
        ("rootfs", len(rootfs), sum(map(holdings.rootfs.size, rootfs))),
        ("snapshot", len(snapshots), sum(disk_usage(holdings.snapshots.path(key)) for key in snapshots)),
        ("ingest", len(_unfinished(holdings)), disk_usage(holdings.ingest)),
    ]
    return [Usage(kind, count, size, min(garbage.get(kind, 0), size)) for kind, count, size in rows]


def _unfinished(holdings: Holdings) -> list[object]:
    """What is in ``ingest`` beside the lock files that stay there: directories of leases, blobs on their way in."""
    return [*holdings.ingest.glob("lease-*"), *holdings.content.ingests()]


def image_usage(graph: Graph) -> list[ImageUsage]:
    """What each image takes, the largest first."""
    images = graph.images()
    owners: dict[str, int] = {}
    for image in images:
        for layer in set(image.record.layers):
            owners[str(layer.diff_id)] = owners.get(str(layer.diff_id), 0) + 1
    names = graph.names_by_target()
    rows = []
    for image in images:
        sizes = {str(layer.diff_id): layer.size + layer.tar_size for layer in image.layers}
        unique = sum(size for diff_id, size in sizes.items() if owners[diff_id] == 1)
        name = ", ".join(names.get(image.digest, [])) or "<none>"
        rows.append(ImageUsage(name, image.id.hex, sum(sizes.values()), unique))
    return sorted(rows, key=lambda row: -row.size)
