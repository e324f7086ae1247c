"""What the tests of the formats share: copying between endpoints, making images, running other tools."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lamella.content.verified import VerifiedReader
from lamella.spec import media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import Index, Manifest
from lamella.spec.endpoint import ImageSink, ImageSource, Offer

IMAGES = Path(os.environ.get("LAMELLA_TEST_IMAGES", Path(__file__).parents[3] / "shared" / "images"))


def real_image(name: str, scratch: Path) -> Path:
    """One of the real images; skips the test where they are not.

    Where the blobs that are links have come as files with the text of a link (as git checks links out where it may
    not make any), the result is a copy in ``scratch`` with the links made.
    """
    path = IMAGES / name
    if not path.exists():
        pytest.skip(f"the real images are not at {IMAGES} (LAMELLA_TEST_IMAGES)")
    flattened = [blob for blob in path.glob("blobs/*/*") if not blob.is_symlink() and _is_link_text(blob)]
    if not flattened:
        return path
    restored = scratch / "restored"
    shutil.copytree(path, restored, symlinks=True)
    for blob in flattened:
        target = restored / blob.relative_to(path)
        text = blob.read_text()
        target.unlink()
        target.symlink_to(text)
    return restored


def _is_link_text(blob: Path) -> bool:
    return blob.stat().st_size < 100 and blob.read_bytes().startswith(b"../../")


def real_layouts() -> list[str]:
    """The real layouts, by the names that real_image takes; one name that skips where there are none."""
    found = sorted(str(path.parent.relative_to(IMAGES)) for path in IMAGES.glob("**/index.json"))
    return found or ["alpine-3.20"]


def tool(name: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path, **options: object) -> str:
    """What a program prints; its errors fail the test."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def read_all(source: ImageSource, descriptor: Descriptor) -> bytes:
    """A blob, verified."""
    with VerifiedReader(source.open_blob(descriptor), descriptor.digest, descriptor.size) as reader:
        return reader.read()


def blobs_of(source: ImageSource, descriptor: Descriptor) -> Iterator[Descriptor]:
    """A document and what it names, that first."""
    if descriptor.is_index:
        for child in Index.parse(read_all(source, descriptor), descriptor.media_type).manifests:
            yield from blobs_of(source, child)
    elif descriptor.is_manifest:
        manifest = Manifest.parse(read_all(source, descriptor), descriptor.media_type)
        yield from manifest.layers
        yield manifest.config
    yield descriptor


def copy(source: ImageSource, sink: ImageSink, offers: Iterable[Offer] | None = None) -> list[Digest]:
    """Copy images; returns the digests of the blobs that had to be written."""
    chosen = list(source.offers() if offers is None else offers)
    written = []
    for offer in chosen:
        for blob in blobs_of(source, offer.descriptor):
            if not sink.has_blob(blob):
                with closing(source.open_blob(blob)) as reader:
                    sink.write_blob(blob, reader)
                written.append(blob.digest)
    sink.finish(chosen)
    return written


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


class MemorySource:
    """Images made by a test (an ImageSource)."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.found: list[Offer] = []

    def offers(self) -> list[Offer]:
        return self.found

    def open_blob(self, descriptor: Descriptor) -> io.BytesIO:
        return io.BytesIO(self.blobs[descriptor.digest])

    def close(self) -> None:
        pass

    def add(self, media_type: str, data: bytes, **fields: object) -> Descriptor:
        descriptor = Descriptor.of(media_type, data, **fields)
        self.blobs[descriptor.digest] = data
        return descriptor

    def image(
        self,
        layers: list[bytes],
        *names: str,
        parent: Digest | None = None,
        compress: Callable[[bytes], bytes] = _gzip,
        config: dict[str, object] | None = None,
        docker: bool = False,
    ) -> Offer:
        """Add and offer an image of these uncompressed layers."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/sh"]},
            **(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
        }
        raw = json.dumps(document).encode()
        layer_type = media.DOCKER_LAYER + ".gzip" if docker else media.OCI_LAYER + "+gzip"
        manifest = {
            "schemaVersion": 2,
            "mediaType": media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST,
            "config": self.add(media.DOCKER_CONFIG if docker else media.OCI_CONFIG, raw).to_object(),
            "layers": [self.add(layer_type, compress(layer)).to_object() for layer in layers],
        }
        descriptor = self.add(str(manifest["mediaType"]), json.dumps(manifest).encode())
        offer = Offer(descriptor, names, parent)
        self.found.append(offer)
        return offer


def layer(**files: str) -> bytes:
    """An uncompressed layer with these files."""
    return tar_of({name: text.encode() for name, text in files.items()})


def tar_of(members: dict[str, bytes] | list[tuple[str, bytes | tuple[bytes, str]]]) -> bytes:
    """A tar of files by name; ``(type, target)`` in place of the content makes a link or something else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listing(directory: Path) -> dict[str, bytes | str]:
    """Everything below a directory: files with their bytes, links with their targets."""
    return {
        str(path.relative_to(directory)): (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes() if path.is_file() else "directory"
        )
        for path in sorted(directory.rglob("*"))
    }


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
