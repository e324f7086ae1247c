"""Snapshots with an init layer: what containers need is there, and is no change of theirs, whatever mounts them."""

from __future__ import annotations

import os

import pytest

from lamella.formats.docker_graph.initlayer import paths
from support import building
from support.building import directory, file, symlink, tar


@pytest.fixture
def image(store, disk):
    layers = [
        tar(
            directory("etc", 0o750),
            file("etc/hosts", "the image's"),
            file("etc/passwd", "root"),
            symlink("proc", "etc"),
            directory("dev", 0o700),
            directory("etc/hostname", 0o711),
            file("etc/hostname/inside"),
        ),
        tar(file("top")),
    ]
    store.load(building.layout(disk / "layout", layers))
    return store.image("it")


def texts(snapshot):
    return [str(change) for change in snapshot.changes()]


def test_it_is_there_and_no_change(store, image, driver):
    with store.prepare(image, "one", driver=driver, init_layer=True) as snapshot:
        assert texts(snapshot) == []
        with snapshot.mount() as root:
            for path in paths():
                assert os.path.lexists(root / os.fsdecode(path)), path
            assert (root / "etc/hosts").read_bytes() == b""
            assert (root / "etc/passwd").read_text() == "root"
            assert (root / "proc").is_dir()
            assert not (root / "proc").is_symlink()
            assert os.readlink(root / "etc/mtab") == "/proc/mounts"
            (root / "etc/resolv.conf").write_text("nameserver ::1\n")
            (root / "new").touch()
        # fuse-overlayfs gives a directory a new time when it copies up what is in it.
        assert [text for text in texts(snapshot) if text != "C /etc"] == ["C /etc/resolv.conf", "A /new"]
        child = snapshot.commit("child")
        names = [entry.path for entry in child.walk()]
        assert b"etc/resolv.conf" in names
        assert b"dev/pts" not in names
        assert child.open("etc/hosts").read() == b"the image's"


def test_directories_of_the_image_stay_as_they_are(store, image, driver):
    """Their mode is no other because something is put into them, nor is it in what is committed."""
    with store.prepare(image, "one", driver=driver, init_layer=True) as snapshot:
        with snapshot.mount() as root:
            assert (root / "etc").stat().st_mode & 0o7777 == 0o750
            assert (root / "dev").stat().st_mode & 0o7777 == 0o700
            assert os.listdir(root / "etc/hostname") == ["inside"]
            (root / "etc/new").touch()
        child = snapshot.commit("child")
        assert child.stat("etc").mode == 0o750
        assert child.stat("etc/hostname").mode == 0o711


def test_forks_and_going_back(store, image, driver):
    with store.prepare(image, "one", driver=driver, init_layer=True) as snapshot:
        with snapshot.mount() as root:
            (root / "new").touch()
        with snapshot.fork("two") as fork:
            assert texts(fork) == ["A /new"]
            with fork.mount() as root:
                assert (root / "dev/pts").is_dir()
                assert (root / "new").exists()
                (root / "newer").touch()
            assert texts(fork) == ["A /new", "A /newer"]
        snapshot.roll_back()
        assert texts(snapshot) == []
        with snapshot.mount() as root:
            assert (root / "dev/shm").is_dir()
            assert not (root / "new").exists()


def test_a_view_has_it_too(store, image, driver):
    with store.prepare(image, "one", driver=driver, writable=False, init_layer=True) as snapshot:
        with snapshot.mount() as root:
            assert (root / ".dockerinit").is_file()


def test_without_it_there_is_none(store, image, driver):
    with store.prepare(image, "one", driver=driver) as snapshot, snapshot.mount() as root:
        assert os.listdir(root / "dev") == []
        assert (root / "etc/hosts").read_text() == "the image's"
