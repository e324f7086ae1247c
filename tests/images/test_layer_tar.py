"""A layer's tar, given out in any compression, is what the tools make the layer of."""

from __future__ import annotations

import hashlib
import subprocess

import pytest

from lamella import Compression
from support import building
from support.needs import needs_tool, tool

TOOLS = {
    Compression.NONE: ["cat"],
    Compression.GZIP: ["gzip", "-dc"],
    Compression.BZIP2: ["bzip2", "-dc"],
    Compression.XZ: ["xz", "-dc"],
    Compression.ZSTD: ["zstd", "-dqc"],
}
LAYER = building.tar(building.file("f", b"some text that can be made smaller\n" * 30_000), building.symlink("l", "f"))


@pytest.fixture
def layer(store, disk):
    store.load(building.layout(disk / "layout", [LAYER], tag="it"))
    return store.image("it").layers[0]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("level", [None, 1, 6])
def test_every_compression_comes_apart_to_the_layer(layer, compression, level):
    tool(TOOLS[compression][0])
    packed = b"".join(layer.tar(compression, level=level))
    done = subprocess.run(TOOLS[compression], input=packed, capture_output=True, check=True)
    assert done.stdout == LAYER
    assert f"sha256:{hashlib.sha256(done.stdout).hexdigest()}" == str(layer.diff_id)
    assert (len(packed) < len(LAYER) // 10) == (compression is not Compression.NONE)


@pytest.mark.parametrize("compression", list(Compression))
def test_the_same_bytes_every_time(layer, compression):
    assert b"".join(layer.tar(compression)) == b"".join(layer.tar(compression))


def test_sizes(layer):
    assert layer.tar_size == len(LAYER)
    assert layer.content_size == 35 * 30_000
    with layer.open() as blob:
        assert len(blob.read()) == layer.size < layer.tar_size


@needs_tool("tar")
@pytest.mark.parametrize("name", ["alpine-3.20", "busybox/musl"])
def test_the_blob_of_a_real_layer_is_given_as_it_came(store, real_layout, name):
    store.load(real_layout(name))
    for layer in store.images()[0].layers:
        with layer.open() as blob:
            assert f"sha256:{hashlib.sha256(blob.read()).hexdigest()}" == str(layer.digest)
        assert f"sha256:{hashlib.sha256(b''.join(layer.tar())).hexdigest()}" == str(layer.diff_id)
