"""The checksums of 2013 of today's images, against what can be computed from an archive of theirs."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile

import pytest

from lamella.errors import FailedPrecondition
from lamella.images.create import Recipe
from lamella.spec.platform import Platform
from support import building

LAYER = building.tar(
    building.directory("etc", mode=0o750, owner=(3, 4)),
    building.file("etc/passwd", "root\n", mtime=1_500_000_000),
    building.symlink("etc/link", "passwd"),
    building.hard_link("etc/hard", "etc/passwd"),
)


def tarsum(layer: bytes, record: bytes, *, version: int) -> str:
    """TarSum as docs say, with Python's own tar reader: names, numbers in decimal, then the body; sorted, hashed."""
    sums = []
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        for info in tar:
            name = info.name + ("/" if info.isdir() else "")
            fields = [("name", name), ("mode", info.mode), ("uid", info.uid), ("gid", info.gid), ("size", info.size),
                      *([("mtime", int(info.mtime))] if version == 0 else []), ("typeflag", info.type.decode()),
                      ("linkname", info.linkname), ("uname", info.uname), ("gname", info.gname),
                      ("devmajor", info.devmajor), ("devminor", info.devminor)]  # fmt: skip
            body = tar.extractfile(info).read() if info.isreg() else b""
            sums.append(hashlib.sha256("".join(f"{k}{v}" for k, v in fields).encode() + body).hexdigest())
    total = hashlib.sha256(record + "".join(sorted(sums)).encode())
    return ("tarsum+sha256:" if version == 0 else "tarsum.v1+sha256:") + total.hexdigest()


@pytest.fixture
def image(store):
    return store.import_rootfs(io.BytesIO(LAYER), "demo:1", recipe=Recipe(platform=Platform("linux", "amd64")))


@pytest.fixture
def saved(store, image, disk):
    """The id, the record and the layer that docker save writes."""
    store.save(["demo:1"], disk / "a", format="docker-archive", legacy=True, platform=image.platform)
    with tarfile.open(disk / "a") as tar:
        identity = json.load(tar.extractfile("repositories"))["demo"]["1"]
        return identity, *(tar.extractfile(f"{identity}/{name}").read() for name in ("json", "layer.tar"))


def test_the_checksum_is_over_the_record_that_is_saved(image, saved):
    identity, record, layer = saved
    assert image.checksum() == "sha256:" + hashlib.sha256(record + b"\n" + layer).hexdigest()
    found = image.checksums()
    assert found.checksum == image.checksum()
    assert (found.v1_id, found.digest, found.id) == (identity, image.digest, image.id)
    assert (found.diff_id, found.chain_id) == (image.layers[-1].diff_id, image.layers[-1].chain_id)


def test_the_tarsums_are_those_of_the_documents(image, saved):
    _, record, layer = saved
    found = image.checksums()
    assert found.tarsum == tarsum(layer, record, version=0)
    assert found.tarsum_v1 == tarsum(layer, record, version=1)
    assert found.tarsum_dev == found.tarsum_v1.replace("v1", "dev")


def test_an_image_without_layers_has_none(store, disk):
    store.load(building.layout(disk / "layout", [], tag="docker.io/library/empty:1"))
    with pytest.raises(FailedPrecondition) as caught:
        store.image("empty:1").checksum()
    assert caught.value.code == "checksum-no-layer"


def test_the_command_shows_them_side_by_side(store, image):
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "lamella", "--root", str(store.root), "checksum", *words, "demo:1"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = image.checksums()
    (document,) = json.loads(run("--json"))
    assert document == {
        "digest": str(image.digest), "id": str(image.id), "diff_id": str(found.diff_id),
        "chain_id": str(found.chain_id), "v1_id": found.v1_id, "checksum": found.checksum, "tarsum": found.tarsum,
        "tarsum_v1": found.tarsum_v1, "tarsum_dev": found.tarsum_dev,
    }  # fmt: skip
    assert run("-q") == found.checksum + "\n"
    lines = [line.split() for line in run().splitlines()]
    assert ["Checksum", found.checksum] in lines
    assert ["TarSum", "v1", found.tarsum_v1] in lines
