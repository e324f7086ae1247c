"""Every real image loads, and comes out as umoci makes it: read without mounting, and through every driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamella.errors import Integrity
from support import layouts, peers
from support.needs import needs_root, needs_tool
from support.trees import Tree, assert_same, read_directory, read_view

BROKEN = "semantics/aufs-docker-v2-manifest"
SQUASHFS = "semantics/overlayfs-docker-v2-manifest"
LAYOUTS = [name for name in layouts.names() if name not in (BROKEN, SQUASHFS)]


@pytest.fixture(params=LAYOUTS or ["alpine-3.20"])
def layout(request, real_layout) -> Path:
    """Each of the real layouts that hold images."""
    return real_layout(request.param)


@pytest.fixture(scope="session")
def unpacked(real_disk):
    """Gives the tree that umoci makes of an image of a layout."""
    trees: dict[str, Tree] = {}

    def unpack(found: layouts.Found) -> Tree:
        if found.manifest not in trees:
            place = real_disk / f"umoci-{len(trees)}"
            place.mkdir()
            layout = layouts.as_oci(found, place / "oci")
            trees[found.manifest] = read_directory(peers.umoci_unpack(layout, place / "rootfs"))
        return trees[found.manifest]

    return unpack


@needs_root
@needs_tool("umoci")
class TestTrees:
    """A merged tree, however it is read, is the directory that umoci unpacks, in everything that a file system keeps.

    Where the root directory has no entry, umoci and Lamella agree on 0755 (containers/storage makes it 0555), and both
    link across layers (containers/storage refuses), so that nothing has to be left out of the comparison.
    """

    def test_read_without_mounting(self, store, layout, unpacked):
        store.load(layout)
        images = layouts.found_in(layout)
        assert images
        for found in images:
            assert_same(read_view(store.image(found.manifest)), unpacked(found))

    def test_mounted(self, store, layout, unpacked, driver):
        store.load(layout)
        for found in layouts.found_in(layout)[:1]:
            with store.view(store.image(found.manifest), driver=driver) as snapshot, snapshot.mount() as root:
                assert_same(read_directory(root), unpacked(found))
            assert snapshot.changes() == []


@needs_root
@needs_tool("umoci")
def test_the_docker_archive_holds_the_image_of_the_layout(store, real_layout, unpacked):
    store.load(real_layout("alpine-docker-archive.tar"))
    (found,) = layouts.found_in(real_layout("alpine-3.20"))
    assert_same(read_view(store.image("alpine:3.20.3")), unpacked(found))


def test_the_archive_and_the_layout_have_one_id(store, real_layout):
    (archive,) = store.load(real_layout("alpine-docker-archive.tar"))
    (layout,) = store.load(real_layout("alpine-3.20"))
    assert archive.id == layout.id
    assert store.image("alpine:3.20.3").diff_ids == store.image("3.20.3").diff_ids


def test_links_between_the_layers_of_busybox_are_kept(store, real_layout):
    (loaded,) = store.load(real_layout("busybox/glibc"))
    image = store.image(str(loaded.descriptor.digest))
    assert image.stat("bin/busybox").links > 400
    assert image.stat("bin/sh").inode == image.stat("bin/busybox").inode


def test_a_layout_whose_descriptor_tells_a_wrong_size_is_refused(store, real_layout):
    """containers/storage accepts it; umoci and Lamella do not."""
    with pytest.raises(Integrity) as refused:
        store.load(real_layout(BROKEN))
    assert refused.value.code == "size-mismatch"
    assert store.images() == []
    assert store.gc().items == []


def test_a_layer_that_is_no_tar_is_kept_as_an_artifact(store, real_layout):
    (loaded,) = store.load(real_layout(SQUASHFS))
    assert (loaded.kind, loaded.id) == ("artifact", None)
    assert store.images() == []


def test_signatures_beside_an_image_are_artifacts(store, real_layout):
    kinds = [loaded.kind for loaded in store.load(real_layout("semantics/hello-world-cosign-manifest"))]
    assert kinds == ["image", "artifact", "artifact"]
    assert len(store.images()) == 1
