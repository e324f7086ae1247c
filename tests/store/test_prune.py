"""Pruning: what goes can be had again, by whatever needs it, and nothing else goes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import lamella
from lamella.archive.compression import Compression
from lamella.errors import FailedPrecondition, Integrity, LamellaError, NotFound, Unavailable
from lamella.images.create import Recipe
from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from lamella.spec.digest import Digest
from lamella.testing import consistency, refuses
from support import building
from support.trees import assert_same, read_view

ROOT = building.tar(
    building.directory("d"), building.file("d/x", "some text, " * 9_000), building.file("y", os.urandom(50_000))
)
OURS = [(Compression.GZIP, None), (Compression.GZIP, 1), (Compression.GZIP, 6), (Compression.ZSTD, None),
        (Compression.ZSTD, 11)]  # fmt: skip


def made_here(store, disk, compression=Compression.GZIP, level=None, *, name="it"):
    """An image whose layer was compressed by this Lamella."""
    (disk / "root.tar.xz").write_bytes(compressed_elsewhere(ROOT))
    return store.import_rootfs(disk / "root.tar.xz", name, recipe=Recipe(compression=compression, level=level))


def compressed_elsewhere(tar):
    import lzma

    return lzma.compress(tar, preset=0)


def not_ours(store, disk, *, tag="foreign"):
    """An image whose layer nothing here compresses the same way."""
    store.load(building.layout(disk / f"layout-{tag}", [ROOT], tag=tag))
    return store.image(tag)


def blob_path(store, digest):
    return store.root / "blobs" / digest.algorithm / digest.hex


def kinds(report):
    return sorted(item.kind for item in report.items)


def listed(store):
    """The names in index.json, as other tools see them."""
    index = json.loads((store.root / "index.json").read_text())
    return sorted(entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"])


class TestCompressed:
    @pytest.mark.parametrize(("compression", "level"), OURS)
    def test_a_blob_that_is_made_again_byte_for_byte_goes_and_comes(self, store, disk, compression, level):
        image = made_here(store, disk, compression, level)
        (layer,) = image.layers
        path, files = blob_path(store, layer.digest), read_view(image)
        data = path.read_bytes()
        report = store.prune(compressed=True)
        assert [(item.kind, item.name) for item in report.items] == [("blob", str(layer.digest))]
        assert report.size >= len(data)
        assert not path.exists()
        assert store.content.exists(layer.digest, len(data))
        assert store.content.info(layer.digest).size == len(data)
        assert store.content.read(layer.digest, limit=len(data)) == data
        with layer.open() as reader:
            assert reader.read() == data
        assert not path.exists()  # reading it needs no space
        assert store.content.path(layer.digest) == path
        assert path.read_bytes() == data
        assert_same(read_view(store.image("it")), files)

    def test_the_recipe_is_found_without_having_been_noted(self, store, disk):
        made_here(store, disk, Compression.GZIP, 7)
        store.save(["it"], disk / "it.tar")
        with lamella.Store.open(disk / "other") as other:
            other.load(disk / "it.tar")
            (layer,) = other.image("it").layers
            assert other.catalog.blob_recipe(layer.digest) is None
            assert kinds(other.prune(compressed=True)) == ["blob"]
            assert other.catalog.dropped_blob(layer.digest).recipe.startswith("gzip:7:")
            assert consistency.problems(other) == []

    def test_a_committed_layer_goes_and_the_foreign_one_below_it_stays(self, store, disk):
        image = not_ours(store, disk)
        with store.prepare(image, "s", driver="copy") as snapshot, snapshot.mount() as root:
            (root / "new").write_text("new" * 1000)
        child = snapshot.commit("child")
        snapshot.remove()
        lower, upper = child.layers
        report = store.prune(compressed=True)
        assert [item.name for item in report.items] == [str(upper.digest)]
        assert blob_path(store, lower.digest).exists()
        assert not blob_path(store, upper.digest).exists()
        assert child.open("new").read() == b"new" * 1000

    def test_a_dry_run_tells_and_does_nothing(self, store, disk):
        made_here(store, disk)
        before = sorted(path.relative_to(store.root) for path in store.root.rglob("*"))
        told = store.prune(compressed=True, trees=True, dry_run=True)
        assert sorted(path.relative_to(store.root) for path in store.root.rglob("*")) == before
        assert "blob" in kinds(told)
        assert listed(store) == ["it:latest"]

    def test_nothing_is_dropped_twice(self, store, disk):
        made_here(store, disk)
        assert kinds(store.prune(compressed=True)) == ["blob"]
        assert kinds(store.prune(compressed=True)) == []

    def test_a_blob_that_is_one_file_with_its_tar_stays(self, store, disk):
        image = made_here(store, disk, Compression.NONE)
        assert kinds(store.prune(compressed=True)) == []
        assert blob_path(store, image.layers[0].digest).exists()

    def test_a_copy_of_the_tar_becomes_one_file_with_it(self, store, disk):
        (layer,) = made_here(store, disk, Compression.NONE).layers
        tar = store.layers.path(layer.diff_id) / TAR_NAME
        shutil.copyfile(tar, disk / "copy")
        os.replace(disk / "copy", tar)
        assert kinds(store.prune(compressed=True)) == ["blob"]
        assert tar.samefile(blob_path(store, layer.digest))
        assert listed(store) == ["it:latest"]

    def test_a_blob_whose_tar_is_damaged_stays(self, disk):
        with lamella.Store.open(disk / "damaged") as store:
            (layer,) = made_here(store, disk).layers
            with (store.layers.path(layer.diff_id) / TAR_NAME).open("r+b") as tar:
                tar.seek(2000)
                tar.write(b"!")
            assert kinds(store.prune(compressed=True)) == []
            assert blob_path(store, layer.digest).exists()

    def test_a_damaged_blob_stays(self, disk):
        with lamella.Store.open(disk / "damaged") as store:
            (layer,) = made_here(store, disk).layers
            with blob_path(store, layer.digest).open("r+b") as blob:
                blob.seek(2000)
                blob.write(b"!?!")
            assert kinds(store.prune(compressed=True, trees=True)) == []
            assert blob_path(store, layer.digest).exists()
            assert store.layers.has(layer.diff_id)

    def test_a_note_of_another_recipe_does_no_harm(self, store, disk):
        (layer,) = made_here(store, disk).layers
        for wrong in ("gzip:9:zlib 1.2.13", "no recipe", "gzip:2:isal 1.0.0 vax"):
            store.catalog.set_blob_recipe(layer.digest, wrong)
            assert kinds(store.prune(compressed=True, dry_run=True)) in ([], ["blob"])
        assert kinds(store.prune(compressed=True)) == ["blob"]


class TestUsedAfterwards:
    @pytest.fixture
    def pruned(self, store, disk):
        image = made_here(store, disk)
        data = blob_path(store, image.layers[0].digest).read_bytes()
        store.prune(compressed=True)
        return image, data

    @pytest.mark.parametrize("format", ["oci-dir", "oci-archive", "docker-archive"])
    def test_an_image_is_saved_as_it_was(self, store, pruned, disk, format):
        image, _ = pruned
        store.save(["it"], disk / "saved", format=format)
        with lamella.Store.open(disk / "other") as other:
            other.load(disk / "saved")
            assert other.image("it").id == image.id
            if format != "docker-archive":
                assert other.image("it").digest == image.digest
        assert kinds(store.prune(compressed=True, dry_run=True)) == []  # nothing came back to the disk

    def test_it_is_loaded_again_without_work(self, store, pruned, disk):
        store.save(["it"], disk / "saved")
        store.load(disk / "saved")
        assert not blob_path(store, pruned[0].layers[0].digest).exists()
        assert listed(store) == []

    def test_it_is_loaded_again_when_its_layer_is_gone(self, store, pruned, disk):
        image, data = pruned
        store.save(["it"], disk / "saved")
        shutil.rmtree(store.layers.path(image.layers[0].diff_id))
        store.load(disk / "saved")
        assert blob_path(store, image.layers[0].digest).read_bytes() == data
        assert store.catalog.dropped_blobs() == []
        assert listed(store) == ["it:latest"]

    def test_a_child_is_committed_and_pruned_too(self, store, pruned, disk):
        with store.prepare("it", "s", driver="copy") as snapshot, snapshot.mount() as root:
            (root / "new").write_text("new")
        child = snapshot.commit("child")
        store.prune(compressed=True)
        store.save(["child"], disk / "child.tar")
        with lamella.Store.open(disk / "other") as other:
            other.load(disk / "child.tar")
            assert other.image("child").digest == child.digest

    def test_other_tools_do_not_see_an_image_that_lacks_a_blob(self, store, pruned, disk):
        not_ours(store, disk)
        assert listed(store) == ["foreign:latest"]
        assert consistency.layout_problems(store.root) == []
        assert kinds(store.restore_blobs()) == ["blob"]
        assert listed(store) == ["foreign:latest", "it:latest"]
        assert store.catalog.dropped_blobs() == []
        assert kinds(store.restore_blobs()) == []

    def test_its_layer_is_not_dropped_too(self, store, pruned):
        assert "tar" not in kinds(store.prune(trees=True))
        assert store.layers.has(pruned[0].layers[0].diff_id)

    def test_an_index_that_is_lost_is_made_of_the_tar(self, store, pruned):
        image, _ = pruned
        files = read_view(image)
        directory = store.layers.path(image.layers[0].diff_id)
        (directory / INDEX_NAME).write_bytes(b"damaged")
        inode = (directory / TAR_NAME).stat().st_ino
        with lamella.Store.open(store.root) as other:
            assert_same(read_view(other.image("it")), files)
        assert (directory / TAR_NAME).stat().st_ino == inode

    def test_removing_the_image_forgets_all_of_it(self, store, pruned):
        store.remove(["it"])
        assert store.catalog.dropped_blobs() == []
        assert consistency.leftovers(store) == []
        blob = pruned[0].layers[0].digest
        assert store.catalog.blob_recipe(blob) is None
        assert not store.content.exists(blob)

    def test_gc_takes_nothing_of_it(self, store, pruned):
        assert store.gc().items == []
        assert store.content.read(pruned[0].layers[0].digest, limit=1 << 20) == pruned[1]

    def test_a_lost_layer_is_told(self, disk):
        with lamella.Store.open(disk / "lost") as store:
            image = made_here(store, disk)
            store.prune(compressed=True)
            shutil.rmtree(store.layers.path(image.layers[0].diff_id))
        with lamella.Store.open(disk / "lost") as store:
            with refuses(Integrity, "layer-lost"):
                list(store.image("it").walk())
            with refuses(Integrity, "layer-lost"):
                store.save(["it"], disk / "saved")
            assert not (disk / "saved").exists()

    def test_a_damaged_tar_never_passes_for_the_blob(self, disk):
        with lamella.Store.open(disk / "damaged") as store:
            (layer,) = made_here(store, disk).layers
            store.prune(compressed=True)
            with (store.layers.path(layer.diff_id) / TAR_NAME).open("r+b") as tar:
                tar.seek(2000)
                tar.write(b"!")
            with pytest.raises(Integrity):
                store.content.path(layer.digest)
            with pytest.raises(Integrity):
                store.save(["it"], disk / "saved")
            assert not blob_path(store, layer.digest).exists()

    @pytest.mark.parametrize("works", [True, False])
    def test_another_version_of_the_library_is_tried(self, store, pruned, works):
        (layer,) = pruned[0].layers
        record = store.catalog.dropped_blob(layer.digest)
        level = record.recipe.split(":")[1] if works else "9"
        store.catalog.add_dropped_blob(replace(record, recipe=f"gzip:{level}:some library 1.0"))
        if works:
            assert store.content.read(layer.digest, limit=1 << 20) == pruned[1]
            assert store.catalog.dropped_blob(layer.digest).recipe == record.recipe
            return
        with refuses(FailedPrecondition, "blob-not-reproducible", naming="some library 1.0"):
            store.content.read(layer.digest, limit=1 << 20)
        store.catalog.add_dropped_blob(record)


class Registry:
    """Implements upkeep.restore.Refetch with blobs in memory."""

    def __init__(self, blobs):
        self.blobs = {Digest.of(blob): blob for blob in blobs}
        self.reachable = True
        self.asked = []

    def has(self, repository, digest, size):
        self._ask(repository)
        return digest in self.blobs

    def open(self, repository, digest, size):
        import io

        self._ask(repository)
        if digest not in self.blobs:
            raise NotFound("no such blob", code="blob-not-found")
        return io.BytesIO(self.blobs[digest])

    def _ask(self, repository):
        self.asked.append(repository)
        if not self.reachable or repository == "example.com/gone":
            raise Unavailable("it does not answer", code="registry-unavailable")


class TestFetchedAgain:
    BLOB = gzip.compress(ROOT, 1, mtime=0)

    @pytest.fixture
    def registry(self, store):
        store.restorer.refetch = registry = Registry([self.BLOB])
        yield registry
        registry.reachable = True

    def test_a_blob_that_a_registry_has_goes_and_comes(self, store, disk, registry):
        (layer,) = not_ours(store, disk).layers
        assert kinds(store.prune(compressed=True)) == []
        for repository in ("example.com/base", "example.com/gone"):
            store.catalog.add_blob_source(layer.digest, repository)
        assert kinds(store.prune(compressed=True)) == ["blob"]
        assert registry.asked == ["example.com/gone", "example.com/base"]
        assert store.content.read(layer.digest, limit=1 << 20) == self.BLOB
        store.save(["foreign"], disk / "saved")
        assert kinds(store.restore_blobs()) == ["blob"]

    def test_a_layer_is_made_again_from_the_registry(self, store, disk, registry):
        image = not_ours(store, disk)
        files = read_view(image)
        (layer,) = image.layers
        store.catalog.add_blob_source(layer.digest, "example.com/base")
        store.prune(compressed=True)
        shutil.rmtree(store.layers.path(layer.diff_id))
        assert_same(read_view(store.image("foreign")), files)

    def test_what_the_registry_has_no_longer_is_kept(self, store, disk, registry):
        (layer,) = not_ours(store, disk).layers
        store.catalog.add_blob_source(layer.digest, "example.com/base")
        registry.blobs.clear()
        assert kinds(store.prune(compressed=True)) == []

    def test_a_registry_that_does_not_answer_is_told(self, store, disk, registry):
        (layer,) = not_ours(store, disk).layers
        store.catalog.add_blob_source(layer.digest, "example.com/base")
        store.prune(compressed=True)
        registry.reachable = False
        with refuses(Unavailable, "registry-unavailable"):
            store.content.read(layer.digest, limit=1 << 20)
        with lamella.Store.open(store.root) as alone, refuses(NotFound, "blob-not-reachable"):
            alone.content.read(layer.digest, limit=1 << 20)

    def test_wrong_bytes_from_a_registry_are_refused(self, store, disk, registry):
        (layer,) = not_ours(store, disk).layers
        store.catalog.add_blob_source(layer.digest, "example.com/base")
        store.prune(compressed=True)
        right, registry.blobs[layer.digest] = registry.blobs[layer.digest], self.BLOB[:-1] + b"!"
        with refuses(Integrity, "digest-mismatch"):
            store.content.path(layer.digest)
        registry.blobs[layer.digest] = right


class TestTrees:
    def test_what_can_be_made_again_goes_and_comes(self, store, disk, driver):
        image = not_ours(store, disk)
        files = read_view(image)
        snapshot = store.prepare(image, "s", driver=driver)
        with snapshot.mount() as root:
            (root / "new").write_text("new")
        report = store.prune(trees=True)
        assert "tar" in kinds(report)
        assert list(store.trees.walk()) == list(store.rootfs.walk()) == []
        assert not (store.layers.path(image.layers[0].diff_id) / TAR_NAME).exists()
        assert_same(read_view(store.image("foreign")), files)
        with snapshot.mount() as root:
            assert (root / "new").read_text() == "new"
            assert (root / "d/x").read_text() == "some text, " * 9_000
        assert [str(change) for change in snapshot.changes()] == ["A /new"]

    def test_what_is_mounted_keeps_what_it_stands_on(self, store, disk, driver):
        image = not_ours(store, disk)
        with store.prepare(image, "s", driver=driver) as snapshot, snapshot.mount() as root:
            before = sorted(path.relative_to(store.root) for path in store.root.glob("[!i]*/*/*"))
            assert store.prune(trees=True).items == []
            assert sorted(path.relative_to(store.root) for path in store.root.glob("[!i]*/*/*")) == before
            assert (root / "d/x").read_text() == "some text, " * 9_000

    def test_what_an_operation_works_on_stays(self, store, disk):
        image = not_ours(store, disk)
        with store.lease("work") as lease:
            lease.hold(image.digest)
            assert store.prune(trees=True).items == []
        assert kinds(store.prune(trees=True)) == ["tar"]

    def test_lists_need_no_tar(self, store, disk):
        image = not_ours(store, disk)
        store.prune(trees=True)
        assert image.stat("d/x").size == 99_000
        assert [info.path for info in image.walk()] == [b"", b"d", b"d/x", b"y"]
        assert not store.layers.has(image.layers[0].diff_id)

    def test_a_tar_whose_blob_is_damaged_stays(self, disk):
        with lamella.Store.open(disk / "damaged") as store:
            (layer,) = not_ours(store, disk).layers
            with blob_path(store, layer.digest).open("r+b") as blob:
                blob.seek(2000)
                blob.write(b"!?!")
            assert kinds(store.prune(trees=True)) == []
            assert store.layers.has(layer.diff_id)

    def test_of_blob_and_tar_one_stays(self, store, disk):
        made_here(store, disk)
        not_ours(store, disk)
        report = store.prune(compressed=True, trees=True)
        assert kinds(report) == ["blob"]  # one layer, two blobs: the one that was dropped needs the tar
        (first,), (second,) = (store.image(name).layers for name in ("it", "foreign"))
        assert store.layers.has(first.diff_id)
        assert not blob_path(store, first.digest).exists()
        assert blob_path(store, second.digest).exists()
        assert kinds(store.prune(trees=True)) == []

    def test_it_is_loaded_again(self, store, disk):
        image = not_ours(store, disk)
        store.prune(trees=True)
        store.load(disk / "layout-foreign")
        assert store.layers.has(image.layers[0].diff_id)

    def test_a_tar_that_goes_between_two_looks_is_made_again(self, store, disk):
        image = not_ours(store, disk)
        source = store.layers.source(image.layers[0].diff_id)
        with lamella.Store.open(store.root) as other:
            other.prune(trees=True)
        with source.open(image.layers[0].index.entries[1]) as file:
            assert file.read(11) == b"some text, "


KILLED = """
import os, signal, sys, lamella
from pathlib import Path
from lamella.testing import trace
step = int(sys.argv[2])
seen = 0
def count(event, arguments):
    global seen
    if event in ("os.rename", "os.link", "os.remove", "sqlite3.connect", "open", "os.mkdir", "os.rmdir"):
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
store = lamella.Store.open(sys.argv[1])
sys.addaudithook(count)
store.prune(compressed=True, trees=True)
print("done", seen)
"""


def test_killed_at_any_moment_nothing_is_lost(store, disk):
    with lamella.Store.open(disk / "model") as model:
        made = made_here(model, disk)
        not_ours(model, disk)
        own = building.tar(building.file("own", "own" * 9_000))
        model.load(building.layout(disk / "layout-own", [own], tag="own"))
        with model.prepare("it", "s", driver="copy"):
            pass
        files = read_view(made)
    step, ended = 0, False
    while not ended:
        step += 2
        place = disk / f"killed-{step}"
        shutil.copytree(disk / "model", place, symlinks=True)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(place), str(step)], check=False, capture_output=True, text=True
        )
        ended = done.returncode == 0
        assert ended or done.returncode == -9, done.stderr
        with lamella.Store.open(place) as left:
            left.gc()
            assert consistency.problems(left) == []
            assert consistency.leftovers(left) == []
            assert_same(read_view(left.image("it")), files)
            left.restore_blobs()
            assert consistency.layout_problems(place) == []
            assert listed(left) == ["foreign:latest", "it:latest", "own:latest"]
            left.snapshot("s").remove()
        shutil.rmtree(place)
    assert step > 10


def test_beside_others_at_work_nothing_is_lost(store, disk):
    made_here(store, disk)
    layouts = [
        building.layout(
            disk / f"at-work-{n}", [ROOT, building.tar(building.file(f"own{n}", f"{n}" * 9_000))], tag=f"t{n}"
        )
        for n in range(2)
    ]
    import threading

    failures = []
    ended = threading.Event()

    def work(number):
        try:
            with lamella.Store.open(store.root) as mine:
                for turn in range(4):
                    mine.load(layouts[number])
                    with mine.prepare(f"t{number}", driver="copy") as snapshot:
                        with snapshot.mount() as root:
                            assert (root / f"own{number}").read_text() == f"{number}" * 9_000
                            (root / "new").write_text(str(turn))
                        snapshot.commit(f"c{number}")
                    snapshot.remove()
                    mine.save([f"c{number}", "it"], disk / f"saved-{number}-{turn}")
                    assert mine.image("it").open("d/x").read(4) == b"some"
                    mine.remove([f"c{number}", f"t{number}"], force=True)
        except (LamellaError, OSError, AssertionError) as error:
            failures.append(error)

    def prune():
        try:
            with lamella.Store.open(store.root) as mine:
                while not ended.is_set():
                    mine.prune(compressed=True, trees=True)
                    mine.gc()
        except (LamellaError, OSError) as error:
            failures.append(error)

    pruner = threading.Thread(target=prune)
    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in (pruner, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    ended.set()
    pruner.join()
    assert failures == []
