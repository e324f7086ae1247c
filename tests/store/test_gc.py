"""Collecting garbage: what is found, what is told, and what goes on beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

import lamella
from lamella.errors import LamellaError
from lamella.testing import consistency
from support import building


def image_layout(path, number, tag):
    """A layout with a layer that all of them share and one that no other has."""
    shared = building.tar(building.file("shared", "shared" * 1000))
    own = building.tar(building.file("own", os.urandom(40_000) if number is None else f"{number}" * 20_000))
    return building.layout(path, [shared, own], tag=tag)


def found(report):
    return sorted((item.kind, item.name) for item in report.items)


def test_nothing_is_garbage_in_an_empty_store(store):
    assert store.gc().items == []


def test_a_dry_run_tells_what_gc_does_and_does_nothing(store, disk, driver):
    for number, tag in enumerate([None, "kept", None]):
        store.load(image_layout(disk / str(number), number, tag))
    used = store.prepare(store.images()[0], driver=driver)
    with used.mount():
        pass
    used.remove()
    before = sorted(path.relative_to(store.root) for path in store.root.rglob("*"))
    told = store.gc(dry_run=True)
    assert sorted(path.relative_to(store.root) for path in store.root.rglob("*")) == before
    assert told.size > 40_000
    done = store.gc()
    assert (found(done), done.size) == (found(told), told.size)
    assert store.gc(dry_run=True).items == []
    assert consistency.leftovers(store) == []
    assert [image.names for image in store.images()] == [["kept:latest"]]


def test_what_a_killed_process_left_goes(store, disk):
    image_layout(disk / "layout", None, "it")
    script = f"""
import os, signal, lamella
store = lamella.Store.open({str(store.root)!r})
lease = store.lease("import")
(lease.directory / "layer").mkdir()
(lease.directory / "layer/layer.tar").write_bytes(b"x" * 5000)
ingest = store.content.open_ingest("unfinished")
ingest.write(b"y" * 5000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    told = store.gc(dry_run=True)
    assert {item.kind for item in told.items} == {"ingest"}
    assert len(told.items) == 2
    assert found(store.gc()) == found(told)
    assert consistency.leftovers(store) == []


def test_what_a_live_process_is_at_work_on_stays(store):
    with store.lease("import") as lease:
        (lease.directory / "layer").mkdir()
        with store.content.open_ingest("unfinished") as ingest:
            ingest.write(b"y" * 5000)
            assert store.gc().items == []
            assert (lease.directory / "layer").is_dir()
            ingest.abort()


def test_a_failed_load_leaves_nothing(store, disk):
    layout = image_layout(disk / "layout", 1, "it")
    config = next(path for path in (layout / "blobs/sha256").iterdir() if b'"rootfs"' in path.read_bytes())
    config.write_bytes(config.read_bytes().replace(b"2024", b"2025"))
    with pytest.raises(LamellaError):
        store.load(layout)
    assert consistency.leftovers(store) == []
    assert list((store.root / "blobs").glob("*/*")) == []


def _load_and_remove(root, layouts, rounds, answers):
    """Load images and remove them again; answer with what was wrong, and how often it was done."""
    problems = []
    with lamella.Store.open(root) as store:
        for number in range(rounds):
            layout = layouts[number % len(layouts)]
            try:
                store.load(layout)
                image = store.image(layout.name)
                if image.open("shared").read() != b"shared" * 1000 or len(image.open("own").read()) < 20_000:
                    problems.append(f"{number}: content")
                for layer in image.layers:
                    for _ in layer.tar():
                        pass
                store.remove([layout.name])
            except LamellaError as error:
                problems.append(f"{number}: {error!r} {error}")
    answers.put(problems)


def test_beside_processes_that_load_and_remove(store, disk):
    """Two processes load and remove images that share a layer, while this one does nothing but collect."""
    layouts = [image_layout(disk / f"image{number}", number, f"image{number}") for number in range(4)]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [
        context.Process(target=_load_and_remove, args=(store.root, layouts[start : start + 2], 12, answers))
        for start in (0, 2)
    ]
    for worker in workers:
        worker.start()
    rounds = 0
    while any(worker.is_alive() for worker in workers) and rounds < 2000:
        store.gc()
        rounds += 1
    assert [answers.get(timeout=120) for _ in workers] == [[], []]
    for worker in workers:
        worker.join()
    assert rounds > 5
    store.gc()
    assert store.images() == []
    assert consistency.leftovers(store) == []


def _commit(root, rounds, answers):
    problems = []
    with lamella.Store.open(root) as store:
        for number in range(rounds):
            try:
                with store.prepare("base", f"c{number}", driver="copy") as snapshot:
                    (snapshot.upper / "new").write_text(f"{number}")
                    child = snapshot.commit(f"child{number}")
                    if child.open("new").read() != b"%d" % number:
                        problems.append(f"{number}: content")
                    snapshot.remove()
                    store.remove([f"child{number}"])
            except LamellaError as error:
                problems.append(f"{number}: {error!r} {error}")
    answers.put(problems)


def test_beside_a_process_that_commits(store, disk):
    store.load(image_layout(disk / "base", 0, "base"))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    worker = context.Process(target=_commit, args=(store.root, 10, answers))
    worker.start()
    for _ in range(2000):
        if not worker.is_alive():
            break
        store.gc()
    assert answers.get(timeout=120) == []
    worker.join()
    store.gc()
    assert [image.names for image in store.images()] == [["base:latest"]]
    assert consistency.leftovers(store) == []


def test_what_another_process_has_mounted_stays(store, disk, driver):
    store.load(image_layout(disk / "base", 0, "base"))
    script = f"""
import sys, lamella
store = lamella.Store.open({str(store.root)!r})
snapshot = store.prepare("base", "held", driver={driver!r})
with snapshot.mount() as root:
    print("mounted", flush=True)
    sys.stdin.readline()
    assert (root / "own").read_text() == "0" * 20000
    print("fine", flush=True)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mounted\n"
        store.remove(["base"], force=True)
        assert store.gc().items == []
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "fine\n"
    assert process.returncode == 0
    store.snapshot("held").remove()
    store.gc()
    assert consistency.leftovers(store) == []


def test_a_process_that_dies_while_it_holds_a_lease_holds_nothing_any_longer(store, disk):
    store.load(image_layout(disk / "layout", 1, None))
    script = f"""
import sys, lamella
store = lamella.Store.open({str(store.root)!r})
lease = store.lease("hold")
lease.hold(store.images()[0].digest)
print("held", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert store.gc().items == []
        assert len(store.images()) == 1
        process.kill()
    deadline = time.monotonic() + 30
    while store.images() and time.monotonic() < deadline:
        store.gc()
    assert store.images() == []
