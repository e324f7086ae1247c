"""Both stores keep the contract, and the store in a directory what is its own."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from _machine import run_as_nobody
from lamella.content.local import LocalContent
from lamella.content.memory import MemoryContent
from lamella.errors import AccessDenied, FailedPrecondition, Integrity, InvalidInput, NotFound, ResourceExhausted
from lamella.spec.digest import Digest
from lamella.testing import refuses
from lamella.testing.content import BLOB, DIGEST, OTHER, ContentSuite, assert_empty, put
from lamella.testing.faults import Fault, calls, inject


class TestLocalContent(ContentSuite):
    pass


class TestMemoryContent(ContentSuite):
    @pytest.fixture
    def content(self):
        return MemoryContent()


class TestContentBehindAStandIn(ContentSuite):
    """A fault wrapper with no fault to inject changes nothing."""

    @pytest.fixture
    def content(self, tmp_path):
        return inject(LocalContent(tmp_path), Fault("open_ingest.write", 10**9, OSError()))


def blob_file(root, digest):
    return root / "blobs" / digest.algorithm / digest.hex


def files(root):
    """Every path below ``root`` that is no directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


class TestTheDirectory:
    def test_a_blob_is_a_file_where_an_image_layout_has_it(self, content, tmp_path):
        put(content, BLOB)
        path = content.path(DIGEST)
        assert path == tmp_path / "blobs" / "sha256" / DIGEST.hex
        assert path.read_bytes() == BLOB
        assert files(tmp_path) == [f"blobs/sha256/{DIGEST.hex}"]

    def test_blobs_are_0644_whatever_the_umask(self, content, tmp_path):
        before = os.umask(0o077)
        try:
            put(content, BLOB)
        finally:
            os.umask(before)
        assert stat.S_IMODE(blob_file(tmp_path, DIGEST).stat().st_mode) == 0o644

    def test_opening_creates_nothing(self, tmp_path):
        store = LocalContent(tmp_path / "nowhere")
        assert_empty(store)
        assert not store.exists(DIGEST)
        assert not (tmp_path / "nowhere").exists()

    def test_files_that_are_no_blobs_are_passed_over(self, content, tmp_path):
        put(content, BLOB)
        directory = tmp_path / "blobs" / "sha256"
        (directory / "README").write_text("not a blob")
        (directory / DIGEST.hex.upper()).write_text("upper case")
        (directory / OTHER.hex).symlink_to(DIGEST.hex)
        (directory / ("0" * 64)).mkdir()
        os.mkfifo(directory / ("1" * 64))
        (tmp_path / "blobs" / "md5").mkdir()
        (tmp_path / "blobs" / "md5" / ("2" * 32)).write_text("another algorithm")
        (tmp_path / "ingest" / "layer.tar").write_text("somebody else's")
        assert list(content.walk()) == [content.info(DIGEST)]
        assert list(content.ingests()) == []

    def test_a_link_a_directory_or_a_fifo_is_no_blob(self, content, tmp_path):
        put(content, BLOB)
        blob_file(tmp_path, OTHER).symlink_to(DIGEST.hex)
        fifo, directory = Digest("sha256", "1" * 64), Digest("sha256", "0" * 64)
        os.mkfifo(blob_file(tmp_path, fifo))
        blob_file(tmp_path, directory).mkdir()
        for digest in (fifo, directory):
            assert not content.exists(digest)
            with refuses(NotFound, "blob-not-found"):
                content.open(digest)
        assert not content.exists(OTHER)
        with refuses(InvalidInput, "path-invalid"):
            content.open(OTHER)

    def test_a_blob_that_was_cut_short_is_replaced_by_a_whole_one(self, content, tmp_path):
        put(content, BLOB)
        os.truncate(blob_file(tmp_path, DIGEST), 10)
        put(content, BLOB)
        assert content.read(DIGEST, limit=len(BLOB)) == BLOB

    def test_a_blob_that_may_not_be_read_is_access_denied(self):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            root.chmod(0o755)
            store = LocalContent(root)
            put(store, BLOB)
            blob_file(root, DIGEST).chmod(0)
            with refuses(AccessDenied, "access-denied", naming=str(DIGEST)):
                run_as_nobody(store.open, DIGEST)

    def test_a_name_too_long_for_a_file_is_refused(self, content):
        with refuses(InvalidInput, "ingest-ref"):
            content.open_ingest("x" * 251)
        content.open_ingest("x" * 250).abort()

    def test_an_algorithm_chosen_beforehand(self, content):
        with content.open_ingest("ref", algorithm="sha512") as ingest:
            ingest.write(BLOB)
            assert ingest.commit() == Digest.of(BLOB, "sha512")
        with content.open_ingest("ref", algorithm="sha512") as ingest:
            ingest.write(BLOB)
            assert ingest.commit(expected=DIGEST) == DIGEST
        assert {info.digest.algorithm for info in content.walk()} == {"sha256", "sha512"}
        with refuses(InvalidInput, "digest-algorithm", naming="md5"):
            content.open_ingest("ref", algorithm="md5")
        assert list(content.ingests()) == []

    def test_bytes_that_rotted_between_two_runs_are_found_at_the_end(self, content, tmp_path):
        with content.open_ingest("long", keep=True) as ingest:
            ingest.write(BLOB[:1000])
        (file,) = (tmp_path / "ingest").iterdir()
        file.write_bytes(b"\0" * 1000)
        with content.open_ingest("long", keep=True) as ingest:
            ingest.write(BLOB[1000:])
            with refuses(Integrity, "digest-mismatch"):
                ingest.commit(expected=DIGEST, size=len(BLOB))
        assert files(tmp_path) == []

    def test_descriptors_are_given_back(self, content):
        put(content, BLOB)
        before = sorted(os.listdir("/proc/self/fd"))
        with content.open(DIGEST) as reader:
            reader.read(1)
        for error in (NotFound, Integrity):
            with refuses(error):
                content.open(OTHER if error is NotFound else DIGEST, size=1)
        with content.open_ingest("ref") as ingest:
            ingest.write(b"x")
            with refuses(Integrity):
                ingest.commit(expected=DIGEST)
        list(content.walk())
        list(content.ingests())
        assert sorted(os.listdir("/proc/self/fd")) == before


class TestAdopting:
    def test_a_finished_file_is_taken_over(self, content, tmp_path):
        file = tmp_path / "layer.tar"
        file.write_bytes(BLOB)
        content.adopt(file, DIGEST, len(BLOB))
        assert files(tmp_path) == [f"blobs/sha256/{DIGEST.hex}"]
        assert content.read(DIGEST, limit=len(BLOB)) == BLOB

    def test_a_kept_file_shares_its_bytes_with_the_blob(self, content, tmp_path):
        file = tmp_path / "layer.tar"
        file.write_bytes(BLOB)
        content.adopt(file, DIGEST, len(BLOB), keep=True)
        assert file.samefile(blob_file(tmp_path, DIGEST))
        content.remove(DIGEST)
        assert file.read_bytes() == BLOB

    @pytest.mark.parametrize("keep", [False, True])
    def test_a_blob_that_is_there_stays(self, content, tmp_path, keep):
        put(content, BLOB)
        inode = blob_file(tmp_path, DIGEST).stat().st_ino
        file = tmp_path / "layer.tar"
        file.write_bytes(BLOB)
        content.adopt(file, DIGEST, len(BLOB), keep=keep)
        assert blob_file(tmp_path, DIGEST).stat().st_ino == inode
        assert file.exists() is keep

    @pytest.mark.parametrize("keep", [False, True])
    def test_a_blob_that_was_cut_short_is_replaced(self, content, tmp_path, keep):
        put(content, BLOB)
        os.truncate(blob_file(tmp_path, DIGEST), 1)
        file = tmp_path / "layer.tar"
        file.write_bytes(BLOB)
        content.adopt(file, DIGEST, len(BLOB), keep=keep)
        assert content.read(DIGEST, limit=len(BLOB)) == BLOB

    def test_a_file_of_another_size_is_refused(self, content, tmp_path):
        file = tmp_path / "layer.tar"
        file.write_bytes(BLOB)
        with refuses(Integrity, "size-mismatch", naming=str(DIGEST)):
            content.adopt(file, DIGEST, len(BLOB) + 1)
        assert files(tmp_path) == ["layer.tar"]

    def test_what_is_no_file_is_refused(self, content, tmp_path):
        (tmp_path / "there").write_bytes(BLOB)
        (tmp_path / "link").symlink_to("there")
        os.mkfifo(tmp_path / "fifo")
        for name, error in (("link", InvalidInput), ("fifo", InvalidInput), ("absent", NotFound), ("", InvalidInput)):
            with refuses(error):
                content.adopt(tmp_path / name, DIGEST, len(BLOB))
        assert not content.exists(DIGEST)

    def test_a_file_of_another_file_system_is_refused(self, content, tmp_path):
        here = tmp_path.stat().st_dev
        others = [d for d in ("/dev/shm", "/run", "/tmp") if os.access(d, os.W_OK) and os.stat(d).st_dev != here]
        if not others:
            pytest.skip("everything writable here is one file system")
        file = Path(others[0]) / f"lamella-test-{os.getpid()}"
        file.write_bytes(BLOB)
        try:
            with refuses(InvalidInput, "path-invalid"):
                content.adopt(file, DIGEST, len(BLOB))
            assert file.exists()
        finally:
            file.unlink()
        assert_empty(content)


class TestFaults:
    """The wrapper that other parts test their own failures with."""

    def test_the_nth_call_fails_and_the_rest_works(self, tmp_path):
        store = inject(LocalContent(tmp_path), Fault("exists", 2, NotFound("gone")))
        assert store.exists(DIGEST) is False
        with refuses(NotFound, naming="gone"):
            store.exists(DIGEST)
        assert store.exists(DIGEST) is False
        assert calls(store) == {"exists": 3}

    def test_a_failing_write_leaves_nothing(self, tmp_path):
        store = inject(LocalContent(tmp_path), Fault("open_ingest.write", 2, ResourceExhausted("disk full")))
        with refuses(ResourceExhausted), store.open_ingest("ref") as ingest:
            ingest.write(BLOB[:10])
            ingest.write(BLOB[10:])
        assert_empty(store)
        assert files(tmp_path) == []

    def test_a_fault_after_the_work_is_done(self, tmp_path):
        store = inject(LocalContent(tmp_path), Fault("open_ingest.commit", 1, FailedPrecondition("lost"), after=True))
        with refuses(FailedPrecondition, naming="lost"):
            put(store, BLOB)
        assert store.exists(DIGEST)
