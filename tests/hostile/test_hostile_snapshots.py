"""What a process in a mounted snapshot may leave behind, and what commit, changes, fork, copying and removing make of it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from build import directory, file, hardlink, layout, pax, symlink, tar
from hostile_world import World, a_place

from lamella import Image, Snapshot
from lamella.errors import FailedPrecondition, InvalidInput, LamellaError, ResourceExhausted, Unsupported
from lamella.store.copying import select, to_host, to_snapshot
from support import needs

NAME = "hostile:1"
_NAME_MAX = b"n" * 255
_TREE = tar(
    directory(b"d"), file(b"d/f", b"1"), file(b"d/g", b"2"), directory(b"e"), file(b"e/h", b"3"), file(_NAME_MAX),
    symlink(b"link", b"d"),
)  # fmt: skip


@pytest.fixture(scope="module")
def world(real_disk: Path) -> Iterator[World]:
    needs.root()
    with a_place(real_disk) as place:
        found = World(place)
        yield found
        found.close()


@pytest.fixture(params=["overlay", "copy"])
def mounted(request: pytest.FixtureRequest, world: World) -> Iterator[tuple[World, Snapshot, Path]]:
    """A snapshot of a small tree, mounted; what the test did must have harmed nothing when it is gone again."""
    needs.driver(request.param, world.place)
    with world.unharmed():
        snapshot = _prepared(world, request.param, _TREE)
        try:
            with snapshot.mount() as root:
                yield world, snapshot, root
        finally:
            world.clear()


def _prepared(world: World, driver: str, *layers: bytes) -> Snapshot:
    with world.scratch() as scratch:
        world.store.load(layout(*layers, name=NAME).write(scratch / "layout"))
    return world.store.prepare(NAME, "hostile", driver=driver)


def _refused(call: Callable[[], object], kind: type[LamellaError], code: str, entry: bytes) -> None:
    with pytest.raises(LamellaError) as caught:
        call()
    assert (type(caught.value), caught.value.code, caught.value.entry) == (kind, code, entry), str(caught.value)


def _commit(snapshot: Snapshot) -> Image:
    return snapshot.commit("hostile:2")


@pytest.mark.parametrize("name", [b".wh.f", b".wh.", b".wh..wh..opq", b".wh..wh.plnk", b"d/.wh.g"])
def test_a_file_that_a_layer_would_take_for_a_whiteout_is_not_committed(mounted, name) -> None:
    _world, snapshot, root = mounted
    (root / os.fsdecode(name)).touch()
    before = [str(change) for change in snapshot.changes()]
    assert f"A /{name.decode()}" in before
    _refused(lambda: _commit(snapshot), InvalidInput, "whiteout-like-name", name)
    assert [str(change) for change in snapshot.changes()] == before


def test_a_name_too_long_for_its_whiteout_is_not_committed(mounted) -> None:
    _world, snapshot, root = mounted
    (root / os.fsdecode(_NAME_MAX)).unlink()
    _refused(lambda: _commit(snapshot), InvalidInput, "whiteout-name-long", _NAME_MAX)


def test_directories_3000_deep_are_refused_and_can_be_removed(mounted) -> None:
    world, snapshot, root = mounted
    at = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 3, dir_fd=at)
        below = os.open("d" * 3, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    for call in (snapshot.changes, lambda: _commit(snapshot)):
        with pytest.raises(ResourceExhausted) as caught:
            call()
        assert caught.value.code == "entry-path-long"
        assert caught.value.entry is not None
    world.store.usage()
    world.store.gc(dry_run=True)


def test_a_directory_that_became_a_link_out_is_committed_as_a_link(mounted) -> None:
    world, snapshot, root = mounted
    (root / "d" / "f").unlink()
    (root / "d" / "g").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to(world.canary)
    (root / "new").symlink_to("../../../../../../../../etc")
    child = _commit(snapshot)
    assert [str(change) for change in child.changes()] == ["C /d", "A /new"]
    assert child.readlink("d") == bytes(world.canary)
    assert not child.exists("d/passwd")


def test_pipes_sockets_and_devices_do_not_hold_up_a_commit(mounted) -> None:
    _world, snapshot, root = mounted
    os.mkfifo(root / "pipe")
    os.mknod(root / "device", 0o20600, os.makedev(5, 1))
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(root, os.O_PATH)
        bound.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    child = _commit(snapshot)
    assert [str(change) for change in child.changes()] == ["A /device", "A /pipe"]


def test_what_a_process_says_of_its_files_in_xattrs_changes_nothing(mounted) -> None:
    """No file becomes root's, setuid or a device, and no directory opaque, because an xattr says so."""
    _world, snapshot, root = mounted
    tool = root / "tool"
    tool.touch()
    os.chown(tool, 1000, 1000)
    os.setxattr(tool, "user.lamella.stat", b"0:0:4755:3:1:3")
    os.setxattr(root / "d", "user.overlay.opaque", b"y")
    os.setxattr(root / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "e", "user.fuseoverlayfs.opaque", b"y")
    os.setxattr(root / "e" / "h", "user.overlay.redirect", b"/d/f")
    os.setxattr(root / "e" / "h", "trusted.overlay.metacopy", b"")
    child = _commit(snapshot)
    info = child.stat("tool")
    assert (info.kind.name, info.mode, info.uid) == ("REGULAR", 0o644, 1000)
    assert [entry.path for entry in child.walk()] == [
        b"", b"d", b"d/f", b"d/g", b"e", b"e/h", b"link", _NAME_MAX, b"tool",
    ]  # fmt: skip
    assert child.open("e/h").read() == b"3"
    assert child.stat("d").xattrs == {b"trusted.overlay.opaque": b"y", b"user.overlay.opaque": b"y"}
    assert child.stat("tool").xattrs == {b"user.lamella.stat": b"0:0:4755:3:1:3"}


def test_an_upper_directory_that_was_tampered_with_is_not_guessed_at(world) -> None:
    needs.driver("overlay", world.place)
    with world.unharmed():
        snapshot = _prepared(world, "overlay", _TREE)
        (snapshot.upper / "d").mkdir()
        os.setxattr(snapshot.upper / "d", "trusted.overlay.redirect", b"/e")
        _refused(snapshot.changes, Unsupported, "overlay-redirect", b"d")
        _refused(lambda: _commit(snapshot), Unsupported, "overlay-redirect", b"d")
        world.clear()


@pytest.mark.parametrize("driver", ["overlay", "copy"])
def test_files_that_change_places_with_their_directories_are_changed(world, driver) -> None:
    """Same sizes, times, owners and modes: only the directories that they are in were moved."""
    needs.driver(driver, world.place)
    filler = [file(b"z%04d" % i, b"x" * 3000) for i in range(1500)]
    lower = tar(
        directory(b"a"), directory(b"b"), directory(b"c"), file(b"a/f", b"AAAA"), file(b"b/f", b"BBBB"),
        file(b"c/g", b"CCCC"), hardlink(b"a/g", b"a/f"), *filler,
    )  # fmt: skip
    with world.unharmed():
        snapshot = _prepared(world, driver, lower)
        time.sleep(0.02)  # the clock of file systems ticks this often: a change right after the making is always seen
        with snapshot.mount() as root:
            subprocess.run("mv a t && mv b a && mv t b && touch -d @1000 a b", shell=True, check=True, cwd=root)
            child = _commit(snapshot)
            assert child.open("a/f").read() == b"BBBB"
            assert child.open("b/f").read() == child.open("b/g").read() == b"AAAA"
        assert [str(change) for change in child.changes()] == ["C /a/f", "D /a/g", "C /b/f", "A /b/g"]
        world.clear()


def test_a_fork_of_a_hostile_snapshot_is_the_same_and_apart(mounted) -> None:
    world, snapshot, root = mounted
    (root / "d" / "f").unlink()
    (root / "d" / "f").symlink_to(world.canary / "secret")
    os.link(root / "d" / "g", root / "e" / "g")
    os.mkfifo(root / "e" / "pipe")
    fork = snapshot.fork("forked")
    assert [str(change) for change in fork.changes()] == [str(change) for change in snapshot.changes()]
    with fork.mount() as other:
        (other / "d" / "g").write_bytes(b"changed")
    assert (root / "d" / "g").read_bytes() == b"2"
    fork.roll_back()
    assert [str(change) for change in fork.changes()] == [str(change) for change in snapshot.changes()]


def test_a_mounted_snapshot_is_neither_removed_nor_rolled_back(mounted) -> None:
    _world, snapshot, _root = mounted
    for call in (snapshot.remove, snapshot.roll_back, snapshot.attach):
        with pytest.raises(FailedPrecondition):
            call()


# -- copying files in and out


def test_copying_out_follows_no_link_of_the_image(mounted) -> None:
    world, snapshot, root = mounted
    (root / "out").symlink_to(world.canary / "new")
    (root / "up").mkdir()
    (root / "up" / "passwd").write_text("evil")
    with world.scratch() as scratch:
        target = scratch / "target"
        target.mkdir()
        (target / "up").symlink_to(world.canary)
        (target / "out").symlink_to(world.canary / "secret")
        with pytest.raises(InvalidInput) as caught:
            to_host(select(snapshot.files, "/."), str(target))
        assert caught.value.code == "copy-over-file"
        (target / "up").unlink()
        to_host(select(snapshot.files, "/."), str(target))
        assert (target / "out").readlink() == world.canary / "new"
        assert (target / "up" / "passwd").read_text() == "evil"


def test_copying_in_is_led_nowhere_by_links_of_the_snapshot(mounted) -> None:
    world, snapshot, root = mounted
    (root / "out").symlink_to(world.canary)
    (root / "up").symlink_to("../../../../../../../.." + str(world.canary))
    (root / "loop").symlink_to("loop")
    source = select(snapshot.files, "d/f")
    for path in (b"out/new", b"up/new", b"out", b"up/../passwd"):
        with pytest.raises(LamellaError):
            to_snapshot(source, snapshot, path)
    with pytest.raises(InvalidInput):
        to_snapshot(source, snapshot, b"loop")
    inside = root / str(world.canary)[1:]
    inside.mkdir(parents=True)
    to_snapshot(source, snapshot, b"out/new")
    assert (inside / "new").read_bytes() == b"1"


# -- what is too much for a directory


def test_the_deepest_tree_that_an_image_may_have_is_mounted_and_removed(world) -> None:
    """Paths of 4,095 bytes: as long as a path may be for the kernel."""
    deep = b"/".join([b"d"] * 2047) + b"/f"
    with world.unharmed():
        for driver in ("overlay", "copy"):
            snapshot = _prepared(world, driver, tar(pax((b"path", deep)), file(b"x", b"deep")))
            with snapshot.mount() as root:
                at = os.open(root, os.O_RDONLY)
                fd = os.open(deep, os.O_RDONLY, dir_fd=at)
                assert os.read(fd, 10) == b"deep"
                os.close(fd)
                os.close(at)
            assert snapshot.changes() == []
            world.clear()


def test_a_file_larger_than_the_file_system_allows_is_a_typed_error(world, disk) -> None:
    """Eight exabytes, all of them a hole: an image, but none to be extracted to this disk."""
    sparse = pax((b"GNU.sparse.size", b"%d" % ((1 << 63) - 1)), (b"GNU.sparse.map", b"0,0"), (b"GNU.sparse.name", b"s"))
    own = World(disk)
    with own.unharmed():
        snapshot = None
        with own.scratch() as scratch:
            own.store.load(layout(tar(sparse, file(b"x")), name=NAME).write(scratch / "layout"))
        for driver in ("overlay", "copy"):
            try:
                snapshot = own.store.prepare(NAME, f"huge-{driver}", driver=driver)
            except LamellaError as error:
                assert (error.code, error.entry) == ("os-limit", b"s")
                assert error.layer is not None
            else:
                assert snapshot.changes() == []
        image = own.store.image(NAME)
        assert image.open("s").seek(-1, os.SEEK_END) == (1 << 63) - 2
        assert image.changes() == image.changes()
        own.clear()
    own.close()


def test_two_layers_with_the_same_hole_of_eight_exabytes_are_compared(world) -> None:
    sparse = pax(
        (b"GNU.sparse.size", b"%d" % ((1 << 63) - 1)), (b"GNU.sparse.map", b"4096,1"), (b"GNU.sparse.name", b"s")
    )
    with world.unharmed(), world.scratch() as scratch:
        one, two = tar(sparse, file(b"x", b"a")), tar(sparse, file(b"x", b"a"), file(b"more"))
        found = layout(one, name="hostile:1")
        found.image(two, name="hostile:2")
        world.store.load(found.write(scratch / "layout"))
        old, new = world.store.image("hostile:1"), world.store.image("hostile:2")
        assert [str(change) for change in new.changes(old)] == ["A /more"]
        world.clear()
