"""What every ContentStore must do. Subclass ``ContentSuite`` and provide the fixture ``content``: an empty store."""

from __future__ import annotations

from lamella.content.protocol import BlobInfo, ContentStore, IngestInfo
from lamella.errors import Conflict, FailedPrecondition, Integrity, InvalidInput, NotFound, ResourceExhausted
from lamella.spec.digest import Digest
from lamella.testing import refuses

BLOB = b"the bytes of a blob\n" * 100
DIGEST = Digest.of(BLOB)
OTHER = Digest.of(b"other bytes")


def put(content: ContentStore, data: bytes, *, ref: str = "put") -> Digest:
    """Store one blob."""
    with content.open_ingest(ref) as ingest:
        ingest.write(data)
        return ingest.commit()


def assert_empty(content: ContentStore) -> None:
    """Neither blobs nor ingests are there."""
    assert list(content.walk()) == []
    assert list(content.ingests()) == []


class ContentSuite:
    """The contract of ``lamella.content.protocol``, for one thread in one process."""

    # blobs

    def test_a_committed_blob_is_read_back(self, content: ContentStore) -> None:
        assert put(content, BLOB) == DIGEST
        assert content.read(DIGEST, limit=len(BLOB)) == BLOB
        with content.open(DIGEST) as reader:
            assert (reader.digest, reader.size) == (DIGEST, len(BLOB))
            assert reader.read() == BLOB
            assert reader.read() == b""

    def test_a_blob_is_read_in_pieces(self, content: ContentStore) -> None:
        put(content, BLOB)
        with content.open(DIGEST) as reader:
            assert b"".join(iter(lambda: reader.read(7), b"")) == BLOB

    def test_the_empty_blob_is_a_blob(self, content: ContentStore) -> None:
        digest = put(content, b"")
        assert digest == Digest.of(b"")
        assert content.info(digest) == BlobInfo(digest, 0)
        assert content.read(digest, limit=0) == b""

    def test_info_and_exists_tell_the_size(self, content: ContentStore) -> None:
        put(content, BLOB)
        assert content.info(DIGEST) == BlobInfo(DIGEST, len(BLOB))
        assert content.exists(DIGEST)
        assert content.exists(DIGEST, len(BLOB))
        assert not content.exists(DIGEST, len(BLOB) - 1)

    def test_a_missing_blob_is_not_found(self, content: ContentStore) -> None:
        for look in (content.open, content.info, lambda digest: content.read(digest, limit=1)):
            with refuses(NotFound, "blob-not-found", naming=str(OTHER)):
                look(OTHER)
        assert not content.exists(OTHER)
        assert content.path(OTHER) is None
        assert content.remove(OTHER) is False

    def test_a_blob_over_the_limit_is_not_read(self, content: ContentStore) -> None:
        put(content, BLOB)
        with refuses(ResourceExhausted, "blob-size", naming=str(DIGEST)):
            content.read(DIGEST, limit=len(BLOB) - 1)

    def test_a_blob_of_another_size_than_announced_is_not_opened(self, content: ContentStore) -> None:
        put(content, BLOB)
        content.open(DIGEST, size=len(BLOB)).close()
        with refuses(Integrity, "size-mismatch", naming=str(DIGEST)):
            content.open(DIGEST, size=len(BLOB) + 1)

    def test_walk_lists_every_blob_once(self, content: ContentStore) -> None:
        blobs = {put(content, str(n).encode() * n) for n in range(1, 20)}
        assert sorted(content.walk(), key=lambda info: info.size) == sorted(
            (content.info(digest) for digest in blobs), key=lambda info: info.size
        )

    def test_a_removed_blob_is_gone_and_may_come_back(self, content: ContentStore) -> None:
        put(content, BLOB)
        assert content.remove(DIGEST) is True
        assert content.remove(DIGEST) is False
        assert_empty(content)
        assert put(content, BLOB) == DIGEST
        assert content.exists(DIGEST)

    def test_a_reader_outlives_the_removal_of_its_blob(self, content: ContentStore) -> None:
        put(content, BLOB)
        with content.open(DIGEST) as reader:
            content.remove(DIGEST)
            assert reader.read() == BLOB

    def test_a_blob_can_have_a_sha512_digest(self, content: ContentStore) -> None:
        digest = Digest.of(BLOB, "sha512")
        with content.open_ingest("long") as ingest:
            ingest.write(BLOB)
            assert ingest.commit(expected=digest) == digest
        assert [info.digest for info in content.walk()] == [digest]
        assert content.read(digest, limit=len(BLOB)) == BLOB
        assert not content.exists(DIGEST)

    # ingests

    def test_nothing_shows_before_the_commit(self, content: ContentStore) -> None:
        with content.open_ingest("in the dark") as ingest:
            ingest.write(BLOB)
            assert not content.exists(DIGEST)
            assert list(content.walk()) == []
            ingest.commit()
            assert content.exists(DIGEST)

    def test_an_ingest_counts_and_hashes_as_it_goes(self, content: ContentStore) -> None:
        with content.open_ingest("ref") as ingest:
            assert (ingest.ref, ingest.offset, ingest.digest()) == ("ref", 0, Digest.of(b""))
            assert ingest.write(memoryview(BLOB)[:10]) == 10
            assert ingest.write(b"") == 0
            assert ingest.write(bytearray(BLOB[10:])) == len(BLOB) - 10
            assert (ingest.offset, ingest.digest()) == (len(BLOB), DIGEST)
            assert ingest.commit(expected=DIGEST, size=len(BLOB)) == DIGEST

    def test_other_bytes_than_expected_leave_nothing(self, content: ContentStore) -> None:
        with content.open_ingest("lie", keep=True) as ingest:
            ingest.write(BLOB)
            with refuses(Integrity, "digest-mismatch", naming=str(DIGEST)):
                ingest.commit(expected=OTHER)
        assert_empty(content)

    def test_another_size_than_announced_leaves_nothing(self, content: ContentStore) -> None:
        for size in (len(BLOB) - 1, len(BLOB) + 1):
            with content.open_ingest("lie", keep=True) as ingest:
                ingest.write(BLOB)
                with refuses(Integrity, "size-mismatch", naming=str(size)):
                    ingest.commit(expected=DIGEST, size=size)
            assert_empty(content)

    def test_a_lie_does_not_touch_the_blob_that_is_there(self, content: ContentStore) -> None:
        put(content, BLOB)
        with content.open_ingest("lie") as ingest:
            ingest.write(b"other bytes")
            with refuses(Integrity, "digest-mismatch"):
                ingest.commit(expected=DIGEST)
        assert content.read(DIGEST, limit=len(BLOB)) == BLOB

    def test_the_same_blob_may_be_ingested_again_and_at_once(self, content: ContentStore) -> None:
        put(content, BLOB)
        with content.open_ingest("one") as one, content.open_ingest("two") as two:
            for ingest in (one, two):
                ingest.write(BLOB)
            assert one.commit(expected=DIGEST) == two.commit(expected=DIGEST) == DIGEST
        assert list(content.walk()) == [BlobInfo(DIGEST, len(BLOB))]
        assert list(content.ingests()) == []

    def test_leaving_without_commit_drops_the_bytes(self, content: ContentStore) -> None:
        with content.open_ingest("gone") as ingest:
            ingest.write(BLOB)
        assert_empty(content)

    def test_an_exception_drops_the_bytes(self, content: ContentStore) -> None:
        try:
            with content.open_ingest("gone") as ingest:
                ingest.write(BLOB)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert_empty(content)

    def test_abort_drops_the_bytes_even_of_one_that_keeps(self, content: ContentStore) -> None:
        with content.open_ingest("gone", keep=True) as ingest:
            ingest.write(BLOB)
            ingest.abort()
        assert_empty(content)

    def test_a_kept_ingest_is_taken_up_where_it_ended(self, content: ContentStore) -> None:
        with content.open_ingest("long way", keep=True) as ingest:
            ingest.write(BLOB[:1000])
        assert list(content.walk()) == []
        with content.open_ingest("long way", keep=True) as ingest:
            assert (ingest.offset, ingest.digest()) == (1000, Digest.of(BLOB[:1000]))
            ingest.write(BLOB[1000:])
            assert ingest.commit(expected=DIGEST, size=len(BLOB)) == DIGEST
        assert list(content.ingests()) == []
        assert content.read(DIGEST, limit=len(BLOB)) == BLOB

    def test_a_resumed_ingest_can_be_committed_in_another_algorithm(self, content: ContentStore) -> None:
        digest = Digest.of(BLOB, "sha512")
        with content.open_ingest("long way", keep=True) as ingest:
            ingest.write(BLOB[:1000])
        with content.open_ingest("long way") as ingest:
            ingest.write(BLOB[1000:])
            assert ingest.commit(expected=digest) == digest

    def test_a_kept_ingest_can_be_begun_anew(self, content: ContentStore) -> None:
        with content.open_ingest("again", keep=True) as ingest:
            ingest.write(b"of an older version")
        with content.open_ingest("again") as ingest:
            ingest.restart()
            assert (ingest.offset, ingest.digest()) == (0, Digest.of(b""))
            ingest.write(BLOB)
            assert ingest.commit() == DIGEST

    def test_one_writer_for_a_ref(self, content: ContentStore) -> None:
        with content.open_ingest("mine") as ingest:
            with refuses(Conflict, "ingest-busy", naming="mine"):
                content.open_ingest("mine")
            ingest.write(BLOB)
            assert ingest.commit() == DIGEST
        put(content, b"next", ref="mine")

    def test_an_ingest_that_has_ended_takes_nothing(self, content: ContentStore) -> None:
        with content.open_ingest("over") as ingest:
            ingest.write(BLOB)
            ingest.commit()
            for use in (lambda: ingest.write(b"x"), ingest.restart, ingest.commit):
                with refuses(FailedPrecondition, "ingest-ended", naming="over"):
                    use()
            ingest.abort()
            ingest.close()
        assert content.exists(DIGEST)

    def test_any_text_names_an_ingest(self, content: ContentStore) -> None:
        refs = ["a/b", "..", ".", "%2F", "a b\n", f"layer {DIGEST}", "é\udcff", "/etc/passwd", "a.blob", "A", "a"]
        for number, ref in enumerate(refs):
            with content.open_ingest(ref, keep=True) as ingest:
                assert ingest.offset == 0, ref
                ingest.write(b"x" * number)
        assert {info.ref: info.size for info in content.ingests()} == {ref: n for n, ref in enumerate(refs)}
        assert all(content.drop_ingest(ref) for ref in refs)
        assert_empty(content)

    def test_no_text_names_no_ingest(self, content: ContentStore) -> None:
        with refuses(InvalidInput, "ingest-ref"):
            content.open_ingest("")

    def test_unfinished_ingests_are_listed_and_dropped(self, content: ContentStore) -> None:
        with content.open_ingest("left", keep=True) as ingest:
            ingest.write(BLOB)
            (busy,) = content.ingests()
            assert busy.busy
            assert content.drop_ingest("left") is False
        (left,) = content.ingests()
        assert left == IngestInfo("left", len(BLOB), left.updated, busy=False)
        assert content.drop_ingest("left") is True
        assert content.drop_ingest("left") is False
        assert_empty(content)
