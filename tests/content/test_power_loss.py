"""Blobs against power cuts, kills, full disks and neighbours."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from multiprocessing import get_context

import pytest

from lamella.content.local import LocalContent
from lamella.content.protocol import BlobInfo
from lamella.errors import AccessDenied, Conflict, ResourceExhausted
from lamella.spec.digest import Digest
from lamella.testing import disks, refuses
from lamella.testing import trace as tracing
from lamella.testing.content import BLOB, DIGEST, assert_empty, put

needs_strace = pytest.mark.skipif(bool(tracing.missing()), reason=tracing.missing() or "strace")

INGEST = """
import sys
from pathlib import Path
from lamella.content.local import LocalContent
from lamella.testing.content import BLOB, DIGEST
store = LocalContent(Path(sys.argv[1]))
with store.open_ingest("ref", keep=True) as ingest:
    rest = BLOB[ingest.offset:]
    ingest.write(rest[:700])
    ingest.write(rest[700:])
    ingest.commit(expected=DIGEST, size=len(BLOB))
"""
ADOPT = """
import sys
from pathlib import Path
from lamella.content.local import LocalContent
from lamella.testing.content import BLOB, DIGEST
root = Path(sys.argv[1])
LocalContent(root).adopt(root / "finished", DIGEST, len(BLOB))
"""


def program(code, root):
    return [sys.executable, "-c", code, str(root)]


def position(calls, name, part, *, last=False):
    """Where the call ``name`` on something with ``part`` stands."""
    found = [n for n, call in enumerate(calls) if call.name.startswith(name) and part in call.arguments]
    assert found, f"no {name} of {part} in {[(call.name, call.arguments) for call in calls]}"
    return found[-1 if last else 0]


@needs_strace
class TestOrderOfSystemCalls:
    """What is not ordered by fsync may reach the disk in any order."""

    CALLS = ("write", "fsync", "?rename", "?renameat", "?renameat2", "?mkdir", "?mkdirat", "fchmod")

    def test_bytes_then_name_then_directory(self, tmp_path):
        calls = tracing.trace(program(INGEST, tmp_path), self.CALLS, below=tmp_path)
        written = position(calls, "write", "ingest/ref.blob", last=True)
        mode = position(calls, "fchmod", "ingest/ref.blob")
        synced = position(calls, "fsync", "ingest/ref.blob")
        renamed = position(calls, "rename", DIGEST.hex)
        directory = position(calls, "fsync", "blobs/sha256>")
        assert written < synced < renamed < directory
        assert mode < synced
        assert directory == len(calls) - 1

    def test_new_directories_are_durable_before_the_blob_is_in_them(self, tmp_path):
        calls = tracing.trace(program(INGEST, tmp_path), self.CALLS, below=tmp_path)
        made = position(calls, "mkdir", "blobs/sha256")
        renamed = position(calls, "rename", DIGEST.hex)
        assert made < position(calls, "fsync", "/blobs>") < renamed
        assert made < position(calls, "fsync", f"{tmp_path}>") < renamed

    def test_a_blob_that_is_there_is_made_durable_before_success(self, content, tmp_path):
        put(content, BLOB)
        calls = tracing.trace(program(INGEST, tmp_path), self.CALLS, below=tmp_path)
        assert calls[-1].name == "fsync"
        assert "blobs/sha256>" in calls[-1].arguments

    def test_an_adopted_file_is_synced_before_it_gets_its_name(self, tmp_path):
        (tmp_path / "finished").write_bytes(BLOB)
        calls = tracing.trace(program(ADOPT, tmp_path), self.CALLS, below=tmp_path)
        synced = position(calls, "fsync", "/finished")
        renamed = position(calls, "rename", DIGEST.hex)
        assert synced < renamed < position(calls, "fsync", "blobs/sha256>")


CALLS = ["openat", "flock", "pread64", "write", "fchmod", "fsync", "close"]
CALLS += ["?newfstatat", "?mkdir", "?mkdirat", "?rename", "?renameat", "?unlink", "?unlinkat"]


@needs_strace
@pytest.mark.parametrize("call", CALLS)
class TestKilledAtAnySystemCall:
    def paths(self, root):
        blobs = root / "blobs" / "sha256"
        return [root, root / "ingest", root / "ingest/ref.blob", blobs.parent, blobs, blobs / DIGEST.hex]

    def test_nothing_shows_or_all_of_it(self, tmp_path, call):
        for number in count(1):
            root = tmp_path / str(number)
            root.mkdir()
            was_killed = tracing.killed_at(program(INGEST, root), call, number, paths=self.paths(root))
            store = LocalContent(root)
            if list(store.walk()):
                assert store.read(DIGEST, limit=len(BLOB)) == BLOB
            else:
                assert was_killed
            subprocess.run(program(INGEST, root), check=True)
            assert store.read(DIGEST, limit=len(BLOB)) == BLOB
            assert list(store.walk()) == [BlobInfo(DIGEST, len(BLOB))]
            assert list(store.ingests()) == []
            if not was_killed:
                break


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    if reason := disks.missing():
        pytest.skip(reason)
    with disks.small_disk(tmp_path / "disk", kib=256) as disk:
        yield disk


class TestFullDisk:
    def test_a_blob_that_does_not_fit_leaves_nothing(self, small_disk):
        store = LocalContent(small_disk)
        free = os.statvfs(small_disk).f_bavail
        with refuses(ResourceExhausted, "disk-full", naming="big"), store.open_ingest("big") as ingest:
            for _ in range(100):
                ingest.write(bytes(10_000))
        assert_empty(store)
        assert os.statvfs(small_disk).f_bavail >= free - 2
        assert put(store, BLOB) == DIGEST

    def test_what_is_kept_can_be_finished_when_there_is_space(self, small_disk):
        store = LocalContent(small_disk)
        blob = os.urandom(200_000)
        (small_disk / "ballast").write_bytes(bytes(150_000))
        with refuses(ResourceExhausted, "disk-full"), store.open_ingest("big", keep=True) as ingest:
            ingest.write(blob)
        assert list(store.walk()) == []
        (small_disk / "ballast").unlink()
        with store.open_ingest("big", keep=True) as ingest:
            assert 0 < ingest.offset < len(blob)
            ingest.write(blob[ingest.offset :])
            ingest.commit(expected=Digest.of(blob), size=len(blob))
        assert store.read(Digest.of(blob), limit=len(blob)) == blob

    def test_a_read_only_store_is_access_denied_and_readable(self, small_disk):
        store = LocalContent(small_disk)
        put(store, BLOB)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        assert store.read(DIGEST, limit=len(BLOB)) == BLOB
        with refuses(AccessDenied, "access-denied"):
            store.open_ingest("ref")
        with refuses(AccessDenied, "access-denied"):
            store.remove(DIGEST)


def _ingest_often(root, number, results):
    store = LocalContent(root)
    for _ in range(20):
        with store.open_ingest(f"ref {number}") as ingest:
            for start in range(0, len(BLOB), 100):
                ingest.write(BLOB[start : start + 100])
            ingest.commit(expected=DIGEST, size=len(BLOB))
        if store.read(DIGEST, limit=len(BLOB)) != BLOB:
            results.put("read something else")
    results.put("done")


def _compete(root, barrier, results):
    store = LocalContent(root)
    barrier.wait()
    try:
        ingest = store.open_ingest("the one", keep=True)
    except Conflict:
        results.put("busy")
        barrier.wait()
        return
    barrier.wait()
    with ingest:
        ingest.write(BLOB)
        ingest.commit(expected=DIGEST)
    results.put("done")


class TestNeighbours:
    context = get_context("spawn")

    def run(self, target, *args, processes):
        results = self.context.Queue()
        workers = [self.context.Process(target=target, args=(*args, results)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        return sorted(outcomes)

    def test_processes_ingest_the_same_blob(self, tmp_path):
        results = self.context.Queue()
        workers = [self.context.Process(target=_ingest_often, args=(tmp_path, n, results)) for n in range(3)]
        for worker in workers:
            worker.start()
        assert [results.get(timeout=60) for _ in workers] == ["done"] * 3
        for worker in workers:
            worker.join()
        store = LocalContent(tmp_path)
        assert list(store.walk()) == [BlobInfo(DIGEST, len(BLOB))]
        assert list(store.ingests()) == []

    def test_one_process_has_an_ingest_at_a_time(self, tmp_path):
        barrier = self.context.Barrier(2)
        assert self.run(_compete, tmp_path, barrier, processes=2) == ["busy", "done"]
        assert LocalContent(tmp_path).exists(DIGEST)

    def test_the_ingest_of_a_killed_process_is_free(self, tmp_path):
        code = INGEST.replace("ingest.commit", "import os; os.kill(os.getpid(), 9); ingest.commit")
        assert subprocess.run(program(code, tmp_path), check=False).returncode == -9
        store = LocalContent(tmp_path)
        assert list(store.walk()) == []
        (left,) = store.ingests()
        assert (left.ref, left.size, left.busy) == ("ref", len(BLOB), False)
        with store.open_ingest("ref") as ingest:
            assert ingest.commit(expected=DIGEST, size=len(BLOB)) == DIGEST

    def test_looking_at_ingests_does_not_get_into_their_way(self, content):
        for _ in range(200):
            with content.open_ingest("ref") as ingest:
                assert [info.busy for info in content.ingests()] == [True]
                ingest.abort()
