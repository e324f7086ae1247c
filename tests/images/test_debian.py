"""A Debian root file system under layers that delete, replace, re-add and link, against umoci and podman."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lamella
from support import layouts, peers
from support.needs import needs_root, needs_tool
from support.trees import assert_same, read_directory, read_view, without

pytestmark = [needs_root, needs_tool("mmdebstrap", "umoci", "tar")]

FORMATS = {"oci-dir": "oci", "oci-archive": "oci-archive", "docker-archive": "docker-archive"}


@pytest.fixture(scope="module")
def loaded(debian_image, real_disk):
    """A store that has the image; no test of this module changes the image."""
    with lamella.Store.open(real_disk / "debian-store") as store:
        store.load(debian_image.layout)
        yield store


@pytest.fixture(scope="module")
def image(loaded, debian_image):
    return loaded.image(debian_image.reference)


@pytest.fixture(scope="module")
def unpacked(debian_image, real_disk):
    """The tree that umoci makes of the layout that was loaded, not of anything that Lamella wrote."""
    return read_directory(peers.umoci_unpack(debian_image.layout, real_disk / "debian-umoci", debian_image.reference))


class TestTree:
    def test_is_what_umoci_unpacks(self, image, unpacked):
        assert len(unpacked) > 1000
        assert_same(read_view(image), unpacked)

    def test_is_what_umoci_unpacks_through_every_driver(self, loaded, image, unpacked, driver):
        with loaded.view(image, f"view-{driver}", driver=driver) as snapshot:
            with snapshot.mount() as root:
                assert_same(read_directory(root), unpacked)
            assert snapshot.changes() == []
            snapshot.remove()

    def test_has_what_the_layers_say(self, image):
        """The cases that the layers were made for, one by one: a mistake in both tools would show here."""
        assert image.stat("etc/debian_version").size == 3
        assert image.readlink("var/cache") == b"/srv/app/data"
        assert image.stat("var/run", follow=False).is_dir
        assert not image.exists("var/run/here")
        assert [info.path for info in image.listdir("etc/default")] == []
        assert [info.path for info in image.listdir("usr/share/common-licenses")] == [b"usr/share/common-licenses/MIT"]
        assert image.open("srv/app/data/below").read() == b"written below a link\n"
        assert image.open("var/cache/below").read() == b"written below a link\n"
        assert not image.exists("usr/bin/perl")
        assert image.stat("srv/app/links/third").inode == image.stat("srv/app/new-third").inode
        assert image.stat("srv/app/links/first").links == 1
        assert image.stat("usr/bin/env-new").inode == image.stat("usr/bin/env").inode
        assert image.stat("srv/app").mode == 0o3755
        assert image.stat("srv/app/empty").uid == 4_000_000_000
        assert image.stat("srv/app/capable").xattrs.keys() == {b"security.capability"}
        assert image.stat("srv/app/times/before").mtime == -31_536_000_000_000_001

    def test_tells_which_layer_did_what(self, image):
        assert [(step.layer, step.action) for _, step in image.provenance("etc/debian_version")] == [
            (0, "A"),
            (2, "C"),
            (3, "C"),
        ]
        assert [(step.layer, step.action) for _, step in image.provenance("srv/app/null")] == [
            (1, "A"),
            (2, "D"),
            (3, "A"),
        ]
        assert [(step.layer, step.action) for _, step in image.provenance("usr/bin/perl")] == [(0, "A"), (2, "D")]
        assert image.provenance("nowhere") == []

    def test_a_sparse_file_takes_little_room_where_it_is_extracted(self, loaded, image):
        with loaded.prepare(image, "sparse", driver="copy") as snapshot:
            path = snapshot.upper / "srv/app/sparse.img"
            assert path.stat().st_size > 16 << 20
            assert path.stat().st_blocks * 512 < 1 << 20
            snapshot.remove()


class TestSaved:
    @pytest.fixture(params=FORMATS)
    def saved(self, request, loaded, image, disk):
        """The image as ``save`` writes it, and how skopeo names it."""
        loaded.save(["debian:it"], disk / "saved", format=request.param)
        return request.param, disk / "saved", f"{FORMATS[request.param]}:{disk / 'saved'}:debian:it"

    def test_comes_back_with_the_same_ids(self, saved, image, store):
        store.load(saved[1])
        back = store.image("debian:it")
        assert (back.id, back.diff_ids) == (image.id, image.diff_ids)
        assert back.config.raw == image.config.raw
        if saved[0] != "docker-archive":
            assert back.digest == image.digest
            assert back.manifest.raw == image.manifest.raw
        assert_same(read_view(back), read_view(image))

    @needs_tool("skopeo")
    def test_skopeo_inspects_and_copies_it(self, saved, image, disk, store):
        config = peers.skopeo_inspect(saved[2], "--config")
        assert config["rootfs"]["diff_ids"] == [str(diff_id) for diff_id in image.diff_ids]
        assert peers.skopeo_inspect(saved[2])["Labels"] == {"made.by": "hand"}
        peers.run("skopeo", "copy", "--quiet", saved[2], f"oci:{disk / 'copied'}:debian:it")
        store.load(disk / "copied")
        assert store.image("debian:it").diff_ids == image.diff_ids

    def test_umoci_unpacks_it(self, loaded, unpacked, disk):
        loaded.save(["debian:it"], disk / "saved", format="oci-dir")
        peers.run("umoci", "unpack", "--image", f"{disk / 'saved'}:debian:it", disk / "bundle")
        assert_same(read_directory(disk / "bundle/rootfs"), unpacked)

    @needs_tool("podman")
    def test_podman_loads_it(self, loaded, image, unpacked, disk):
        """With the driver vfs, the only one of podman's that takes a hard link to a file of a lower layer.

        containers/storage makes times before 1970 zero, keeps no trusted xattrs on links, leaves a directory with the
        time of the last thing that it wrote into it, and gives a linked file the mode and the time of its header.
        """
        loaded.save(["debian:it"], disk / "saved", format="docker-archive")
        with peers.Podman(disk, "vfs") as podman:
            podman("load", "--input", disk / "saved")
            (found,) = json.loads(podman("images", "--no-trunc", "--format", "json"))
            assert found["Id"] == image.id.hex
            assert found["Names"] == ["docker.io/library/debian:it"]
            root = Path(podman("image", "mount", "debian:it").strip())
            assert_same(_as_podman(read_directory(root)), _as_podman(unpacked))


def _as_podman(tree):
    directories = [path for path, leaf in tree.items() if leaf.kind == "directory"]
    linked = [b"usr/bin/env", b"usr/bin/env-new", b"srv/app/links/third", b"srv/app/new-third"]
    tree = without(tree, "mtime", at=[b"srv/app/times/before", *directories, *linked])
    tree = without(tree, "mode", at=linked)
    return without(tree, "xattrs", at=[b"srv/app/dangling"])


@needs_tool("skopeo")
def test_the_store_is_a_layout_that_skopeo_reads(loaded, image):
    found = peers.skopeo_inspect(f"oci:{loaded.root}:debian:it")
    assert found["Digest"] == str(image.digest)
    assert found["Layers"] == [str(layer.digest) for layer in image.layers]


def test_what_save_writes_names_layers_once(loaded, disk):
    """A second image with the same layers adds its own documents, and no layer again."""
    loaded.save(["debian:it"], disk / "layout", format="oci-dir")
    before = {path: path.stat().st_mtime_ns for path in (disk / "layout/blobs/sha256").iterdir()}
    with loaded.prepare("debian:it", "more", driver="copy") as snapshot:
        (snapshot.upper / "more").write_text("more")
        snapshot.commit("debian:more")
        snapshot.remove()
    loaded.save(["debian:more"], disk / "layout", format="oci-dir")
    after = {path: path.stat().st_mtime_ns for path in (disk / "layout/blobs/sha256").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    assert len(layouts.found_in(disk / "layout")) == 2
