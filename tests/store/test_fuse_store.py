"""A store of a user without root whose images are served over FUSE: what is made, shared, collected, and survives."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

import lamella
from _machine import NOBODY, fuse_for_all, run_as_nobody
from lamella._sys import mountinfo, processes
from lamella.mounts import _fuse
from lamella.testing import consistency
from support import building, needs
from support.needs import needs_root

pytestmark = needs_root

BASE = building.tar(
    building.directory("etc", 0o750, owner=(3, 4)),
    building.file("etc/motd", "base\n", mode=0o640, owner=(5, 6)),
    building.file("big", "b" * 300_000),
)


@pytest.fixture
def as_user():
    """Runs a function as a user, on an open store of that user's with the image ``base``; afterwards it is whole."""
    with tempfile.TemporaryDirectory(prefix="lamella-test-", dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        layout = building.layout(place / "layout", [BASE], tag="base")
        (place / "mine").mkdir()
        os.chown(place / "mine", NOBODY, NOBODY)

        def body(scenario):
            with lamella.Store.open(place / "mine/store") as store:
                needs.driver("fuse", store.root)
                store.load(layout)
                scenario(store)
                for snapshot in store.snapshots():
                    snapshot.remove(force=True)
                store.gc()
                assert consistency.problems(store) == []
                assert served(store) == []

        yield lambda scenario: run_as_nobody(body, scenario, prepare=fuse_for_all)


def served(store):
    """The images of a store that are mounted."""
    points = mountinfo.mount_points()
    return [p for p in points if p.fs_type == _fuse.FS_TYPE and p.target.is_relative_to(store.root)]


def test_nothing_is_extracted(as_user):
    def scenario(store):
        snapshot = store.prepare("base", driver="fuse")
        with snapshot.mount() as root:
            assert (root / "etc/motd").read_text() == "base\n"
            (root / "etc/motd").write_text("mine\n")
        assert [str(change) for change in snapshot.changes()] == ["C /etc/motd"]
        info = snapshot.files.stat("etc/motd")
        assert (info.uid, info.gid, info.mode) == (5, 6, 0o640)
        assert list(store.trees.walk()) == []
        (chain,) = store.rootfs.walk()
        assert store.rootfs.path(chain) == store.root / "rootfs/user" / chain.hex

    as_user(scenario)


def test_snapshots_of_an_image_share_one_server(as_user):
    def scenario(store):
        snapshots = [store.prepare("base", driver="fuse") for _ in range(2)]
        snapshots.append(snapshots[0].fork())
        for snapshot in snapshots:
            snapshot.attach()
            assert len(served(store)) == 1
        for snapshot in snapshots:
            (point,) = served(store)
            server = _fuse.server_of(point)
            started = processes.start_time(server)
            snapshot.detach()
        assert not processes.is_running(server, started)
        assert served(store) == []

    as_user(scenario)


def test_it_is_what_a_user_gets_by_default(as_user):
    as_user(lambda store: store.prepare("base", "it").record.driver == "fuse" or pytest.fail("not the default"))


def test_what_was_killed_is_collected(as_user):
    def scenario(store):
        mounted = store.prepare("base", "work", driver="fuse").attach()
        os.kill(mounted.holder, signal.SIGKILL)
        assert processes.wait_until_gone(mounted.holder, mounted.holder_start, patience=30)
        assert len(served(store)) == 1
        store.gc()
        assert served(store) == []
        with store.snapshot("work").mount() as root:
            assert (root / "big").stat().st_size == 300_000

    as_user(scenario)


def test_damaged_metadata_is_made_anew(as_user):
    def scenario(store):
        snapshot = store.prepare("base", "work", driver="fuse")
        (chain,) = store.rootfs.walk()
        metadata = store.rootfs.path(chain) / "metadata"
        good = metadata.read_bytes()
        with snapshot.mount() as root:
            damaged = metadata.with_name("damaged")
            damaged.write_bytes(good.replace(b"motd", b"dtom"))
            damaged.rename(metadata)
            with store.prepare("base", driver="fuse").mount() as other:
                assert (other / "etc/motd").read_bytes() == (root / "etc/motd").read_bytes() == b"base\n"
        assert metadata.read_bytes() == good

    as_user(scenario)


def test_an_image_is_collected_once_nothing_stands_on_it(as_user):
    def scenario(store):
        snapshot = store.prepare("base", "work", driver="fuse")
        with snapshot.mount() as root:
            store.remove(["base"], force=True)
            store.gc()
            assert (root / "big").read_bytes() == b"b" * 300_000
        snapshot.remove()
        store.gc()
        assert list(store.rootfs.walk()) == []
        assert os.listdir(store.root / "rootfs/user") == []

    as_user(scenario)
