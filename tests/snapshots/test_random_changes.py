"""Whatever is done to files through a mount: the changes are told, committed, and give the same files again."""

from __future__ import annotations

import itertools
import tarfile
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings

from lamella import Compression, Recipe
from lamella.mounts.mount import DRIVERS
from support import building, deeds, needs
from support.needs import needs_root
from support.trees import assert_same, read_directory, read_view, without

pytestmark = needs_root

_NUMBERS = itertools.count()
# Older than whatever is done now, newer than what the deeds set on purpose.
_FIXED = Recipe(created=datetime(2024, 1, 1, tzinfo=UTC), clamp=1_500_000_000, compression=Compression.NONE)
# fuse-overlayfs gives a directory a new time when a file in it is copied up, and shows that from the next mount on.
_OTHERS = [name for name in DRIVERS if name not in ("overlay", "userns", "fuse-overlayfs")]


@pytest.fixture
def image(store, disk):
    """An image of two layers, without files that have several names."""
    store.load(building.layout(disk / "layout", [deeds.LOWER, deeds.UPPER]))
    return store.image("it")


@pytest.fixture
def linked(store, disk):
    """The same image with a layer more, in which files have several names."""
    store.load(building.layout(disk / "linked", [deeds.LOWER, deeds.UPPER, deeds.LINKS], tag="linked"))
    return store.image("linked")


def _changed(store, image, driver, what, after=None):
    """A snapshot to which ``what`` was done, and its files as the kernel shows them."""
    snapshot = store.prepare(image, f"s{next(_NUMBERS)}", driver=driver)
    with snapshot.mount() as root:
        done = deeds.do(root, what, after=after)
        seen = read_directory(root)
    with snapshot.mount() as root:
        tree = read_directory(root)
    if driver != "fuse-overlayfs":
        assert_same(tree, seen)
    return snapshot, tree, done


def _check_commit(snapshot, tree):
    """Commit the snapshot and hold the child against the files as the kernel showed them."""
    changes = snapshot.changes()
    assert changes == sorted(changes, key=lambda change: change.path)
    assert_same(read_view(snapshot.files), tree)
    child = snapshot.commit()
    # The time of the root directory alone is no change, and nothing is there to carry it.
    expected = tree if changes else without(tree, "mtime", at=[b""])
    found = read_view(child)
    assert_same(found if changes else without(found, "mtime", at=[b""]), expected)
    assert child.changes() == changes
    assert (child.diff_ids[: len(snapshot.image.diff_ids)], child.parent) == (snapshot.image.diff_ids, snapshot.image)
    if changes:
        _check_order(child.layer_path(child.diff_ids[-1]))
    else:
        assert child.diff_ids == snapshot.image.diff_ids
    return child, expected


def _check_order(tar):
    """Whiteouts stand before their siblings, and every directory on the way to an entry stands before it."""
    with tarfile.open(tar, encoding="utf-8", errors="surrogateescape") as archive:
        paths = [member.name.removeprefix(".").removeprefix("/") for member in archive]
    assert paths[0] == ""
    siblings: set[str] = set()
    seen: set[str] = {""}
    for path in paths[1:]:
        parent, _, name = path.rpartition("/")
        assert path not in seen
        assert parent in seen
        if name.startswith(".wh."):
            assert parent not in siblings
        else:
            siblings.add(parent)
        seen.add(path)


@pytest.mark.needs_driver("overlay")
@pytest.mark.parametrize("other", _OTHERS)
def test_the_same_deeds_give_the_same_changes_and_the_same_child(store, image, disk, other):
    """On every driver. Files of the image with several names are left out: overlay breaks their links on copy-up."""
    needs.driver(other, disk)

    @settings(max_examples=12)
    @given(what=deeds.deeds(linked=False))
    def check(what):
        first, tree, done = _changed(store, image, "overlay", what)
        second, other_tree, _ = _changed(store, image, other, what, after=done)
        assert first.changes() == second.changes()
        child, expected = _check_commit(first, tree)
        _check_commit(second, other_tree)
        with store.view(child, f"v{next(_NUMBERS)}", driver="overlay") as view:
            with view.mount() as root:
                found = read_directory(root)
            assert_same(found if first.changes() else without(found, "mtime", at=[b""]), expected)
        fixed = first.commit(recipe=_FIXED)
        assert fixed.digest == first.commit(recipe=_FIXED).digest == second.commit(recipe=_FIXED).digest
        for snapshot in (first, second, view):
            snapshot.remove()

    check()


def test_what_was_done_comes_out(store, image, linked, driver):
    """Files with several names are among the victims, but not with fuse-overlayfs, which gives names whose files it
    has parted one inode number for ever."""
    has_links = driver != "fuse-overlayfs"

    @settings(max_examples=12)
    @given(what=deeds.deeds(linked=has_links))
    def check(what):
        snapshot, tree, _ = _changed(store, linked if has_links else image, driver, what)
        _check_commit(snapshot, tree)
        snapshot.remove()

    check()
