"""Makes the image that is measured: three gzip layers, 33,000 files, 520 MB, the same bytes on every machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

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


class LayerFile:
    """A layer on its way into a layout: ``tar`` takes its members; digests and size are there once it is closed."""

    def __init__(self, layout: Path, compression: str) -> None:
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        self.compression = compression
        handle, name = tempfile.mkstemp(dir=blobs)
        self._path, self._file = Path(name), os.fdopen(handle, "wb")
        self._plain = hashlib.sha256()
        self._out = _compressor(self._file, compression)
        self.tar = tarfile.open(fileobj=self, mode="w|", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115

    def write(self, data: bytes) -> int:
        """Take bytes of the tar."""
        self._plain.update(data)
        return self._out.write(data)

    def close(self) -> tuple[dict[str, object], str]:
        """End the layer and give it its name; returns its descriptor and its diff_id."""
        self.tar.close()
        self._out.close()
        self._file.close()
        with open(self._path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._path.chmod(0o644)
        self._path.rename(self._path.with_name(digest))
        size = self._path.with_name(digest).stat().st_size
        media_type = f"application/vnd.oci.image.layer.v1.tar+{self.compression}"
        descriptor: dict[str, object] = {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}
        return descriptor, f"sha256:{self._plain.hexdigest()}"


def _compressor(file: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile("", "wb", 6, file, 0))
    from backports import zstd

    return cast(BinaryIO, zstd.ZstdFile(file, "wb", level=3))


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
    layout = directory / "made-gzip"
    if (layout / "index.json").exists():
        return layout
    layers = [LayerFile(layout, "gzip") for _ in range(3)]
    for seed, layer in enumerate(layers, start=1):
        _fill(layer.tar, random.Random(seed), _pool(seed), seed, files // 3, total // 3)
    write_layout(layout, layers)
    return layout


def write_layout(layout: Path, layers: list[LayerFile]) -> None:
    """Close the layers, bottom first, and write what names them: the image ``bench``."""
    blobs = layout / "blobs" / "sha256"
    written = [layer.close() for layer in layers]
    diff_ids = [diff_id for _, diff_id in written]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config_blob = _put(blobs, config, "application/vnd.oci.image.config.v1+json")
    media_type = "application/vnd.oci.image.manifest.v1+json"
    descriptors = [descriptor for descriptor, _ in written]
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config_blob, "layers": descriptors}
    named = _put(blobs, manifest, media_type) | {"annotations": {"org.opencontainers.image.ref.name": "bench"}}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))


def add_layer(layout: Path, place: Path) -> Path:
    """Write the image of ``layout`` with one small layer more as a layout below ``place``; blobs are links."""
    second = place / "second"
    shutil.copytree(layout, second, copy_function=os.link)
    blobs = second / "blobs" / "sha256"
    index = json.loads((second / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_text())
    layer = LayerFile(second, "gzip")
    info = tarfile.TarInfo("etc/motd")
    info.size, info.mtime = 6, 1_700_000_000
    layer.tar.addfile(info, io.BytesIO(b"second"))
    descriptor, diff_id = layer.close()
    config["rootfs"]["diff_ids"].append(diff_id)
    manifest["layers"].append(descriptor)
    manifest["config"] = _put(blobs, config, manifest["config"]["mediaType"])
    named = _put(blobs, manifest, manifest["mediaType"]) | {"annotations": index["manifests"][0]["annotations"]}
    (second / "index.json").unlink()  # a link, which must not be written through
    (second / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return second


def _put(blobs: Path, document: dict[str, object], media_type: str) -> dict[str, object]:
    raw = json.dumps(document).encode()
    digest = hashlib.sha256(raw).hexdigest()
    (blobs / digest).write_bytes(raw)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}
