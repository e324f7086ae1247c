"""The catalog as a file: made, opened, damaged, newer, older, full, locked, killed and shared."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from itertools import count
from multiprocessing import get_context

import pytest

from lamella.catalog.migrations import MIGRATIONS
from lamella.catalog.sqlite import SqliteCatalog
from lamella.errors import (
    Aborted,
    AccessDenied,
    Conflict,
    FailedPrecondition,
    Integrity,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from lamella.testing import disks, refuses
from lamella.testing import trace as tracing
from lamella.testing.catalog import add, sample_image

needs_strace = pytest.mark.skipif(bool(tracing.missing()), reason=tracing.missing() or "strace")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "catalog.db"


def make(path, *, images=3):
    """A catalog with some images, closed."""
    with SqliteCatalog(path) as catalog:
        return [add(catalog, f"image {n}") for n in range(images)]


def seeds(count):
    return sorted(sample_image(f"image {n}")[0].manifest for n in range(count))


def manifests(catalog):
    return sorted(image.manifest for image in catalog.images())


class TestMaking:
    def test_a_new_catalog_is_one_file_and_logs_ahead(self, path, tmp_path):
        SqliteCatalog(path).close()
        assert os.listdir(tmp_path) == ["catalog.db"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        query = "SELECT name FROM pragma_table_list WHERE strict AND name NOT LIKE 'sqlite_%'"
        tables = {name for (name,) in connection.execute(query)}
        connection.close()
        assert tables >= {"documents", "images", "layers", "names", "snapshots", "leases", "schema_version"}

    def test_what_was_recorded_is_there_when_it_is_opened_again(self, path):
        images = make(path)
        with SqliteCatalog(path) as catalog:
            assert sorted(catalog.images(), key=lambda image: image.manifest) == sorted(
                images, key=lambda image: image.manifest
            )

    @pytest.mark.parametrize("name", [b"a?mode=memory", b"a#b", b"100%41", b"a b", b"\xc3\xa9", b"\xff\xfe", b"a:b"])
    def test_any_directory_will_do(self, tmp_path, name):
        directory = tmp_path / os.fsdecode(name)
        directory.mkdir()
        make(directory / "catalog.db")
        assert sorted(os.listdir(directory)) == ["catalog.db"]
        with SqliteCatalog(directory / "catalog.db") as catalog:
            assert manifests(catalog) == seeds(3)

    def test_a_directory_that_is_not_there_is_not_made(self, tmp_path):
        with refuses(NotFound, "file-not-found"):
            SqliteCatalog(tmp_path / "no" / "catalog.db")
        assert os.listdir(tmp_path) == []

    def test_descriptors_are_given_back(self, path):
        make(path)
        before = sorted(os.listdir("/proc/self/fd"))
        make(path)
        path.write_bytes(b"x" * 5000)
        with refuses(Integrity):
            SqliteCatalog(path)
        assert sorted(os.listdir("/proc/self/fd")) == before


class TestFilesThatAreNoCatalog:
    @pytest.mark.parametrize(
        "content",
        [b"", b"\0" * 100, b"no database", b"SQLite format 3\0", b"SQLite format 3\0" + b"x" * 5000, os.urandom(9000)],
        ids=["empty", "zeros", "text", "magic only", "magic and noise", "noise"],
    )
    def test_other_bytes(self, path, content):
        path.write_bytes(content)
        with refuses(Integrity, naming=str(path)):
            SqliteCatalog(path)
        assert path.read_bytes() == content

    def test_the_database_of_another_program(self, path):
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.close()
        with refuses(Integrity, "catalog-not-database", naming=str(path)):
            SqliteCatalog(path)

    def test_a_directory(self, path):
        path.mkdir()
        with pytest.raises((AccessDenied, Unavailable)):
            SqliteCatalog(path)

    def test_a_newer_catalog(self, path):
        make(path)
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO schema_version VALUES (99, 0)")
        connection.commit()
        connection.close()
        before = path.read_bytes()
        with refuses(Unsupported, "store-too-new", naming="99"):
            SqliteCatalog(path)
        assert path.read_bytes() == before

    def test_a_catalog_that_lost_a_table(self, path):
        make(path)
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE layers")
        connection.commit()
        connection.close()
        with SqliteCatalog(path) as catalog, refuses(Integrity, "catalog-damaged", naming="layers"):
            catalog.images()

    def test_a_catalog_that_lost_its_version(self, path):
        make(path)
        connection = sqlite3.connect(path)
        connection.execute("DELETE FROM schema_version")
        connection.commit()
        connection.close()
        with refuses(Integrity, "catalog-damaged", naming="version"):
            SqliteCatalog(path)

    @pytest.mark.parametrize(
        ("column", "value"), [("id", "sha256:short"), ("platform", "{"), ("platform", "[1]"), ("parent", "x")]
    )
    def test_a_row_that_nobody_can_have_written(self, path, column, value):
        make(path)
        connection = sqlite3.connect(path)
        connection.execute(f"UPDATE images SET {column} = ?", (value,))
        connection.commit()
        connection.close()
        with SqliteCatalog(path) as catalog, refuses(Integrity, "catalog-damaged", naming=str(path)):
            catalog.images()

    def test_any_damaged_page_is_an_error_or_does_no_harm(self, path, tmp_path):
        make(path, images=30)
        whole = path.read_bytes()
        outcomes = set()
        for page in range(0, len(whole), 4096):
            copy = tmp_path / f"copy{page}.db"
            copy.write_bytes(whole[:page] + b"\xa5" * 4096 + whole[page + 4096 :])
            outcomes.add(self.use(copy))
        assert outcomes <= {"works", "catalog-not-database", "catalog-damaged"}
        assert "catalog-damaged" in outcomes

    def test_any_truncation_is_an_error(self, path, tmp_path):
        make(path, images=30)
        whole = path.read_bytes()
        for length in [1, 99, 100, 4095, *range(4096, len(whole), 4096)]:
            copy = tmp_path / f"copy{length}.db"
            copy.write_bytes(whole[:length])
            assert self.use(copy) in ("catalog-not-database", "catalog-damaged")

    def use(self, path):
        """What comes of reading and writing everything: a code, or ``works``."""
        try:
            with SqliteCatalog(path) as catalog:
                damaged = bool(catalog.problems())
                catalog.documents()
                catalog.images()
                catalog.reachable([])
                image = add(catalog, "another")
                catalog.set_name("n", image.manifest)
        except LamellaError as error:
            return error.code
        return "catalog-damaged" if damaged else "works"

    def test_problems_tells_of_damage(self, path):
        make(path)
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO names VALUES ('n', 'sha256:nowhere', 0)")
        connection.commit()
        connection.close()
        with SqliteCatalog(path) as catalog:
            assert catalog.problems() == ["a row of names points at a row of documents that is not there"]


class TestMigrations:
    NEWER = (*MIGRATIONS, ("CREATE TABLE extra (x TEXT) STRICT", "INSERT INTO extra VALUES ('here')"))

    def test_an_older_catalog_is_brought_up_to_date_once(self, path):
        make(path)
        for _ in range(2):
            with SqliteCatalog(path, migrations=self.NEWER) as catalog:
                assert manifests(catalog) == seeds(3)
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT x FROM extra").fetchall() == [("here",)]
        versions = connection.execute("SELECT version FROM schema_version ORDER BY 1").fetchall()
        assert versions == [(number + 1,) for number in range(len(self.NEWER))]
        connection.close()
        with refuses(Unsupported, "store-too-new"):
            SqliteCatalog(path)

    @pytest.mark.parametrize("released", range(1, len(MIGRATIONS)))
    def test_the_catalog_of_every_earlier_version_is_read(self, path, released):
        with SqliteCatalog(path, migrations=MIGRATIONS[:released]):
            pass
        make(path)
        with SqliteCatalog(path) as catalog:
            assert manifests(catalog) == seeds(3)
            assert catalog.problems() == catalog.dropped_blobs() == []

    def test_a_step_that_fails_leaves_the_older_catalog(self, path):
        make(path)
        broken = (*MIGRATIONS, ("CREATE TABLE extra (x TEXT) STRICT", "INSERT INTO nowhere VALUES (1)"))
        with refuses(Integrity, "catalog-damaged", naming="nowhere"):
            SqliteCatalog(path, migrations=broken)
        with SqliteCatalog(path) as catalog:
            assert manifests(catalog) == seeds(3)
        with SqliteCatalog(path, migrations=self.NEWER) as catalog:
            assert manifests(catalog) == seeds(3)


DURABLE = """
import sys
from pathlib import Path
from lamella.catalog.sqlite import SqliteCatalog
from lamella.testing.catalog import add
catalog = SqliteCatalog(Path(sys.argv[1]))
print("open", flush=True)
if sys.argv[2] == "image":
    with catalog.transaction():
        add(catalog, "image 0")
        add(catalog, "image 1")
else:
    catalog.add_lease("one", "pull")
    catalog.extend_lease("one", ["r"])
import os
os._exit(0)
"""


@needs_strace
class TestDurability:
    CALLS = ("pwrite64", "fsync", "fdatasync")

    def trace(self, path, what):
        make(path, images=0)
        calls = tracing.trace([sys.executable, "-c", DURABLE, str(path), what], self.CALLS, below=path.parent)
        return [call.name for call in calls if "catalog.db-wal" in call.arguments]

    def test_a_commit_waits_for_the_disk(self, path):
        calls = self.trace(path, "image")
        assert calls[-1] in ("fsync", "fdatasync")
        assert "pwrite64" in calls

    def test_a_lease_does_not(self, path):
        calls = self.trace(path, "lease")
        assert calls[-1] == "pwrite64"

    def test_a_new_catalog_is_durable_before_it_has_its_name(self, path):
        calls = tracing.trace(
            [sys.executable, "-c", DURABLE, str(path), "lease"],
            ["write", "fsync", "?rename", "?renameat", "?renameat2"],
            below=path.parent,
        )
        names = [call.name for call in calls[:4]]
        assert names[0] == "write"
        assert names[1] == "fsync"
        assert names[2].startswith("rename")
        assert names[3] == "fsync"
        assert f"{path.parent}>" in calls[3].arguments


STEPS = """
import sys
from pathlib import Path
from lamella.catalog.sqlite import SqliteCatalog
from lamella.testing.catalog import add, sample_image
with SqliteCatalog(Path(sys.argv[1])) as catalog:
    for n in range(2):
        with catalog.transaction():
            image = add(catalog, f"image {n}")
            catalog.set_name(f"name {n}", image.manifest)
        with open(sys.argv[2], "a") as log:
            log.write(f"{n}\\n")
"""
KILLED = ["pwrite64", "fsync", "fdatasync", "ftruncate", "write", "close"]
KILLED += ["?unlink", "?unlinkat", "?rename", "?renameat"]


@needs_strace
@pytest.mark.parametrize("call", KILLED)
def test_killed_at_any_system_call_nothing_reported_is_lost_and_nothing_is_half_there(tmp_path, call):
    for number in count(1):
        root = tmp_path / str(number)
        root.mkdir()
        path, log = root / "catalog.db", root / "log"
        files = [root, *(root / f"catalog.db{suffix}" for suffix in ("", "-wal", "-shm"))]
        command = [sys.executable, "-c", STEPS, str(path), str(log)]
        was_killed = tracing.killed_at(command, call, number, paths=files)
        reported = len(log.read_text().split()) if log.exists() else 0
        with SqliteCatalog(path) as catalog:
            found = len(catalog.images())
            assert found in (reported, reported + 1)
            assert manifests(catalog) == seeds(found)
            assert [record.name for record in catalog.names()] == [f"name {n}" for n in range(found)]
            assert catalog.problems() == []
            for n in range(2):
                add(catalog, f"image {n}")
            assert manifests(catalog) == seeds(2)
        if not was_killed:
            break


def _write(path, number, results):
    with SqliteCatalog(path) as catalog:
        for step in range(10):
            with catalog.transaction():
                image = add(catalog, f"image {10 * number + step}")
                catalog.set_name("contended", image.manifest)
            catalog.add_lease(f"{number} {step}", "x")
            if not catalog.names():
                results.put("a reader saw half a change")
    results.put("done")


def _migrate(path, number, results):
    with SqliteCatalog(path, migrations=TestMigrations.NEWER) as catalog:
        results.put("done" if manifests(catalog) == seeds(3) else "lost")


class TestManyProcesses:
    def run(self, target, path, method):
        context = get_context(method)
        results = context.Queue()
        workers = [context.Process(target=target, args=(path, number, results)) for number in range(8)]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=120) for _ in workers]
        for worker in workers:
            worker.join()
        assert outcomes == ["done"] * 8

    def test_eight_processes_make_and_write_one_catalog(self, path):
        self.run(_write, path, "spawn")
        with SqliteCatalog(path) as catalog:
            assert manifests(catalog) == seeds(80)
            assert len(catalog.leases()) == 80
            assert catalog.generation() == 80 + 80
            assert catalog.problems() == []
        assert [name for name in os.listdir(path.parent) if name.startswith("catalog")] == ["catalog.db"]

    def test_eight_processes_bring_one_catalog_up_to_date(self, path):
        make(path)
        self.run(_migrate, path, "spawn")

    def test_a_waiting_writer_gives_up_and_readers_never_wait(self, path):
        with SqliteCatalog(path) as writer, SqliteCatalog(path, busy_seconds=0.05) as other:
            first = add(writer, "image 0")
            with writer.transaction():
                add(writer, "image 1")
                assert manifests(other) == seeds(1)
                with refuses(Conflict, "catalog-busy", naming=str(path)):
                    other.set_name("n", first.manifest)
            assert manifests(other) == seeds(2)
            other.set_name("n", first.manifest)


class TestForks:
    """A child gets copies of everything but the locks."""

    def in_child(self, work):
        """What ``work`` returns or raises in a forked child, as text."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                outcome = str(work())
            except LamellaError as error:
                outcome = error.code
            os.write(write, outcome.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            outcome = answer.read()
        assert os.waitpid(pid, 0)[1] == 0
        return outcome

    def test_both_sides_go_on(self, path):
        with SqliteCatalog(path) as catalog:
            add(catalog, "image 0")
            assert self.in_child(lambda: len(catalog.images())) == "1"
            assert self.in_child(lambda: add(catalog, "image 1").media_type) == sample_image("x")[0].media_type
            add(catalog, "image 2")
            assert manifests(catalog) == seeds(3)
            assert catalog.problems() == []

    def test_a_child_of_a_transaction_must_not_touch_the_catalog(self, path):
        with SqliteCatalog(path) as catalog:
            with catalog.transaction():
                add(catalog, "image 0")
                assert self.in_child(catalog.images) == "catalog-forked"
                assert self.in_child(lambda: add(catalog, "image 1")) == "catalog-forked"
                assert self.in_child(lambda: SqliteCatalog(path)) == "catalog-forked"
            assert manifests(catalog) == seeds(1)
            assert self.in_child(lambda: len(catalog.images())) == "1"

    def test_a_child_that_leaves_the_transaction_commits_nothing(self, path):
        with SqliteCatalog(path) as catalog:
            pid = 1
            try:
                with catalog.transaction():
                    add(catalog, "image 0")
                    pid = os.fork()
                    if pid:
                        os.waitpid(pid, 0)
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
            except FailedPrecondition as error:
                os._exit(0 if error.code == "catalog-forked" else 1)
            finally:
                if pid == 0:
                    os._exit(1)
            assert catalog.images() == []
            assert catalog.problems() == []

    def test_eight_forked_processes_write_one_catalog(self, path):
        with SqliteCatalog(path) as catalog:
            TestManyProcesses().run(_write, path, "fork")
            assert manifests(catalog) == seeds(80)
            assert catalog.problems() == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB."""
    if reason := disks.missing():
        pytest.skip(reason)
    with disks.small_disk(tmp_path / "disk", kib=512) as disk:
        yield disk


class TestDisks:
    def test_a_full_disk_is_said_and_loses_nothing(self, small_disk):
        path = small_disk / "catalog.db"
        with SqliteCatalog(path) as catalog:
            recorded = 0
            with refuses(ResourceExhausted, "disk-full", naming=str(path)):
                for recorded in count():
                    add(catalog, f"image {recorded}", layers=[f"layer {n}" for n in range(20)])
            assert recorded > 1
            assert len(catalog.images()) == recorded
            assert catalog.problems() == []
        with SqliteCatalog(path) as catalog:
            assert len(catalog.images()) == recorded

    def test_a_transaction_that_the_full_disk_undid_cannot_go_on(self, small_disk):
        def fill():
            for number in range(100):
                catalog.add_lease(str(number), "x" * 200_000)

        with SqliteCatalog(small_disk / "catalog.db") as catalog:
            kept = add(catalog, "kept")
            with refuses(Aborted, "catalog-undone"), catalog.transaction():
                lost = add(catalog, "lost")
                with refuses(ResourceExhausted, "disk-full"):
                    fill()
                catalog.set_name("n", lost.manifest)
            assert (catalog.leases(), catalog.names()) == ([], [])
            assert [image.manifest for image in catalog.images()] == [kept.manifest]
            catalog.set_name("n", kept.manifest)

    def test_no_space_for_a_new_catalog(self, small_disk):
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(1 << 20))
        with refuses(ResourceExhausted, "disk-full"):
            SqliteCatalog(small_disk / "catalog.db")
        assert os.listdir(small_disk) == ["ballast"]

    def test_a_read_only_disk_is_access_denied(self, small_disk):
        make(small_disk / "catalog.db")
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(AccessDenied):
            SqliteCatalog(small_disk / "catalog.db")
        with refuses(AccessDenied):
            SqliteCatalog(small_disk / "other.db")

    def test_a_store_that_vanishes_is_an_error_and_is_not_made_again(self, path):
        make(path)
        catalog = SqliteCatalog(path)
        catalog._database._pool._close_idle()
        shutil.rmtree(path.parent)
        with refuses(Unavailable, "catalog-io"):
            catalog.images()
        assert not path.parent.exists()
        catalog.close()
