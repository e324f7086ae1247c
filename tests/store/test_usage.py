"""What takes the disk, told to the byte: everything once, and apart by kind, by image, by what may go."""

from __future__ import annotations

import os
import subprocess

import pytest

import lamella
from _machine import file_system
from lamella._sys import syscalls
from lamella.archive.compression import Compression
from lamella.images.create import Recipe
from lamella.upkeep.footprint import Footprint, _Intervals
from support import building, needs

BASE = building.tar(building.directory("d"), building.file("d/x", os.urandom(200_000)))
OWN = [building.tar(building.file(f"own{n}", os.urandom(100_000 * (n + 1)))) for n in range(2)]


def rows(store):
    return {row.kind: row for row in store.usage()}


def on_disk(root):
    """Bytes of all files below ``root``, each inode once."""
    seen = {}
    for directory, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(directory, name))
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


@pytest.fixture
def two(store, disk):
    """Two images that share their lowest layer."""
    for number, own in enumerate(OWN):
        store.load(building.layout(disk / f"layout-{number}", [BASE, own], tag=f"t{number}"))
    return store


class TestKinds:
    def test_every_file_is_counted_once(self, two, disk):
        two.import_rootfs(_file(disk, BASE), "plain")
        found = rows(two)
        assert sum(row.size for row in found.values()) == on_disk(two.root)
        assert all(row.size for kind, row in found.items() if kind in ("blob", "tar", "index", "catalog"))
        assert sum(row.size for row in found.values()) <= _du(two.root)

    def test_a_tar_that_is_a_blob_is_counted_as_blob(self, store, disk):
        store.import_rootfs(_file(disk, BASE), "plain")
        found = rows(store)
        assert (found["tar"].count, found["tar"].size) == (1, 0)
        assert found["blob"].size >= len(BASE)

    def test_what_is_unfinished_is_told(self, store):
        with store.lease("work") as lease:
            (lease.directory / "file").write_bytes(b"x" * 50_000)
            with store.content.open_ingest("unfinished") as ingest:
                ingest.write(b"y" * 70_000)
                row = rows(store)["ingest"]
                assert row.count == 2
                assert row.size >= 120_000
                assert (row.reclaimable, row.prunable) == (0, 0)
                ingest.abort()

    def test_trees_metadata_and_snapshots_are_told_apart(self, two, driver):
        with two.prepare("t0", "s", driver=driver) as snapshot, snapshot.mount() as root:
            (root / "new").write_bytes(b"n" * 30_000)
            mounted = rows(two)
            assert mounted["snapshot"].count == 1
            assert mounted["snapshot"].size >= 30_000
            assert mounted["tree"].prunable == mounted["rootfs"].prunable == 0
        unmounted = rows(two)
        for kind in ("tree", "rootfs"):
            assert unmounted[kind].prunable == unmounted[kind].size
        assert unmounted["snapshot"].prunable == 0
        for kind in ("blob", "tar", "rootfs", "tree", "snapshot"):  # what shows through a mount is counted nowhere
            assert abs(mounted[kind].size - unmounted[kind].size) < 65_536

    def test_garbage_is_reclaimable_and_not_prunable(self, two):
        before = rows(two)
        two.catalog.remove_name("docker.io/library/t1:latest")
        after = rows(two)
        assert before["tar"].reclaimable == 0
        assert after["tar"].reclaimable >= len(OWN[1])
        assert after["tar"].prunable == before["tar"].prunable - after["tar"].reclaimable
        report = two.gc()
        assert report.size == sum(row.reclaimable for row in after.values())
        assert rows(two)["tar"].reclaimable == 0

    def test_what_may_be_pruned_is_what_prune_drops(self, two, disk):
        two.import_rootfs(_file(disk, BASE), "made", recipe=Recipe(compression=Compression.ZSTD))
        told = rows(two)
        dropped = {}
        for item in [*two.prune(compressed=True).items, *two.prune(trees=True).items]:
            dropped[item.kind] = dropped.get(item.kind, 0) + item.size
        assert dropped["blob"] == told["blob"].prunable
        assert 0 < dropped["tar"] <= told["tar"].prunable  # the one that the dropped blob is made of stays

    def test_a_dropped_blob_takes_nothing(self, store, disk):
        image = store.import_rootfs(_file(disk, BASE), "made", recipe=Recipe(compression=Compression.GZIP))
        before = rows(store)["blob"]
        store.prune(compressed=True)
        after = rows(store)["blob"]
        assert after.count == before.count - 1
        assert after.size <= before.size - image.layers[0].size
        assert store.image_usage()[0].size < before.size + rows(store)["tar"].size


class TestImages:
    def test_shared_and_own_bytes_are_all_bytes(self, two):
        images = two.image_usage()
        assert [image.name for image in images] == ["t1:latest", "t0:latest"]
        for image in images:
            assert image.size == image.unique + image.shared
            assert image.shared >= 2 * len(BASE) * 0.99  # the blob of random bytes, and the tar
        assert images[0].shared == images[1].shared
        assert images[0].unique - images[1].unique >= 100_000
        assert images[0].shared + sum(image.unique for image in images) <= sum(row.size for row in two.usage())

    def test_alone_an_image_shares_nothing(self, two):
        two.remove(["t1"])
        (image,) = two.image_usage()
        assert (image.shared, image.unique) == (0, image.size)

    def test_removing_an_image_gives_back_its_own_bytes(self, two):
        own = {image.name: image.unique for image in two.image_usage()}
        report = two.remove(["t1"]).report
        assert report.size == own["t1:latest"]

    def test_an_uncompressed_layer_is_counted_once(self, store, disk):
        store.import_rootfs(_file(disk, BASE), "plain")
        (image,) = store.image_usage()
        assert len(BASE) < image.size < 1.5 * len(BASE)


class TestSharedBlocks:
    def test_clones_are_counted_once(self, disk):
        needs.root()
        with file_system("xfs", disk) as place:
            first, second = place / "first", place / "second"
            first.write_bytes(os.urandom(1 << 20))
            with first.open("rb") as source, second.open("wb") as target:
                syscalls.clone_file(source.fileno(), target.fileno())
            with second.open("r+b") as changed:
                changed.seek(1 << 19)
                changed.write(os.urandom(1 << 18))
            os.sync()
            assert Footprint().tree(place) >= 2 << 20
            size = Footprint(reflinks=True).tree(place)
            assert (1 << 20) + (1 << 18) <= size < (1 << 20) + (1 << 19)

    def test_snapshots_that_share_blocks_are_told(self, disk):
        needs.root()
        with file_system("xfs", disk) as place, lamella.Store.open(place / "store") as store:
            store.load(building.layout(disk / "layout", [building.tar(building.file("x", os.urandom(4 << 20)))]))
            for key in ("a", "b", "c"):
                store.prepare("it", key, driver="copy")
            os.sync()
            found = rows(store)
            assert found["tree"].size + found["snapshot"].size < 6 << 20
            for key in ("a", "b", "c"):
                store.snapshot(key).remove()

    def test_intervals_count_what_was_not_covered(self):
        places = _Intervals()
        covered = set()
        for start, end in [(10, 20), (30, 40), (10, 20), (15, 35), (0, 5), (4, 11), (50, 60), (0, 100), (20, 30)]:
            new = set(range(start, end)) - covered
            assert places.add(start, end) == len(new)
            covered |= new


def _file(disk, data):
    path = disk / f"root-{len(list(disk.iterdir()))}.tar"
    path.write_bytes(data)
    return path


def _du(root):
    done = subprocess.run(["du", "-s", "--block-size=1", str(root)], capture_output=True, check=True, text=True)
    return int(done.stdout.split()[0])
