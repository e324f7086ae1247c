"""Images made by hand: layers written with Python's own tarfile, documents written with json."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME, ingest_layer
from lamella.layers.sources import TarSource
from lamella.layers.tree import MergedTree

OCI = "application/vnd.oci.image."
_EPOCH = 1_600_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One member of a layer."""

    name: str
    kind: bytes = tarfile.REGTYPE
    content: bytes = b""
    link: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: float = _EPOCH
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)


def file(name: str, content: bytes | str = b"", **fields: Any) -> Item:
    """A regular file."""
    return Item(name, content=content.encode() if isinstance(content, str) else content, **fields)


def directory(name: str, mode: int = 0o755, **fields: Any) -> Item:
    """A directory."""
    return Item(name, tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str, **fields: Any) -> Item:
    """A symbolic link."""
    return Item(name, tarfile.SYMTYPE, link=target, mode=0o777, **fields)


def hard_link(name: str, target: str) -> Item:
    """One more name of the file ``target``."""
    return Item(name, tarfile.LNKTYPE, link=target)


def fifo(name: str, **fields: Any) -> Item:
    """A fifo."""
    return Item(name, tarfile.FIFOTYPE, **fields)


def character_device(name: str, major: int, minor: int, **fields: Any) -> Item:
    """A character device."""
    return Item(name, tarfile.CHRTYPE, device=(major, minor), **fields)


def gone(name: str) -> Item:
    """The whiteout of ``name``."""
    parent, slash, last = name.rpartition("/")
    return Item(f"{parent}{slash}.wh.{last}")


def opaque(name: str) -> Item:
    """What makes the directory ``name`` opaque."""
    return Item(f"{name}/.wh..wh..opq")


def tar(*items: Item) -> bytes:
    """The uncompressed tar of a layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type, info.linkname, info.mode, info.mtime = item.kind, item.link, item.mode, item.mtime
            (info.uid, info.gid), (info.devmajor, info.devminor) = item.owner, item.device
            info.size = len(item.content)
            info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in item.xattrs.items()}
            archive.addfile(info, io.BytesIO(item.content))
    return out.getvalue()


def layout(
    path: Path,
    layers: Sequence[bytes],
    *,
    tag: str | None = "it",
    config: dict[str, Any] | None = None,
    platform: dict[str, str] | None = None,
) -> Path:
    """An OCI layout at ``path`` with one image of these uncompressed layers, gzipped; added to what is there."""
    platform = platform or {"os": "linux", "architecture": "amd64"}
    document = {
        "created": "2024-01-02T03:04:05Z",
        **platform,
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        **(config or {}),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}manifest.v1+json",
        "config": put(path, f"{OCI}config.v1+json", json.dumps(document).encode()),
        "layers": [put(path, f"{OCI}layer.v1.tar+gzip", gzip.compress(layer, 1, mtime=0)) for layer in layers],
    }
    descriptor = put(path, f"{OCI}manifest.v1+json", json.dumps(manifest).encode())
    return add_to_index(path, [{**descriptor, "platform": platform}], tag=tag)


def add_to_index(path: Path, descriptors: Iterable[dict[str, Any]], *, tag: str | None = None) -> Path:
    """Name these documents in the ``index.json`` of the layout at ``path``, under a tag if one is given."""
    index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if (path / "index.json").exists():
        index = json.loads((path / "index.json").read_text())
    for descriptor in descriptors:
        annotations = {"org.opencontainers.image.ref.name": tag} if tag else {}
        index["manifests"].append({**descriptor, "annotations": annotations})
    (path / "index.json").write_text(json.dumps(index))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return path


def put(path: Path, media_type: str, raw: bytes) -> dict[str, Any]:
    """Put a blob into the layout at ``path``; its descriptor."""
    digest = digest_of(raw)
    blob = path / "blobs" / digest.replace(":", "/")
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(raw)
    return {"mediaType": media_type, "digest": digest, "size": len(raw)}


def digest_of(raw: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def merged(place: Path, *layers: bytes) -> MergedTree:
    """The merged tree of these uncompressed layers, indexed below ``place``."""
    tree = MergedTree()
    for number, layer in enumerate(layers):
        staging = place / f"{number}-{digest_of(layer)[7:19]}"
        if not staging.exists():
            staging.mkdir()
            ingest_layer(io.BytesIO(layer), staging, lambda data: None)
        index = LayerIndex.load(staging / INDEX_NAME)
        tree = tree.apply(index, TarSource(digest_of(layer), partial(Path, staging / TAR_NAME)))
    return tree
