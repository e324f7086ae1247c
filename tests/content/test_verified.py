"""No reader gets to the end of bytes that are not what they should be."""

from __future__ import annotations

import errno
import io
import os

import pytest

from lamella.content.verified import VerifiedReader
from lamella.errors import Integrity, NotFound, Unavailable
from lamella.spec.digest import Digest
from lamella.testing import refuses
from lamella.testing.content import BLOB, DIGEST, put

READS = [1, 7, 1999, 2000, 2001, 1 << 20, -1]


class Trickle(io.BytesIO):
    """A stream that gives a byte at a time, as sockets may."""

    def read(self, size=-1):
        return super().read(min(size, 1) if size >= 0 else 1)


def read_all(reader, size):
    parts = []
    while part := reader.read(size):
        parts.append(part)
    return b"".join(parts)


def received(reader, size):
    """What a reader hands out before it raises."""
    parts = []
    with pytest.raises(Integrity) as caught:
        while part := reader.read(size):
            parts.append(part)
    return b"".join(parts), caught.value


@pytest.mark.parametrize("size", READS)
@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
class TestAnyReadSize:
    def test_the_right_bytes_pass(self, stream, size):
        with VerifiedReader(stream(BLOB), DIGEST, len(BLOB)) as reader:
            assert read_all(reader, size) == BLOB
            assert reader.verified
            assert reader.read(size) == b""

    def test_a_changed_byte_is_seen_before_the_end(self, stream, size):
        wrong = b"T" + BLOB[1:]
        data, error = received(VerifiedReader(stream(wrong), DIGEST, len(BLOB)), size)
        assert len(data) < len(BLOB)
        assert error.code == "digest-mismatch"
        assert str(Digest.of(wrong)) in str(error)
        assert str(DIGEST) in str(error)

    def test_a_byte_too_few(self, stream, size):
        data, error = received(VerifiedReader(stream(BLOB[:-1]), DIGEST, len(BLOB)), size)
        assert len(data) <= len(BLOB) - 1
        assert error.code == "size-mismatch"
        assert "ends after 1999 of 2000" in str(error)

    def test_a_byte_too_many(self, stream, size):
        data, error = received(VerifiedReader(stream(BLOB + b"\n"), DIGEST, len(BLOB)), size)
        assert len(data) < len(BLOB)
        assert error.code == "size-mismatch"

    def test_the_empty_blob(self, stream, size):
        assert read_all(VerifiedReader(stream(b""), Digest.of(b""), 0), size) == b""
        assert received(VerifiedReader(stream(b"x"), Digest.of(b""), 0), size)[1].code == "size-mismatch"
        assert received(VerifiedReader(stream(b""), DIGEST, 0), size)[1].code == "digest-mismatch"


def test_sha512_is_verified_too():
    digest = Digest.of(BLOB, "sha512")
    assert VerifiedReader(io.BytesIO(BLOB), digest, len(BLOB)).read() == BLOB
    assert received(VerifiedReader(io.BytesIO(BLOB[::-1]), digest, len(BLOB)), -1)[1].code == "digest-mismatch"


def test_a_failure_stays():
    reader = VerifiedReader(io.BytesIO(b"x"), DIGEST, len(BLOB))
    for _ in range(3):
        with refuses(Integrity, "size-mismatch"):
            reader.drain()


def test_an_endless_stream_is_cut_off():
    class Endless:
        given = 0

        def read(self, size):
            self.given += size
            return bytes(size)

        def close(self):
            pass

    stream = Endless()
    with refuses(Integrity, "size-mismatch"):
        VerifiedReader(stream, DIGEST, len(BLOB)).read()
    assert stream.given <= 2 << 20


def test_nothing_is_read_for_nothing():
    reader = VerifiedReader(io.BytesIO(BLOB), DIGEST, len(BLOB))
    assert reader.read(0) == b""
    assert not reader.verified
    reader.drain()
    assert reader.verified


def test_an_error_of_the_disk_is_typed():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    with refuses(Unavailable, "os-error", naming=str(DIGEST)):
        VerifiedReader(Broken(), DIGEST, len(BLOB)).read()


class TestFilesThatChangeOnDisk:
    @pytest.fixture
    def blob(self, content):
        put(content, BLOB)
        return content.path(DIGEST)

    def test_a_flipped_bit(self, content, blob):
        data = bytearray(BLOB)
        data[1234] ^= 1
        blob.write_bytes(data)
        with refuses(Integrity, "digest-mismatch", naming=str(DIGEST)):
            content.read(DIGEST, limit=1 << 20)

    def test_a_truncated_file(self, content, blob):
        os.truncate(blob, 5)
        with refuses(Integrity, "digest-mismatch"):
            content.read(DIGEST, limit=1 << 20)
        with refuses(Integrity, "size-mismatch"):
            content.open(DIGEST, size=len(BLOB))

    @pytest.mark.parametrize("length", [0, 1500, 2500])
    def test_a_file_that_changes_its_length_while_it_is_read(self, content, blob, length):
        with content.open(DIGEST) as reader:
            assert reader.read(1000) == BLOB[:1000]
            os.truncate(blob, length)
            with refuses(Integrity, "size-mismatch"):
                reader.drain()

    def test_a_file_that_vanishes(self, content, blob):
        blob.unlink()
        with refuses(NotFound, "blob-not-found"):
            content.read(DIGEST, limit=1 << 20)
