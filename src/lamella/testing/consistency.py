"""Is a store whole? What its directory promises, checked against the bytes that are there.

For the tests of Lamella and of whoever interrupts, copies or restores a store. Everything is read and hashed, nothing
is repaired, and each function returns a line for each thing that is wrong: an empty list is the good answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lamella.catalog.holder import dead_leases
from lamella.errors import LamellaError
from lamella.images.image import Image
from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from lamella.layers.rootfs import check
from lamella.spec.digest import Digest
from lamella.store.snapshot import Snapshot
from lamella.store.store import Store

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEX = {"sha256": 64, "sha512": 128}
_KEPT_IN_INGEST = frozenset({"layout.lock"})


def layout_problems(root: Path) -> list[str]:
    """Whether the directory is a valid OCI image layout as it lies there (image-spec 1.1 ``image-layout.md``).

    This holds at every moment, so it may be asked of a store that nobody has opened since its last user was killed.
    """
    found: list[str] = []
    try:
        version = json.loads((root / "oci-layout").read_bytes())
        index = json.loads((root / "index.json").read_bytes())
    except (OSError, ValueError) as error:
        return [f"the layout cannot be read: {error}"]
    if version != {"imageLayoutVersion": "1.0.0"} or index.get("schemaVersion") != 2:
        found.append("oci-layout or index.json does not say its version")
    for descriptor in index["manifests"]:
        found += _descriptor_problems(root, descriptor, "index.json")
    return found


def _descriptor_problems(root: Path, descriptor: dict[str, Any], where: str) -> Iterator[str]:
    """A descriptor, and all that it leads to; an index may name images that are not there."""
    digest = descriptor["digest"]
    path = root / "blobs" / digest.replace(":", "/")
    subject = f"{where} > {digest[:19]}"
    try:
        size = path.stat().st_size
    except OSError as error:
        yield f"{subject}: {error.strerror}"
        return
    if size != descriptor["size"]:
        yield f"{subject}: has {size} bytes, not {descriptor['size']}"
    if _hash(path, digest.partition(":")[0]) != digest.partition(":")[2]:
        yield f"{subject}: the bytes do not hash to it"
        return
    if "manifest" not in descriptor["mediaType"] and "image.index" not in descriptor["mediaType"]:
        return
    document = json.loads(path.read_bytes())
    for child in [document.get("config"), *document.get("layers", ())]:
        if child is not None:
            yield from _descriptor_problems(root, child, subject)
    for child in document.get("manifests", ()):
        if (root / "blobs" / child["digest"].replace(":", "/")).exists():
            yield from _descriptor_problems(root, child, subject)


def problems(store: Store) -> list[str]:
    """What is wrong with a store: its layout, blobs, layers, catalog, the files of its images and of its snapshots."""
    found = layout_problems(store.root)
    found += _blob_problems(store.root / "blobs")
    found += _layer_problems(store)
    found += _dropped_problems(store)
    damaged = [chain for chain in store.rootfs.walk() if check(store.rootfs.path(chain)) is None]
    found += [f"rootfs {chain.short}: the metadata is damaged" for chain in damaged]
    found += store.catalog.problems()
    found += _record_problems(store)
    for image in store.images():
        found += _image_problems(image)
    for snapshot in store.snapshots():
        found += _snapshot_problems(snapshot)
    return found


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _blob_problems(blobs: Path) -> Iterator[str]:
    for path in sorted(blobs.glob("*/*")):
        algorithm = path.parent.name
        if len(path.name) != _HEX.get(algorithm, 0):
            yield f"{path}: no name of a blob"
        elif _hash(path, algorithm) != path.name:
            yield f"blob {path.name[:12]}: the bytes do not hash to it"


def _can_be_unpacked(store: Store) -> set[str]:
    """The diff_ids (hex) of layers that a blob with a file unpacks to: these may lack their tar."""
    layers = [layer for image in store.catalog.images() for layer in image.layers]
    return {layer.diff_id.hex for layer in layers if store.content.stored(layer.blob) is not None}


def _dropped_problems(store: Store) -> Iterator[str]:
    """Blobs that were dropped because they can be had again, and cannot."""
    for record in store.catalog.dropped_blobs():
        try:
            with store.content.open(record.blob, size=record.size) as reader:
                reader.drain()
        except LamellaError as error:
            yield f"dropped blob {record.blob.short}: {error}"


def _layer_problems(store: Store) -> Iterator[str]:
    may_lack_their_tar = _can_be_unpacked(store)
    for path in sorted((store.root / "layers").glob("*")):
        if not _SHA256.fullmatch(path.name):
            yield f"{path}: no name of a layer"
            continue
        try:
            index = LayerIndex.load(path / INDEX_NAME)
            if path.name in may_lack_their_tar and not (path / TAR_NAME).exists():
                continue
            size, diff_id = (path / TAR_NAME).stat().st_size, _hash(path / TAR_NAME, "sha256")
        except (OSError, LamellaError) as error:
            yield f"layer {path.name[:12]}: {error}"
            continue
        if diff_id != path.name:
            yield f"layer {path.name[:12]}: the tar does not hash to it"
        if index.diff_id is None or index.diff_id.hex != path.name or index.tar_size != size:
            yield f"layer {path.name[:12]}: the index is of another tar"


def _record_problems(store: Store) -> Iterator[str]:
    """What the catalog knows and the disk does not have, and names in index.json that are not the catalog's."""
    for document in store.catalog.documents():
        subject = f"{document.kind} {document.digest.short}"
        if not store.content.exists(document.digest, document.size):
            yield f"{subject}: its blob is not there"
        for child in document.children if document.kind != "index" else ():
            if not store.content.exists(child.digest, child.size):
                yield f"{subject}: {child.digest.short}, which it names, is not there"
    for image in store.catalog.images():
        for layer in image.layers:
            if not store.layers.has(layer.diff_id) and store.content.stored(layer.blob) is None:
                yield f"image {image.manifest.short}: the layer {layer.diff_id.short} is not there"
            if store.catalog.blob_diff(layer.blob) != layer.diff_id:
                yield f"image {image.manifest.short}: the diff_id of {layer.blob.short} is not known"
    written = {
        (entry["annotations"].get("io.containerd.image.name"), entry["digest"])
        for entry in json.loads((store.root / "index.json").read_bytes())["manifests"]
        if entry.get("annotations")
    }
    lacking = _lacking(store)
    if written != {(r.name, str(r.target)) for r in store.catalog.names() if r.target not in lacking}:
        yield "index.json has other names than the catalog"


def _lacking(store: Store) -> set[Digest]:
    """The documents that lead to a blob which was dropped: index.json does not list them."""
    lacking = {record.blob for record in store.catalog.dropped_blobs()}
    documents = store.catalog.documents()
    for _ in range(5):  # as deep as indexes may be nested
        lacking |= {d.digest for d in documents if any(child.digest in lacking for child in d.children)}
    return lacking


def _image_problems(image: Image) -> Iterator[str]:
    try:
        for info in image.walk():
            if info.kind.name == "REGULAR":
                with image.open(info.path) as stream:
                    size = sum(map(len, iter(lambda: stream.read(_CHUNK), b"")))
                if size != info.size:
                    yield f"{image}: {info.path!r} has {size} bytes, not {info.size}"
    except (OSError, LamellaError) as error:
        yield f"{image}: {error}"


def _snapshot_problems(snapshot: Snapshot) -> Iterator[str]:
    try:
        snapshot.changes()
        files = snapshot.files
        for info in files.walk():
            if info.kind.name == "REGULAR":
                with files.open(info.path) as stream:
                    while stream.read(_CHUNK):
                        pass
    except (OSError, LamellaError) as error:
        yield f"snapshot {snapshot.key}: {error}"


def leftovers(store: Store) -> list[str]:
    """What is in a store and belongs to nothing: after ``gc``, with nobody else at work, there is nothing of it."""
    live, dead = dead_leases(store.catalog, store.root / "ingest")
    found = [f"the lease {id} of a process that is gone" for id in dead]
    found += [f"the lease {id} of a process that is at work" for id in live]
    found += [f"ingest/{name}" for name in sorted(os.listdir(store.root / "ingest")) if name not in _KEPT_IN_INGEST]
    found += _temporaries(store.root)
    found += _unreachable(store)
    known = {record.key for record in store.catalog.snapshots()}
    found += [f"snapshot {key}" for key in store.snapshotter.directories() if key not in known]
    return found


def _temporaries(root: Path) -> Iterator[str]:
    """Files that are written and then renamed, and what stands beside directories that are not there."""
    for pattern in (".*", "snapshots/.*", "trees/*/.*", "rootfs/.*"):
        yield from (str(path.relative_to(root)) for path in sorted(root.glob(pattern)))
    for pattern in ("trees/*/*.lock", "trees/*/*.boot", "rootfs/*.lock"):
        for path in sorted(root.glob(pattern)):
            if not path.with_suffix("").exists():
                yield str(path.relative_to(root))


def _unreachable(store: Store) -> Iterator[str]:
    reachable = store.catalog.reachable(())
    yield from (f"document {d.digest.short}" for d in store.catalog.documents() if d.digest not in reachable.documents)
    yield from (f"blob {blob.digest.short}" for blob in store.content.walk() if blob.digest not in reachable.blobs)
    yield from (f"layer {diff_id.short}" for diff_id in store.layers.walk() if diff_id not in reachable.diff_ids)
    yield from (f"tree {chain_id.short}" for _, chain_id in store.trees.walk() if chain_id not in reachable.chain_ids)
    yield from (f"rootfs {chain_id.short}" for chain_id in store.rootfs.walk() if chain_id not in reachable.chain_ids)
