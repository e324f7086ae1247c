"""Images mounted in place when something goes wrong below them, beside them, or in another mount namespace."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lamella
from lamella import Snapshot, Store
from lamella._sys import mountinfo
from lamella.errors import Conflict, FailedPrecondition, LamellaError, NotFound
from lamella.layers.ingest import TAR_NAME
from lamella.testing.consistency import leftovers, problems
from support import building, needs

BIG = random.Random(1).randbytes(300_000)
DATA = b"data" * 2_000

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_driver("erofs")]


@pytest.fixture
def images(store: Store, disk: Path) -> Store:
    """A store with the images ``one`` and ``two``, which share a layer; the first needs a side file."""
    sparse = disk / "sparse"
    sparse.mkdir()
    with (sparse / "holes").open("wb") as stream:
        stream.seek(300_000)
        stream.write(DATA)
        stream.truncate(900_000)
    command = ["tar", "--create", "--format=posix", "--sparse", "--owner=0", "--group=0", "-C", sparse, "holes"]
    lower = subprocess.run(command, capture_output=True, check=True).stdout
    shared = building.tar(building.directory("d"), building.file("d/f", "hello\n"), building.file("big", BIG))
    store.load(building.layout(disk / "one", [shared, lower], tag="one"))
    store.load(building.layout(disk / "two", [shared, building.tar(building.file("other", "2"))], tag="two"))
    return store


def prepare(store: Store, image: str, key: str) -> Snapshot:
    return store.prepare(image, key, driver="erofs")


def assert_right(snapshot: Snapshot) -> None:
    """Mounted, it shows what the image has."""
    with snapshot.mount() as root:
        assert_shown(root)


def assert_shown(root: Path) -> None:
    assert (root / "d/f").read_text() == "hello\n"
    assert (root / "big").read_bytes() == BIG
    if (root / "holes").exists():
        assert (root / "holes").read_bytes() == bytes(300_000) + DATA + bytes(900_000 - 300_000 - len(DATA))
    else:
        assert (root / "other").read_text() == "2"


def mounts_of(store: Store) -> list[str]:
    """The types of what is mounted in the store's directory."""
    return [point.fs_type for point in mountinfo.mount_points() if point.target.is_relative_to(store.root)]


def files_of(store: Store, name: str) -> list[Path]:
    """The files of a name that images have."""
    return sorted((store.root / "rootfs").glob(f"*/{name}"))


# -- damage


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _other(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {"cut": _cut, "gone": Path.unlink, "a-link-to-itself": _loop, "a-directory": _directory, "a-bit": _other}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["metadata", "side", "record"])
def test_what_is_damaged_is_made_anew_though_it_is_mounted(images: Store, name: str, damage: str):
    first, second = prepare(images, "one", "first"), prepare(images, "one", "second")
    held = first.attach()
    (path,) = files_of(images, name)
    DAMAGES[damage](path)
    with lamella.Store.open(images.root) as again:
        with again.snapshot("second").mount() as root:
            assert_shown(root)
            if damage == "gone":  # others reach the file that the kernel has open
                assert_shown(held.root)
        first.detach()
    assert mounts_of(images) == []
    assert_right(second)


def test_a_file_in_the_place_of_an_image(images: Store):
    snapshot = prepare(images, "one", "key")
    (place,) = {path.parent for path in files_of(images, "metadata")}
    shutil.rmtree(place)
    place.write_text("not an image")
    assert_right(snapshot)


@pytest.mark.parametrize("damage", ["cut", "gone", "a-directory"])
def test_a_damaged_tar_is_made_anew_for_every_image_that_shares_it(images: Store, damage: str):
    """And is not mounted again just because it was mounted before."""
    keys = [("one", "a"), ("two", "b"), ("one", "c"), ("two", "d")]
    a, b, c, d = (prepare(images, image, key) for image, key in keys)
    a.attach()
    b.attach()
    diff_id = images.image("one").diff_ids[0]
    DAMAGES[damage](images.layers.path(diff_id) / TAR_NAME)
    with lamella.Store.open(images.root) as again:
        for key in ("c", "d"):
            assert_right(again.snapshot(key))
    for snapshot in (a, b):
        snapshot.detach()
        assert_right(snapshot)
    assert mounts_of(images) == []
    assert_right(c)
    assert_right(d)


def test_a_layer_that_cannot_be_made_anew_is_named(images: Store):
    snapshot = prepare(images, "one", "key")
    image = images.image("one")
    blob = images.content.path(image.layers[0].digest)
    assert blob is not None
    kept = blob.rename(images.root.parent / "kept")
    (images.layers.path(image.diff_ids[0]) / TAR_NAME).unlink()
    with pytest.raises(LamellaError) as caught:
        snapshot.attach()
    assert image.diff_ids[0].hex in f"{caught.value.layer} {caught.value.subject}"
    assert mounts_of(images) == []
    kept.rename(blob)
    assert_right(snapshot)


# -- lifetimes


def test_what_others_unmounted_is_let_go_when_its_snapshot_is_removed(images: Store):
    one, two = prepare(images, "one", "one"), prepare(images, "two", "two")
    for snapshot in (one, two):
        subprocess.run(["umount", str(snapshot.attach().root)], check=True)
    assert mounts_of(images) == ["erofs", "erofs"]
    one.remove()
    two.remove()
    assert mounts_of(images) == []


def test_a_store_whose_snapshots_are_gone_can_be_deleted(images: Store, disk: Path):
    root = disk / "other"
    with lamella.Store.open(root) as store:
        store.load(disk / "one")
        for number in range(3):
            prepare(store, "one", f"key-{number}").attach()
        for snapshot in store.snapshots():
            snapshot.remove(force=True)
        assert mounts_of(store) == []
    shutil.rmtree(root)
    assert [path for path in _loop_files() if str(disk) in path] == []


def _loop_files() -> Iterator[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield path.read_text()
        except OSError:
            continue


def test_snapshots_are_listed_while_others_are_removed(images: Store):
    stop = threading.Event()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not stop.is_set():
                for number in range(3):
                    prepare(images, "two", f"passing-{number}")
                for number in range(3):
                    images.snapshot(f"passing-{number}").remove()
        except LamellaError as error:
            failures.append(error)

    prepare(images, "one", "here")
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            assert "here" in [snapshot.key for snapshot in images.snapshots()]
    finally:
        stop.set()
        thread.join()
    assert failures == []


# -- mount namespaces

_MOUNT = """
import sys, lamella
with lamella.Store.open(sys.argv[1]) as store:
    root = store.snapshot(sys.argv[2]).attach().root
    print((root / "d/f").read_text(), end="", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(images: Store) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Runs a program in a mount namespace of its own and waits for its first line; it ends when its input does."""
    needs.tool("unshare")
    started: list[subprocess.Popen[str]] = []

    def run(*program: str) -> subprocess.Popen[str]:
        command = ["unshare", "--mount", "--propagation", "private", *program]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        return process

    yield run
    for process in started:
        process.communicate()


def test_mounted_in_another_namespace(images: Store, elsewhere: Callable[..., subprocess.Popen[str]]):
    inside, outside = prepare(images, "one", "inside"), prepare(images, "one", "outside")
    process = elsewhere(sys.executable, "-c", _MOUNT, str(images.root), "inside")
    assert mounts_of(images) == []
    assert inside.mounted is not None
    with pytest.raises(Conflict, match="another mount namespace"):
        inside.detach()
    with pytest.raises(Conflict, match="another mount namespace"):
        inside.remove(force=True)
    with pytest.raises(FailedPrecondition):
        inside.attach()
    with inside.files.open("d/f") as stream:
        assert stream.read() == b"hello\n"
    assert_right(outside)
    images.gc()
    process.communicate()
    assert inside.mounted is None
    assert_right(inside)
    assert mounts_of(images) == []


def test_a_namespace_that_has_copied_a_mount(images: Store, elsewhere: Callable[..., subprocess.Popen[str]]):
    """The kernel would let the branch be mounted a second time, and damage it."""
    snapshot = prepare(images, "one", "key")
    snapshot.attach()
    process = elsewhere("sh", "-c", "echo hello; read x; true")
    snapshot.detach()
    with pytest.raises(FailedPrecondition, match="mounted"):
        snapshot.attach()
    with pytest.raises((Conflict, FailedPrecondition)):
        snapshot.roll_back()
    process.communicate()
    assert_right(snapshot)
    snapshot.remove()
    with pytest.raises(NotFound):
        images.snapshot("key")
    assert mounts_of(images) == []


# -- many at once

_BUSY = """
import os, random, sys, lamella
from lamella.errors import LamellaError, NotFound
root, seed = sys.argv[1], int(sys.argv[2])
chance, me = random.Random(seed), f"p{seed}-{os.getpid()}-"
with lamella.Store.open(root, driver="erofs") as store:
    for number in range(int(sys.argv[3])):
        mine = [snapshot for snapshot in store.snapshots() if snapshot.key.startswith(me)]
        act = chance.choice(["prepare", "mount", "mount", "remove", "gc"])
        if act == "gc":
            store.gc()
        elif act == "prepare" or not mine:
            store.prepare(chance.choice(["one", "two"]), f"{me}{number}", writable=chance.random() < 0.8)
        elif act == "remove":
            chance.choice(mine).remove()
        else:
            with chance.choice(mine).mount() as shown:
                assert (shown / "d/f").read_text() == "hello\\n"
                assert (shown / "big").stat().st_size == 300_000
        print(number, flush=True)
"""


@pytest.mark.timeout(300)
def test_processes_share_the_mounts_of_images_some_killed(images: Store):
    chance = random.Random(7)
    for kill in (False, True):
        started = []
        for seed in range(3):
            command = [sys.executable, "-c", _BUSY, str(images.root), str(seed), "40"]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for process in started[1:] if kill else ():
            assert process.stdout is not None
            for _ in range(chance.randrange(5, 30)):
                process.stdout.readline()
            process.kill()
        for process in started:
            _, errors = process.communicate()
            assert process.returncode == 0 or (kill and process.returncode == -9), errors
    for snapshot in images.snapshots():
        snapshot.remove(force=True)
    images.gc()
    assert mounts_of(images) == []
    assert [*problems(images), *leftovers(images)] == []
