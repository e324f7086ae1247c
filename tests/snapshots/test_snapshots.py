"""Snapshots: made, mounted once, forked, rolled back, committed, removed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import lamella
from lamella.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidInput, NotFound
from support import building
from support.needs import needs_root
from support.trees import assert_same, read_directory, read_view

BASE = building.tar(
    building.directory("etc", 0o750, owner=(3, 4)),
    building.file("etc/motd", "base\n", mode=0o640, owner=(5, 6)),
    building.file("big", "b" * 100_000),
    building.symlink("link", "etc/motd"),
)


@pytest.fixture
def image(store, disk):
    store.load(building.layout(disk / "base", [building.tar(building.file("old")), BASE], tag="base"))
    return store.image("base")


@pytest.fixture
def snapshot(store, image, driver):
    return store.prepare(image, "work", driver=driver)


def edit(snapshot, text="edited\n"):
    with snapshot.mount() as root:
        (root / "etc/motd").write_text(text)
        (root / "new").write_text(text)
        (root / "old").unlink(missing_ok=True)


def told(changes, driver):
    """Changes as text; without the directory that fuse-overlayfs gives a new time when it copies a file up into it."""
    texts = [str(change) for change in changes]
    return [text for text in texts if text != "C /etc" or driver != "fuse-overlayfs"]


class TestPrepared:
    def test_shows_the_files_of_the_image(self, snapshot, image):
        with snapshot.mount() as root:
            assert_same(read_directory(root), read_view(image))
        assert_same(read_view(snapshot.files), read_view(image))
        assert snapshot.changes() == []
        assert snapshot.image == image

    def test_keeps_what_is_written(self, snapshot, store, driver):
        edit(snapshot)
        again = store.snapshot("work")
        with again.mount() as root:
            assert (root / "etc/motd").read_text() == "edited\n"
            assert not (root / "old").exists()
        assert told(again.changes(), driver) == ["C /etc/motd", "A /new", "D /old"]

    def test_leaves_the_image_as_it_is(self, snapshot, image):
        before = read_view(image)
        edit(snapshot)
        assert_same(read_view(image), before)

    def test_tells_its_changes_while_it_is_mounted(self, snapshot):
        with snapshot.mount() as root:
            (root / "a").write_text("a")
            assert [str(change) for change in snapshot.changes()] == ["A /a"]
            (root / "a").unlink()
            assert snapshot.changes() == []

    def test_is_listed(self, snapshot, store):
        assert [item.key for item in store.snapshots()] == ["work"]
        with pytest.raises(NotFound) as missing:
            store.snapshot("other")
        assert missing.value.code == "snapshot-not-found"

    def test_takes_a_key_once(self, snapshot, store, image):
        with pytest.raises(AlreadyExists) as refused:
            store.prepare(image, "work")
        assert refused.value.code == "snapshot-exists"

    def test_gives_itself_a_key(self, store, image, driver):
        first, second = store.prepare(image, driver=driver), store.prepare(image, driver=driver)
        assert first.key != second.key

    def test_on_an_image_without_layers(self, store, disk, driver):
        store.load(building.layout(disk / "empty", [], tag="empty"))
        empty = store.prepare("empty", "nothing", driver=driver)
        with empty.mount() as root:
            assert list(root.iterdir()) == []
            (root / "first").write_text("first")
        child = empty.commit("first")
        assert [info.path for info in child.walk()] == [b"", b"first"]

    def test_can_be_mounted_at_a_place_of_choice(self, snapshot, disk):
        (disk / "here").mkdir()
        with snapshot.mount(disk / "here") as root:
            assert root == disk / "here"
            assert (disk / "here/big").stat().st_size == 100_000
        assert list((disk / "here").iterdir()) == []


@pytest.mark.parametrize("key", ["", "..", ".x", "a/b", "a b", "x" * 129, "\n", "-x", "a\0b"])
def test_what_cannot_be_a_key(store, image, key):
    with pytest.raises(InvalidInput) as refused:
        store.prepare(image, key, driver="copy")
    assert refused.value.code == "snapshot-key"


@needs_root
class TestViews:
    def test_a_view_cannot_be_written(self, store, image, driver):
        view = store.view(image, "look", driver=driver)
        with view.mount() as root:
            assert_same(read_directory(root), read_view(image))
            with pytest.raises(OSError, match="Read-only"):
                (root / "new").touch()
            with pytest.raises(OSError, match="Read-only"):
                (root / "etc/motd").write_text("x")
        assert view.changes() == []

    def test_a_view_can_be_forked_and_the_fork_written(self, store, image, driver):
        fork = store.view(image, "look", driver=driver).fork("mine")
        edit(fork)
        assert told(fork.changes(), driver) == ["C /etc/motd", "A /new", "D /old"]


@needs_root
class TestMountedOnce:
    def test_a_second_mount_is_refused(self, snapshot, store):
        with snapshot.mount():
            for other in (snapshot, store.snapshot("work")):
                with pytest.raises(FailedPrecondition) as refused:
                    other.attach()
                assert refused.value.code == "snapshot-mounted"
        with snapshot.mount():
            pass

    def test_from_another_process_too(self, snapshot, store):
        script = f"""
import lamella
from lamella.errors import FailedPrecondition
try:
    lamella.Store.open({str(store.root)!r}).snapshot("work").attach()
except FailedPrecondition as error:
    print(error.code)
"""
        with snapshot.mount():
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "snapshot-mounted\n"

    def test_a_mount_outlives_the_process_that_was_killed(self, snapshot, store):
        script = f"""
import os, signal, lamella
store = lamella.Store.open({str(store.root)!r})
mounted = store.snapshot("work").attach()
(mounted.root / "written").write_text("by a process that is gone")
os.kill(os.getpid(), signal.SIGKILL)
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
        assert snapshot.mounted is not None
        with pytest.raises(FailedPrecondition) as refused:
            snapshot.attach()
        assert refused.value.code == "snapshot-mounted"
        with pytest.raises(FailedPrecondition):
            snapshot.remove()
        assert (snapshot.mounted.root / "written").read_text() == "by a process that is gone"
        snapshot.detach()
        assert snapshot.mounted is None
        assert [str(change) for change in snapshot.changes()] == ["A /written"]

    def test_it_cannot_be_rolled_back_or_removed_while_mounted(self, snapshot):
        with snapshot.mount():
            for act in (snapshot.roll_back, snapshot.remove):
                with pytest.raises(FailedPrecondition) as refused:
                    act()
                assert refused.value.code == "snapshot-mounted"

    def test_forced_removal_unmounts(self, snapshot, store):
        mounted = snapshot.attach()
        snapshot.remove(force=True)
        assert store.snapshots() == []
        assert not mounted.root.exists()

    def test_unmounting_what_is_not_mounted(self, snapshot):
        with pytest.raises(FailedPrecondition) as refused:
            snapshot.detach()
        assert refused.value.code == "snapshot-not-mounted"

    def test_a_busy_mount_is_not_unmounted(self, snapshot):
        mounted = snapshot.attach()
        with (mounted.root / "big").open("rb"), pytest.raises(Conflict) as refused:
            snapshot.detach()
        assert refused.value.code == "mount-busy"
        snapshot.detach()

    def test_leaving_the_context_unmounts(self, snapshot):
        with snapshot:
            snapshot.attach()
        assert snapshot.mounted is None


class TestForks:
    def test_a_fork_starts_from_what_is_there_now(self, snapshot, store):
        edit(snapshot)
        fork = snapshot.fork("fork")
        assert fork.changes() == snapshot.changes()
        assert_same(read_view(fork.files), read_view(snapshot.files))
        assert fork.record.source == "work"

    def test_the_two_are_independent(self, snapshot):
        edit(snapshot)
        fork = snapshot.fork("fork")
        edit(fork, "in the fork\n")
        with fork.mount() as root:
            (root / "only in the fork").touch()
        with snapshot.mount() as root:
            assert (root / "new").read_text() == "edited\n"
            (root / "only in the first").touch()
        assert b"only in the first" not in read_view(fork.files)
        assert b"only in the fork" not in read_view(snapshot.files)

    def test_a_fork_of_a_fork(self, snapshot):
        edit(snapshot)
        fork = snapshot.fork("fork")
        with fork.mount() as root:
            (root / "new").unlink()
            (root / "etc/second").touch()
        last = fork.fork("last")
        with last.mount() as root:
            (root / "etc/second").unlink()
            (root / "new").mkdir()
            expected = read_directory(root)
        assert_same(read_view(last.files), expected)
        assert [str(change) for change in last.changes()] == ["C /etc", "C /etc/motd", "A /new", "D /old"]
        assert [str(change) for change in fork.changes()] == ["C /etc", "C /etc/motd", "A /etc/second", "D /old"]

    def test_it_outlives_what_it_was_forked_from(self, snapshot, store):
        edit(snapshot)
        fork = snapshot.fork("fork")
        expected = read_view(fork.files)
        snapshot.remove()
        store.gc()
        with fork.mount() as root:
            assert_same(read_directory(root), expected)

    def test_a_mounted_snapshot_can_be_forked(self, snapshot):
        with snapshot.mount() as root:
            (root / "now").write_text("now")
            fork = snapshot.fork("fork")
        assert [str(change) for change in fork.changes()] == ["A /now"]

    def test_a_fork_commits_to_a_child_of_the_image(self, snapshot, image):
        edit(snapshot)
        fork = snapshot.fork("fork")
        with fork.mount() as root:
            (root / "more").touch()
            expected = read_directory(root)
        child = fork.commit("forked")
        assert child.parent == image
        assert_same(read_view(child), expected)


class TestRollBack:
    def test_what_was_written_is_gone(self, snapshot, image):
        edit(snapshot)
        snapshot.roll_back()
        assert snapshot.changes() == []
        with snapshot.mount() as root:
            assert_same(read_directory(root), read_view(image))

    def test_it_can_be_written_again(self, snapshot, driver):
        edit(snapshot)
        snapshot.roll_back()
        edit(snapshot, "again\n")
        assert told(snapshot.changes(), driver) == ["C /etc/motd", "A /new", "D /old"]
        with snapshot.mount() as root:
            assert (root / "new").read_text() == "again\n"

    def test_a_fork_goes_back_to_where_it_was_forked(self, snapshot):
        edit(snapshot)
        fork = snapshot.fork("fork")
        with fork.mount() as root:
            (root / "more").touch()
            (root / "new").unlink()
        fork.roll_back()
        assert fork.changes() == snapshot.changes()
        assert_same(read_view(fork.files), read_view(snapshot.files))


class TestCommitted:
    def test_the_child_has_the_files_and_the_snapshot_stays(self, snapshot, image, store):
        edit(snapshot)
        before = snapshot.changes()
        child = snapshot.commit("child:1", author="me", comment="why")
        assert_same(read_view(child), read_view(snapshot.files))
        assert (child.parent, child.names, store.image("child:1")) == (image, ["child:1"], child)
        assert snapshot.changes() == before
        assert child.changes() == before

    def test_while_it_is_mounted(self, snapshot):
        with snapshot.mount() as root:
            (root / "new").write_text("n")
            child = snapshot.commit()
        assert child.open("new").read() == b"n"

    def test_twice_with_more_in_between(self, snapshot, image):
        edit(snapshot)
        first = snapshot.commit("first")
        with snapshot.mount() as root:
            (root / "more").touch()
        second = snapshot.commit("second")
        assert image.children == [first, second]
        assert [str(change) for change in second.changes(first)] == ["A /more"]

    def test_a_snapshot_on_the_child(self, snapshot, store, driver):
        edit(snapshot)
        child = snapshot.commit("child")
        with store.prepare(child, "next", driver=driver) as following, following.mount() as root:
            assert_same(read_directory(root), read_view(child))


class TestRemoved:
    def test_it_is_gone(self, snapshot, store):
        edit(snapshot)
        snapshot.remove()
        assert store.snapshots() == []
        assert not (store.root / "snapshots/work").exists()
        with pytest.raises(NotFound):
            snapshot.changes()

    def test_the_key_is_free_again(self, snapshot, store, image, driver):
        edit(snapshot)
        snapshot.remove()
        assert store.prepare(image, "work", driver=driver).changes() == []

    def test_twice(self, snapshot):
        snapshot.remove()
        with pytest.raises(NotFound):
            snapshot.remove()

    def test_though_its_directory_is_gone(self, snapshot, store):
        import shutil

        shutil.rmtree(store.root / "snapshots/work")
        snapshot.remove()
        assert store.snapshots() == []


class TestChangesOfDirectories:
    """A directory of the host against an image."""

    def test_a_copy_of_the_files_has_no_changes(self, store, image):
        snapshot = store.prepare(image, "copy", driver="copy")
        assert store.changes(image, snapshot.upper) == []

    def test_what_is_different(self, store, image):
        snapshot = store.prepare(image, "copy", driver="copy")
        edit(snapshot)
        assert store.changes(image, snapshot.upper) == snapshot.changes()
        assert [str(change) for change in store.changes(None, snapshot.upper)] == [
            "A /big",
            "A /etc",
            "A /etc/motd",
            "A /link",
            "A /new",
        ]

    def test_between_images(self, store, image, snapshot, driver):
        edit(snapshot)
        child = snapshot.commit()
        assert store.changes(image, child) == snapshot.changes()
        assert told(store.changes(child, image), driver) == ["C /etc/motd", "D /new", "A /old"]


def test_the_driver_that_a_store_is_opened_with_is_used(disk):
    with lamella.Store.open(disk / "store", driver="copy") as store:
        store.load(building.layout(disk / "base", [BASE], tag="base"))
        assert store.prepare("base").record.driver == "copy"


def test_a_driver_that_nobody_knows(store, image):
    with pytest.raises(InvalidInput) as refused:
        store.prepare(image, driver="floppy")
    assert refused.value.code == "driver-unknown"
