"""Makes the image that is measured: three gzip layers, 33,000 files, 520 MB, the same bytes on every machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path

_WORDS = b"image layer graph store mount union branch change digest blob tar index walk parent child commit import def "


def _pool(seed: int) -> bytes:
    """Text that compresses about as well as a distribution's files do."""
    source = random.Random(seed)
    words = _WORDS.split()
    parts = []
    for _ in range(120_000):
        parts.append(source.choice(words))
        if source.random() < 0.35:
            parts.append(source.randbytes(5).hex().encode())
    return b" ".join(parts)


def _layer(path: Path, seed: int, files: int, total: int) -> tuple[str, str, int]:
    """Write one gzip layer; return the digest of the blob, the diff_id and the blob's size."""
    source, pool = random.Random(seed), _pool(seed)
    plain = hashlib.sha256()
    with open(path, "wb") as file:
        with gzip.GzipFile("", "wb", 6, file, 0) as out:

            class Tee:
                def write(self, data: bytes) -> int:
                    plain.update(data)
                    return out.write(data)

            with tarfile.open(fileobj=Tee(), mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                _fill(tar, source, pool, seed, files, total)
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), plain.hexdigest(), len(data)


def _fill(tar: tarfile.TarFile, source: random.Random, pool: bytes, seed: int, files: int, total: int) -> None:
    mean = total // files
    made: set[str] = set()
    for number in range(files):
        directory = f"usr/lib/part{seed}/d{number // 40:04d}"
        if directory not in made:
            made.add(directory)
            info = tarfile.TarInfo(directory)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            tar.addfile(info)
        size = min(int(source.expovariate(1 / mean)), len(pool) - 1)
        start = source.randrange(len(pool) - size)
        info = tarfile.TarInfo(f"{directory}/file{number:05d}.py")
        info.size, info.mode, info.mtime = size, 0o644, 1_700_000_000 + number
        tar.addfile(info, io.BytesIO(pool[start : start + size]))


def make_layout(directory: Path, *, files: int = 33_000, total: int = 540_000_000) -> Path:
    """Write an OCI layout named ``bench`` below ``directory`` (kept for the next run) and return it."""
    layout = directory / "layout"
    if (layout / "index.json").exists():
        return layout
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    layers, diff_ids = [], []
    for seed in (1, 2, 3):
        temporary = blobs / "layer"
        digest, diff_id, size = _layer(temporary, seed, files // 3, total // 3)
        temporary.rename(blobs / digest)
        media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
        layers.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": size})
        diff_ids.append(f"sha256:{diff_id}")
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config_blob = _put(blobs, config, "application/vnd.oci.image.config.v1+json")
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config_blob, "layers": layers}
    named = _put(blobs, manifest, media_type) | {"annotations": {"org.opencontainers.image.ref.name": "bench"}}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return layout


def _put(blobs: Path, document: dict[str, object], media_type: str) -> dict[str, object]:
    raw = json.dumps(document).encode()
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}
