"""What can be made again is made again: unpacked layers and their indexes, from the blobs."""

from __future__ import annotations

import shutil
import threading

import pytest

import lamella
from lamella.errors import Integrity, LamellaError
from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from support import building
from support.trees import assert_same, read_view

LOWER = building.tar(building.directory("d"), building.file("d/x", "x" * 70_000), building.file("gone"))
UPPER = building.tar(building.gone("gone"), building.file("y", "y" * 20_000))


@pytest.fixture
def stored(store, disk):
    """An image of two layers, and its files as they are."""
    store.load(building.layout(disk / "layout", [LOWER, UPPER], tag="it"))
    return store.image("it"), read_view(store.image("it"))


def _without(path):
    shutil.rmtree(path)


def _without_index(path):
    (path / INDEX_NAME).unlink()


def _without_tar(path):
    (path / TAR_NAME).unlink()


def _with_a_wrong_byte_in_the_index(path):
    data = bytearray((path / INDEX_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (path / INDEX_NAME).write_bytes(data)


def _with_half_an_index(path):
    data = (path / INDEX_NAME).read_bytes()
    (path / INDEX_NAME).write_bytes(data[: len(data) // 2])


def _with_an_empty_index(path):
    (path / INDEX_NAME).write_bytes(b"")


def _with_another_layer_s_index(path):
    other = next(other for other in path.parent.iterdir() if other != path)
    shutil.copy(other / INDEX_NAME, path / INDEX_NAME)


def _with_half_a_tar(path):
    with (path / TAR_NAME).open("r+b") as tar:
        tar.truncate(5000)


def _with_a_directory_for_a_tar(path):
    (path / TAR_NAME).unlink()
    (path / TAR_NAME).mkdir()


def _with_a_directory_for_an_index(path):
    (path / INDEX_NAME).unlink()
    (path / INDEX_NAME).mkdir()


def _a_file(path):
    shutil.rmtree(path)
    path.write_bytes(b"no layer")


DAMAGES = [
    _with_a_directory_for_a_tar,
    _with_a_directory_for_an_index,
    _a_file,
    _without,
    _without_index,
    _without_tar,
    _with_a_wrong_byte_in_the_index,
    _with_half_an_index,
    _with_an_empty_index,
    _with_another_layer_s_index,
    _with_half_a_tar,
]


@pytest.mark.parametrize("damage", DAMAGES)
class TestDamaged:
    def test_a_layer_is_made_again_when_files_are_read(self, store, stored, damage):
        image, files = stored
        damage(store.layers.path(image.diff_ids[0]))
        with lamella.Store.open(store.root) as other:
            assert_same(read_view(other.image("it")), files)

    def test_a_layer_is_made_again_when_it_is_given_out(self, store, stored, damage):
        image, _ = stored
        damage(store.layers.path(image.diff_ids[1]))
        with lamella.Store.open(store.root) as other:
            layer = other.image("it").layers[1]
            assert b"".join(layer.tar()) == UPPER
            assert (layer.tar_size, layer.content_size) == (len(UPPER), 20_000)


def test_the_store_that_has_it_in_memory_goes_on(store, stored):
    image, files = stored
    for diff_id in image.diff_ids:
        _without(store.layers.path(diff_id))
    assert_same(read_view(store.image("it")), files)


@pytest.mark.parametrize("damage", [_without, _with_half_an_index, _with_half_a_tar])
def test_a_snapshot_can_be_prepared_on_a_damaged_layer(store, stored, damage, driver):
    image, _ = stored
    damage(store.layers.path(image.diff_ids[0]))
    with lamella.Store.open(store.root) as other:
        snapshot = other.prepare("it", driver=driver)
        with snapshot.mount() as root:
            assert (root / "d/x").read_text() == "x" * 70_000
        assert snapshot.changes() == []
        snapshot.remove()


def test_many_threads_that_miss_one_layer_make_it_once(store, stored):
    image, files = stored
    for diff_id in image.diff_ids:
        _without(store.layers.path(diff_id))
    failures = []

    def read():
        try:
            with lamella.Store.open(store.root) as other:
                assert_same(read_view(other.image("it")), files)
        except (AssertionError, LamellaError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_wrong_byte_in_the_tar_is_told_by_whoever_reads_all_of_it(disk):
    with lamella.Store.open(disk / "damaged") as store:
        store.load(building.layout(disk / "layout", [LOWER], tag="it"))
        (layer,) = store.image("it").layers
        with (store.layers.path(layer.diff_id) / TAR_NAME).open("r+b") as tar:
            tar.seek(3000)
            tar.write(b"!")
        with pytest.raises(Integrity) as found:
            for _ in layer.tar():
                pass
        assert found.value.code == "layer-damaged"


def test_a_layer_whose_blob_is_damaged_cannot_be_made_again(disk):
    with lamella.Store.open(disk / "damaged") as store:
        store.load(building.layout(disk / "layout", [LOWER], tag="it"))
        image = store.image("it")
        blob = store.content.path(image.layers[0].digest)
        data = bytearray(blob.read_bytes())
        data[-6] ^= 1
        blob.chmod(0o644)
        blob.write_bytes(data)
        _without(store.layers.path(image.diff_ids[0]))
    with lamella.Store.open(disk / "damaged") as store:
        with pytest.raises(Integrity):
            list(store.image("it").walk())
        assert not store.layers.path(image.diff_ids[0]).exists()
        assert [path.name for path in (store.root / "ingest").iterdir() if path.name != "layout.lock"] == []


TREE_DAMAGES = {
    "gone": shutil.rmtree,
    "a file": lambda path: (shutil.rmtree(path), path.write_bytes(b"no tree")),
    "without its mark": lambda path: path.with_name(f"{path.name}.boot").unlink(),
    "of another boot": lambda path: path.with_name(f"{path.name}.boot").write_text("another"),
    "with a damaged mark": lambda path: path.with_name(f"{path.name}.boot").write_bytes(b"\xff\xfe"),
}


@pytest.mark.needs_driver("overlay")
@pytest.mark.parametrize("damage", TREE_DAMAGES)
def test_a_damaged_directory_of_a_layer_is_made_again(store, stored, damage):
    snapshot = store.prepare("it", "s", driver="overlay")
    for form, chain_id in list(store.trees.walk()):
        TREE_DAMAGES[damage](store.trees.path(form, chain_id))
    with lamella.Store.open(store.root) as other, other.snapshot("s").mount() as root:
        assert (root / "d/x").read_text() == "x" * 70_000
        assert not (root / "gone").exists()
    snapshot.remove()


def test_directories_of_layers_are_made_again(store, stored):
    snapshot = store.prepare("it", driver="copy")
    snapshot.remove()
    shutil.rmtree(store.root / "trees", ignore_errors=True)
    with store.prepare("it", driver="copy") as again, again.mount() as root:
        assert (root / "y").read_text() == "y" * 20_000
