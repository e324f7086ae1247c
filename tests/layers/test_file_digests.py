"""Digests of files: computed from chunks of any size, kept in the index, and read back."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import Integrity
from lamella.layers.entry import Entry, Kind
from lamella.layers.filedigests import EMPTY, RECORD, FileDigests, FileHasher
from lamella.layers.index import MAGIC, LayerIndex, with_digests
from lamella.layers.ingest import INDEX_NAME, ingest_layer
from lamella.spec.digest import Digest
from lamella.testing import refuses
from support import building


def records(tar: bytes, files: list[tuple[int, int]]) -> bytes:
    """What has to come out, by the book."""
    return b"".join(RECORD.pack(at, hashlib.sha256(tar[at : at + size]).digest()) for at, size in files)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 120)), max_size=12),
    st.lists(st.integers(1, 90), min_size=1, max_size=6),
    st.booleans(),
)
def test_files_are_hashed_wherever_chunks_end(gaps, sizes, early):
    files, at = [], 0
    for gap, size in gaps:
        files.append((at + gap, size))
        at += gap + size
    tar = bytes(n * 7 % 251 for n in range(at + 30))
    hasher, position, told, turn = FileHasher(), 0, 0, 0
    while position < len(tar):
        chunk = tar[position : position + sizes[turn % len(sizes)]]
        position, turn = position + len(chunk), turn + 1
        while told < len(files) and (early or files[told][0] < position):
            hasher.begin(*files[told])
            told += 1
        hasher.put(chunk)
    assert hasher.finish() == records(tar, files)


def test_large_files_are_hashed_beside_the_caller():
    tar = bytes(range(256)) * 8192
    files = [(512, 1_000_000), (1_000_512, 1), (1_000_513, 1_000_000)]
    hasher = FileHasher()
    for at in range(0, len(tar), 100_000):
        for file in files:
            if at <= file[0] < at + 100_000:
                hasher.begin(*file)
        hasher.put(tar[at : at + 100_000])
    assert hasher.finish() == records(tar, files)
    hasher.stop()


LAYER = building.tar(building.directory("d"), building.file("d/x", "x" * 3000), building.file("empty"),
                     building.file("y", "y"), building.gone("z"))  # fmt: skip


@pytest.fixture
def index_file(tmp_path):
    ingest_layer(io.BytesIO(LAYER), tmp_path, lambda data: None)
    return tmp_path / INDEX_NAME


def hashed(index: LayerIndex) -> bytes:
    return records(LAYER, [(entry.offset, entry.size) for entry in index.entries if entry.size])


class TestIndex:
    def test_an_index_without_digests_is_of_the_first_version(self, index_file):
        assert index_file.read_bytes().startswith(MAGIC)
        assert not LayerIndex.has_digests(index_file)
        assert LayerIndex.load(index_file).digests is None

    def test_digests_are_kept_and_the_rest_stays(self, index_file):
        before, sizes = LayerIndex.load(index_file), LayerIndex.sizes(index_file)
        index_file.write_bytes(with_digests(index_file.read_bytes(), hashed(before)))
        after = LayerIndex.load(index_file)
        assert LayerIndex.has_digests(index_file)
        assert LayerIndex.sizes(index_file) == sizes
        assert (after.diff_id, after.tar_size, list(after)) == (before.diff_id, before.tar_size, list(before))
        assert after.digests is not None
        found = {entry.path: after.digests.of(entry) for entry in after}
        assert found == {
            b"d": None,
            b"d/x": Digest.of(b"x" * 3000),
            b"empty": EMPTY,
            b"y": Digest.of(b"y"),
            b"z": None,
        }
        (y,) = [entry for entry in after.entries if entry.path == b"y"]
        assert after.digests.offsets(Digest.of(b"y")) == {y.offset}
        assert after.digests.offsets(Digest.of(b"not there")) == set()

    def test_they_are_added_once(self, index_file):
        once = with_digests(index_file.read_bytes(), hashed(LayerIndex.load(index_file)))
        assert with_digests(once, b"") == once

    def test_a_damaged_index_gets_none(self, index_file):
        data = bytearray(index_file.read_bytes())
        data[20] ^= 1
        with refuses(Integrity, "index-damaged"):
            with_digests(bytes(data), b"")

    def test_a_wrong_byte_in_them_is_damage(self, index_file):
        data = bytearray(with_digests(index_file.read_bytes(), hashed(LayerIndex.load(index_file))))
        data[-130] ^= 1
        index_file.write_bytes(data)
        with refuses(Integrity, "index-damaged"):
            LayerIndex.load(index_file)

    def test_what_has_no_content_of_its_own_has_no_digest(self):
        digests = FileDigests(RECORD.pack(512, b"d" * 32))
        sparse = Entry(b"s", Kind.REGULAR, size=10_000, offset=512, sparse=((0, 10),))
        for entry in (Entry(b"d", Kind.DIRECTORY), Entry(b"l", Kind.SYMLINK, link=b"x"), sparse):
            assert digests.of(entry) is None
        assert digests.of(Entry(b"f", Kind.REGULAR, size=1, offset=1024)) is None
        assert len(digests) == 1
