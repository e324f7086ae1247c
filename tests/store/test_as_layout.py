"""The store's own directory is an OCI layout that other tools read in place, whatever goes on in it."""

from __future__ import annotations

import json
import multiprocessing
import threading

import pytest

import lamella
from lamella.errors import LamellaError
from lamella.testing import consistency
from support import building, peers
from support.needs import needs_tool


@pytest.fixture
def named(store, disk):
    """An image with two names, one of them with a registry."""
    store.load(building.layout(disk / "one", [building.tar(building.file("f"))], tag="one"))
    store.tag("one", "registry.example:5000/team/one:v1")
    return store.image("one")


def index(store):
    return json.loads((store.root / "index.json").read_text())["manifests"]


class TestIndex:
    def test_every_name_is_in_it(self, store, named):
        found = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in index(store)}
        assert found == {"one:latest": str(named.digest), "registry.example:5000/team/one:v1": str(named.digest)}
        full = {entry["annotations"]["io.containerd.image.name"] for entry in index(store)}
        assert full == {"docker.io/library/one:latest", "registry.example:5000/team/one:v1"}

    def test_an_image_without_a_name_is_in_it_too(self, store, disk):
        store.load(building.layout(disk / "nameless", [building.tar()], tag=None))
        (entry,) = index(store)
        assert entry["digest"] == str(store.images()[0].digest)
        assert "annotations" not in entry

    def test_the_images_of_an_index_are_not(self, store, real_layout):
        store.load(real_layout("hello-world-10-platforms"), name="hello")
        assert len(index(store)) == 1

    def test_what_is_removed_goes(self, store, named):
        store.remove(["one"])
        assert len(index(store)) == 1
        store.remove(["registry.example:5000/team/one:v1"])
        assert index(store) == []

    @pytest.mark.parametrize(
        "damage",
        [lambda path: path.unlink(), lambda path: path.write_text("{"), lambda path: None],
        ids=["gone", "cut-short", "whole"],
    )
    def test_it_is_made_again_when_the_store_is_opened(self, store, named, damage):
        before = index(store)
        damage(store.root / "index.json")
        (store.root / "oci-layout").unlink()
        with lamella.Store.open(store.root) as again:
            assert index(again) == before
            assert consistency.layout_problems(again.root) == []


@needs_tool("skopeo")
def test_skopeo_reads_it_by_each_name(store, named):
    for name in ("one:latest", "registry.example:5000/team/one:v1"):
        assert peers.skopeo_inspect(f"oci:{store.root}:{name}")["Digest"] == str(named.digest)


@needs_tool("skopeo")
def test_skopeo_copies_out_of_it(store, named, disk):
    peers.run("skopeo", "copy", "--quiet", f"oci:{store.root}:one:latest", f"oci:{disk / 'out'}:mine")
    with lamella.Store.open(disk / "other") as other:
        (loaded,) = other.load(disk / "out")
        assert loaded.id == named.id


def _be_busy(root, layout, stop):
    with lamella.Store.open(root) as store:
        while not stop.is_set():
            store.load(layout)
            with store.prepare("busy", driver="copy") as snapshot:
                (snapshot.upper / "new").write_text("new")
                snapshot.commit("child")
                snapshot.remove()
            store.remove(["child", "busy"])
            store.gc()


def test_it_is_whole_at_every_moment(store, named, disk):
    """Looked at over and over while another process loads, commits, removes and collects."""
    layout = building.layout(disk / "busy", [building.tar(building.file("busy"))], tag="busy")
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    worker = context.Process(target=_be_busy, args=(store.root, layout, stop))
    worker.start()
    try:
        for _ in range(60):
            manifests = index(store)
            assert {entry["digest"] for entry in manifests} >= {str(named.digest)}
            names = [e["annotations"]["org.opencontainers.image.ref.name"] for e in manifests if "annotations" in e]
            assert {"one:latest", "registry.example:5000/team/one:v1"} <= set(names)
            assert store.image("one").exists("f")
    finally:
        stop.set()
        worker.join()
    assert worker.exitcode == 0
    store.gc()


def test_threads_share_one_store(store, disk):
    """Each of them loads, commits and removes images of its own through the same object."""
    layouts = [building.layout(disk / f"t{n}", [building.tar(building.file(f"f{n}"))], tag=f"t{n}") for n in range(4)]
    failures = []

    def work(number):
        try:
            for _ in range(3):
                store.load(layouts[number])
                with store.prepare(f"t{number}", f"s{number}", driver="copy") as snapshot:
                    (snapshot.upper / "new").write_text("new")
                    child = snapshot.commit(f"c{number}")
                    assert child.open("new").read() == b"new"
                    snapshot.remove()
                store.remove([f"c{number}", f"t{number}"])
        except (LamellaError, OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store.gc()
    assert store.images() == []
    assert consistency.leftovers(store) == []


def test_usage_counts_what_is_there(store, named):
    blobs = sum(path.stat().st_blocks * 512 for path in store.root.glob("blobs/*/*"))
    (used,) = [usage for usage in store.usage() if usage.kind == "blob"]
    assert (used.count, used.size, used.reclaimable) == (3, blobs, 0)
    store.remove(["one"])
    assert [usage.reclaimable for usage in store.usage() if usage.kind == "blob"] == [0]
