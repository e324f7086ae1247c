"""Everything without root: a user whose files cannot have other owners keeps them all the same."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import lamella
from _machine import NOBODY, fuse_for_all, run_as_nobody
from support import building, deeds, layouts, needs, peers
from support.needs import needs_tool
from support.trees import Leaf, assert_same, read_directory, read_view, without

DRIVERS = ["userns", "fuse-overlayfs", "copy", "fuse"]


@pytest.fixture
def place():
    """A directory on a real disk that the user nobody may write to and get to."""
    place = Path(tempfile.mkdtemp(prefix="lamella-test-", dir="/var/tmp"))
    place.chmod(0o755)
    (place / "mine").mkdir()
    if os.geteuid() == 0:
        os.chown(place / "mine", NOBODY, NOBODY)
    yield place / "mine"
    shutil.rmtree(place)


def _look(root: Path, layout: Path, driver: str) -> tuple[dict, dict, dict, list[str]]:
    """Run by the user: the files of the image, of a snapshot, and as the mount shows them; and the changes."""
    with lamella.Store.open(root) as store:
        needs.driver(driver, root)
        store.load(layout)
        image = store.images()[0]
        snapshot = store.prepare(image, "look", driver=driver)
        with snapshot.mount() as mounted:
            shown = read_directory(mounted, hidden=["user.lamella.", "user.overlay.", "user.fuseoverlayfs."])
        return read_view(image), read_view(snapshot.files), shown, [str(change) for change in snapshot.changes()]


def _as_user(tree: dict[bytes, Leaf]) -> dict[bytes, tuple]:
    """What a user sees of a tree: everything is the user's own, and no less than the user needs to get at it."""
    return {
        path: (
            leaf.kind,
            leaf.mode | (0o700 if leaf.kind == "directory" else 0o600),
            leaf.mtime,
            leaf.link,
            leaf.content,
        )
        for path, leaf in tree.items()
    }


@needs_tool("umoci")
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ["alpine-3.20", "busybox/musl", "semantics/whiteout-opaque-end"])
def test_an_image_is_what_umoci_makes_of_it_as_root(place, disk, real_layout, name, driver):
    needs.root()
    layout = real_layout(name)
    public = place.parent / "layout"
    shutil.copytree(layout, public, symlinks=False)
    (found,) = layouts.found_in(layout)
    expected = read_directory(peers.umoci_unpack(layouts.as_oci(found, disk / "oci"), disk / "rootfs"))
    image, files, shown, changes = run_as_nobody(_look, place / "store", public, driver, prepare=fuse_for_all)
    assert_same(image, expected)
    assert_same(files, expected)
    assert _as_user(shown) == _as_user(expected)
    assert changes == []


WHAT = [
    (deeds._write, "d/x", 0, b"edited"),
    (deeds._append, "d/e/n", b"more"),
    (deeds._chmod, "a", 0o600),
    (deeds._chmod, "s", 0o755),
    (deeds._create, "n1", b"new"),
    (deeds._mkdir, "nd"),
    (deeds._create, "nd/q", b"q"),
    (deeds._unlink, "b"),
    (deeds._unlink, "dev"),
    (deeds._symlink, "nd/link", "../a"),
    (deeds._rename, "k", "d/k"),
    (deeds._link, "t", "nd/t"),
    (deeds._remove_all, "empty"),
    (deeds._mkdir_instead, "l"),
    (deeds._set_xattr, "a", "user.new", b"x"),
    (deeds._fifo, "nd/fifo"),
]


def _edit(root: Path, layout: Path, driver: str) -> tuple[dict, list[str], tuple[int, ...]]:
    with lamella.Store.open(root) as store:
        needs.driver(driver, root)
        store.load(layout)
        snapshot = store.prepare("it", "edit", driver=driver)
        with snapshot.mount() as mounted:
            done = deeds.do(mounted, WHAT)
        child = snapshot.commit("child")
        assert child.changes() == snapshot.changes()
        return read_view(child), [str(change) for change in child.changes()], done.outcomes


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_user_commits_is_what_root_commits(place, disk, driver):
    """With the owners that the files of the image have, though all of them are the user's own on the disk.

    fuse-overlayfs gives a directory a new time when it copies a file up into it; that is a change too.
    """
    needs.root()
    layout = building.layout(place.parent / "layout", [deeds.LOWER, deeds.UPPER])
    expected = _edit(disk / "store", layout, "copy")
    found = run_as_nobody(_edit, place / "store", layout, driver, prepare=fuse_for_all)
    assert set(expected[2]) == {0}
    more = ["C /d/e"] if driver == "fuse-overlayfs" else []
    assert sorted(found[1]) == sorted(expected[1] + more)
    assert found[2] == expected[2]
    assert_same(without(found[0], "mtime"), without(expected[0], "mtime"))
