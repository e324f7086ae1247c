"""OCI layouts as the peers take them: with a tag, with OCI media types, with links instead of flattened ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import needs

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
_REWRITTEN = {
    f"{DOCKER}distribution.manifest.v2+json": f"{OCI}manifest.v1+json",
    f"{DOCKER}container.image.v1+json": f"{OCI}config.v1+json",
    f"{DOCKER}image.rootfs.diff.tar.gzip": f"{OCI}layer.v1.tar+gzip",
    f"{DOCKER}image.rootfs.diff.tar": f"{OCI}layer.v1.tar",
}
_LINK_TEXT_MAX = 100


@dataclass(frozen=True, slots=True)
class Found:
    """One image of a layout: the digest of its manifest, and its layers' digests, as texts."""

    layout: Path
    manifest: str
    layers: tuple[str, ...]


def names() -> list[str]:
    """Every real layout, by its path below the folder of real images; none where there is no folder."""
    return sorted(str(path.parent.relative_to(needs.IMAGES)) for path in needs.IMAGES.glob("**/index.json"))


def real(name: str, scratch: Path) -> Path:
    """A real layout or archive.

    Where links have come as files with the link's text in them (as git checks them out where it may not make any), it
    is a copy below ``scratch`` that has the links.
    """
    path = needs.images() / name
    flattened = [blob for blob in path.glob("blobs/*/*") if not blob.is_symlink() and _is_link_text(blob)]
    if not flattened:
        return path
    restored = scratch / name.replace("/", "-")
    if not restored.exists():
        shutil.copytree(path, restored, symlinks=True)
        for blob in flattened:
            copy = restored / blob.relative_to(path)
            copy.unlink()
            copy.symlink_to(blob.read_text())
    return restored


def _is_link_text(blob: Path) -> bool:
    return blob.stat().st_size < _LINK_TEXT_MAX and blob.read_bytes().startswith(b"../../")


def blob(layout: Path, digest: str) -> Path:
    """Where a blob is."""
    return layout / "blobs" / digest.replace(":", "/")


def document(layout: Path, digest: str) -> Any:
    """A document, decoded."""
    return json.loads(blob(layout, digest).read_bytes())


def found_in(layout: Path) -> list[Found]:
    """Every image whose layers are tars, indexes looked into, what is not there left out."""
    todo = list(json.loads((layout / "index.json").read_bytes())["manifests"])
    result: dict[str, Found] = {}
    while todo:
        digest = todo.pop(0)["digest"]
        if not blob(layout, digest).exists():
            continue
        content = document(layout, digest)
        todo.extend(content.get("manifests", ()))
        layers = content.get("layers", ())
        if layers and all(_oci(layer["mediaType"]).startswith(f"{OCI}layer") for layer in layers):
            result[digest] = Found(layout, digest, tuple(layer["digest"] for layer in layers))
    return list(result.values())


def _oci(media_type: str) -> str:
    return _REWRITTEN.get(media_type, media_type)


def as_oci(found: Found, target: Path, tag: str = "it") -> Path:
    """A layout at ``target`` with this one image under a tag, its media types those of OCI; blobs are linked."""
    (target / "blobs" / "sha256").mkdir(parents=True)
    manifest = document(found.layout, found.manifest)
    manifest["mediaType"] = _oci(manifest["mediaType"])
    for descriptor in (manifest["config"], *manifest["layers"]):
        descriptor["mediaType"] = _oci(descriptor["mediaType"])
        os.symlink(blob(found.layout, descriptor["digest"]).resolve(), blob(target, descriptor["digest"]))
    raw = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    blob(target, digest).write_bytes(raw)
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": f"{OCI}manifest.v1+json",
                "digest": digest,
                "size": len(raw),
                "annotations": {"org.opencontainers.image.ref.name": tag},
            }
        ],
    }
    (target / "index.json").write_text(json.dumps(index))
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return target
