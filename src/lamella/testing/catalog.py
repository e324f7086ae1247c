"""What every Catalog must do. Subclass ``CatalogSuite`` and provide the fixture ``catalog``: an empty one."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from lamella.catalog.protocol import Catalog
from lamella.catalog.records import DocumentRecord, DroppedBlob, ImageRecord, LayerRecord, Reachable, SnapshotRecord
from lamella.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidInput, NotFound
from lamella.spec import media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest, chain_ids
from lamella.spec.platform import Platform
from lamella.testing import refuses

NOON = datetime(2024, 5, 6, 12, 0, 0, 123456, tzinfo=UTC)
NOWHERE = Digest.of(b"a document that nobody has")


def sample_image(
    seed: str, *, parent: Digest | None = None, layers: Iterable[str] = ("base",), config: str = "", minutes: int = 0
) -> tuple[ImageRecord, DocumentRecord]:
    """An image and its document. Layers of one name are one layer; ``config`` makes two images share an id."""
    config_descriptor = Descriptor.of(media.OCI_CONFIG, f"config {config or seed}".encode())
    blobs = [Descriptor.of(media.OCI_LAYER + "+gzip", f"blob {name}".encode()) for name in layers]
    diff_ids = [Digest.of(f"tar {name}".encode()) for name in layers]
    manifest = Descriptor.of(media.OCI_MANIFEST, f"manifest {seed}".encode())
    stack = zip(blobs, diff_ids, chain_ids(diff_ids), strict=True)
    image = ImageRecord(
        manifest.digest,
        manifest.media_type,
        manifest.size,
        config_descriptor.digest,
        config_descriptor.size,
        parent,
        Platform("linux", "arm", "v7", "10.0", ("feature",)),
        NOON - timedelta(days=1),
        NOON + timedelta(minutes=minutes),
        tuple(LayerRecord(blob.digest, blob.media_type, blob.size, diff, chain) for blob, diff, chain in stack),
    )
    children = (config_descriptor, *blobs)
    return image, DocumentRecord(manifest.digest, manifest.media_type, manifest.size, "image", children)


def sample_index(seed: str, *manifests: ImageRecord) -> DocumentRecord:
    """An index of some images."""
    document = Descriptor.of(media.OCI_INDEX, f"index {seed}".encode())
    children = tuple(Descriptor(m.media_type, m.manifest, m.size, platform=m.platform) for m in manifests)
    return DocumentRecord(document.digest, document.media_type, document.size, "index", children)


def add(catalog: Catalog, seed: str, *, parent: Digest | None = None, layers: Iterable[str] = ("base",)) -> ImageRecord:
    """Record a sample image."""
    image, document = sample_image(seed, parent=parent, layers=layers)
    catalog.add_image(image, document)
    return image


def sample_snapshot(key: str, image: ImageRecord | None, *, source: str = "") -> SnapshotRecord:
    """A writable snapshot."""
    return SnapshotRecord(key, None if image is None else image.manifest, source, True, "overlay", NOON)


class ImagesSuite:
    """The contract of ``protocol.Images``."""

    def test_an_empty_catalog_knows_nothing(self, catalog: Catalog) -> None:
        for everything in (catalog.documents, catalog.images, catalog.names, catalog.snapshots, catalog.leases):
            assert everything() == []
        assert catalog.document(NOWHERE) is None
        assert catalog.image(NOWHERE) is None
        assert catalog.blob_diff(NOWHERE) is None
        assert catalog.remove_document(NOWHERE) is False
        assert catalog.reachable([]) == Reachable(frozenset(), frozenset(), frozenset(), frozenset())
        assert catalog.problems() == []

    def test_an_image_comes_back_as_it_was_given(self, catalog: Catalog) -> None:
        image, document = sample_image("a", layers=["one", "two", "one"])
        assert catalog.add_image(image, document) is True
        assert catalog.image(image.manifest) == image
        assert catalog.document(image.manifest) == document
        assert catalog.images() == [image]
        assert catalog.documents() == [document]

    def test_an_image_without_layers_or_time(self, catalog: Catalog) -> None:
        image, document = sample_image("scratch", layers=[])
        image = replace(image, created=None, platform=Platform("", ""))
        catalog.add_image(image, document)
        assert catalog.image(image.manifest) == image

    def test_times_keep_their_moment(self, catalog: Catalog) -> None:
        zone = timezone(timedelta(hours=-7, minutes=-30))
        moments = [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=zone)]
        moments.append(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC))
        for number, moment in enumerate(moments):
            image, document = sample_image(str(number))
            catalog.add_image(replace(image, created=moment), document)
            found = catalog.image(image.manifest)
            assert found is not None
            assert found.created == moment
            assert found.created.tzinfo is not None

    def test_descriptors_keep_all_their_fields(self, catalog: Catalog) -> None:
        child = Descriptor(
            "application/x", NOWHERE, 7, {"é": "\u0000\n'"}, Platform("linux", "amd64"), "application/y", ("http://a",)
        )
        document = DocumentRecord(Digest.of(b"artifact"), media.OCI_MANIFEST, 8, "artifact", (child, child))
        assert catalog.add_document(document) is True
        assert catalog.document(document.digest) == document
        assert catalog.image(document.digest) is None

    def test_adding_again_changes_nothing(self, catalog: Catalog) -> None:
        image, document = sample_image("a")
        catalog.add_image(image, document)
        generation = catalog.generation()
        later = replace(image, added=NOON + timedelta(days=9))
        assert catalog.add_image(later, replace(document, children=())) is False
        assert catalog.add_document(replace(document, children=())) is False
        assert catalog.image(image.manifest) == image
        assert catalog.document(image.manifest) == document
        assert catalog.generation() == generation

    def test_a_document_can_become_an_image_later(self, catalog: Catalog) -> None:
        image, document = sample_image("a")
        catalog.add_document(document)
        assert catalog.image(image.manifest) is None
        assert catalog.add_image(image, document) is True
        assert catalog.image(image.manifest) == image

    def test_an_image_of_another_document_is_refused(self, catalog: Catalog) -> None:
        image, _ = sample_image("a")
        _, document = sample_image("b")
        with refuses(InvalidInput, "catalog-record", naming=str(image.manifest)):
            catalog.add_image(image, document)
        assert catalog.documents() == []

    def test_a_parent_given_later_fills_in_an_unknown_one(self, catalog: Catalog) -> None:
        base, other = add(catalog, "base"), add(catalog, "other")
        image, document = sample_image("child")
        catalog.add_image(image, document)
        catalog.add_image(replace(image, parent=base.manifest), document)
        assert catalog.children(base.manifest) == [replace(image, parent=base.manifest)]
        catalog.add_image(replace(image, parent=other.manifest), document)
        catalog.add_image(image, document)
        assert catalog.children(base.manifest) == [replace(image, parent=base.manifest)]
        assert catalog.children(other.manifest) == []

    def test_the_parent_can_be_set_and_unset(self, catalog: Catalog) -> None:
        base, child = add(catalog, "base"), add(catalog, "child")
        catalog.set_parent(child.manifest, base.manifest)
        assert catalog.image(child.manifest) == replace(child, parent=base.manifest)
        catalog.set_parent(child.manifest, None)
        assert catalog.image(child.manifest) == child
        with refuses(NotFound, "image-not-found", naming=str(NOWHERE)):
            catalog.set_parent(NOWHERE, base.manifest)

    def test_nobody_is_their_own_ancestor(self, catalog: Catalog) -> None:
        first = add(catalog, "first")
        second = add(catalog, "second", parent=first.manifest)
        third = add(catalog, "third", parent=second.manifest)
        for parent in (first, third):
            with refuses(FailedPrecondition, "parent-cycle", naming=str(first.manifest)):
                catalog.set_parent(first.manifest, parent.manifest)
        late, document = sample_image("late", parent=third.manifest)
        catalog.set_parent(first.manifest, late.manifest)
        with refuses(FailedPrecondition, "parent-cycle"):
            catalog.add_image(late, document)
        assert catalog.document(late.manifest) is None

    def test_images_come_in_the_order_they_were_added(self, catalog: Catalog) -> None:
        samples = [sample_image(f"image {n}", minutes=-n) for n in range(5)]
        for image, document in samples:
            catalog.add_image(image, document)
        assert catalog.images() == [image for image, _ in reversed(samples)]

    def test_one_config_in_several_manifests(self, catalog: Catalog) -> None:
        for seed in ("gzip", "zstd"):
            catalog.add_image(*sample_image(seed, config="shared"))
        add(catalog, "other")
        shared = sample_image("gzip", config="shared")[0].id
        assert {image.manifest for image in catalog.images_by_id(shared)} == {
            sample_image(seed)[0].manifest for seed in ("gzip", "zstd")
        }
        assert catalog.images_by_id(NOWHERE) == []

    def test_documents_that_name_a_digest(self, catalog: Catalog) -> None:
        one, two = add(catalog, "one"), add(catalog, "two", layers=["base", "more"])
        index = sample_index("both", one, two)
        catalog.add_document(index)
        assert catalog.parents_of(one.manifest) == [index]
        shared = {document.digest for document in catalog.parents_of(one.layers[0].blob)}
        assert shared == {one.manifest, two.manifest}
        assert catalog.parents_of(index.digest) == []

    def test_a_removed_image_is_gone_with_all_its_rows(self, catalog: Catalog) -> None:
        image, document = sample_image("a")
        child = add(catalog, "child", parent=image.manifest)
        catalog.add_image(image, document)
        index = sample_index("list", image)
        catalog.add_document(index)
        assert catalog.remove_document(image.manifest) is True
        assert catalog.remove_document(image.manifest) is False
        assert catalog.image(image.manifest) is None
        assert catalog.images_by_id(image.id) == []
        assert catalog.document(index.digest) == index
        assert catalog.children(image.manifest) == [child]
        assert catalog.add_image(image, document) is True
        assert catalog.image(image.manifest) == image

    def test_what_is_pointed_at_is_not_removed(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        catalog.set_name("docker.io/library/b:1", image.manifest)
        catalog.set_name("docker.io/library/a:1", image.manifest)
        with refuses(FailedPrecondition, "document-named", naming="docker.io/library/a:1, docker.io/library/b:1"):
            catalog.remove_document(image.manifest)
        catalog.remove_name("docker.io/library/a:1")
        catalog.remove_name("docker.io/library/b:1")
        catalog.add_snapshot(sample_snapshot("dev", image))
        with refuses(FailedPrecondition, "document-in-use", naming="dev"):
            catalog.remove_document(image.manifest)
        catalog.remove_snapshot("dev")
        assert catalog.remove_document(image.manifest) is True

    def test_prefixes_find_ids_and_documents(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        index = sample_index("a", image)
        artifact = DocumentRecord(Digest.of(b"signature", "sha512"), media.OCI_MANIFEST, 9, "artifact", ())
        catalog.add_document(index)
        catalog.add_document(artifact)
        wanted = [(image.id, "id"), (image.manifest, "manifest")]
        wanted += [(index.digest, "index"), (artifact.digest, "artifact")]
        for digest, kind in wanted:
            for length in (12, len(digest.hex)):
                assert catalog.find(digest.hex[:length]) == [(digest, kind)]
                assert catalog.find(f"{digest.algorithm}:{digest.hex[:length]}") == [(digest, kind)]
        everything = [match for digit in "0123456789abcdef" for match in catalog.find(digit)]
        assert sorted(everything) == sorted(wanted)

    def test_prefixes_that_can_match_nothing_find_nothing(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        for prefix in ("", "sha256:", "sha256", "g", "%", image.id.hex.upper()[:12].replace("0", "A"), "sha1:a", ":a"):
            assert catalog.find(prefix) == [], prefix
        assert catalog.find(image.id.hex + "0") == []
        assert catalog.find(f"sha512:{image.id.hex[:4]}") == []

    def test_the_diff_id_of_a_blob_is_remembered(self, catalog: Catalog) -> None:
        blob, diff = Digest.of(b"blob"), Digest.of(b"tar")
        catalog.set_blob_diff(blob, NOWHERE)
        catalog.set_blob_diff(blob, diff)
        assert catalog.blob_diff(blob) == diff
        assert catalog.remove_blob_diff(blob) is True
        assert catalog.remove_blob_diff(blob) is False
        assert catalog.blob_diff(blob) is None


class NamesSuite:
    """The contract of ``protocol.Names``."""

    def test_a_name_points_at_a_document(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        before = datetime.now(UTC)
        assert catalog.set_name("docker.io/library/a:latest", image.manifest) is None
        record = catalog.name("docker.io/library/a:latest")
        assert record is not None
        assert (record.name, record.target) == ("docker.io/library/a:latest", image.manifest)
        assert before <= record.updated <= datetime.now(UTC)
        assert catalog.names() == [record]
        assert catalog.name("docker.io/library/b:latest") is None

    def test_a_name_moves_and_says_from_where(self, catalog: Catalog) -> None:
        one, two = add(catalog, "one"), add(catalog, "two")
        catalog.set_name("n", one.manifest)
        assert catalog.set_name("n", two.manifest) == one.manifest
        assert catalog.set_name("n", two.manifest) == two.manifest
        assert [record.target for record in catalog.names()] == [two.manifest]

    def test_a_name_needs_a_document(self, catalog: Catalog) -> None:
        with refuses(NotFound, "document-not-found", naming=str(NOWHERE)):
            catalog.set_name("n", NOWHERE)
        image = add(catalog, "a")
        with refuses(NotFound, "document-not-found"):
            catalog.set_name("n", image.id)
        assert catalog.names() == []

    def test_names_are_sorted_and_removed_one_by_one(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        for name in ("c:1", "a:2", "a:1", "b:1"):
            catalog.set_name(name, image.manifest)
        assert catalog.remove_name("b:1") is True
        assert catalog.remove_name("b:1") is False
        assert [record.name for record in catalog.names()] == ["a:1", "a:2", "c:1"]


class SnapshotsSuite:
    """The contract of ``protocol.Snapshots``."""

    def test_a_snapshot_comes_back_as_it_was_given(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        snapshot = replace(sample_snapshot("dev", image, source="other"), writable=False, mounted='{"pid": 1}')
        catalog.add_snapshot(snapshot)
        assert catalog.snapshot("dev") == snapshot
        assert catalog.snapshot("Dev") is None

    def test_snapshots_are_sorted_and_told_by_image(self, catalog: Catalog) -> None:
        image, other = add(catalog, "a"), add(catalog, "b")
        records = [sample_snapshot("b", image), sample_snapshot("a", other), sample_snapshot("c", None)]
        for record in records:
            catalog.add_snapshot(record)
        assert catalog.snapshots() == sorted(records, key=lambda record: record.key)
        assert catalog.snapshots_of(image.manifest) == [records[0]]
        assert catalog.snapshots_of(NOWHERE) == []

    def test_a_key_is_taken_once(self, catalog: Catalog) -> None:
        catalog.add_snapshot(sample_snapshot("dev", None))
        with refuses(AlreadyExists, "snapshot-exists", naming="dev"):
            catalog.add_snapshot(sample_snapshot("dev", None, source="x"))
        assert catalog.snapshots() == [sample_snapshot("dev", None)]

    def test_a_snapshot_needs_its_image(self, catalog: Catalog) -> None:
        lost = replace(sample_snapshot("dev", None), image=NOWHERE)
        with refuses(NotFound, "document-not-found", naming=str(NOWHERE)):
            catalog.add_snapshot(lost)
        assert catalog.snapshots() == []

    def test_mounted_is_replaced_only_if_it_is_what_was_expected(self, catalog: Catalog) -> None:
        catalog.add_snapshot(sample_snapshot("dev", None))
        catalog.set_mounted("dev", "one", expect="")
        with refuses(Conflict, "snapshot-changed", naming="dev"):
            catalog.set_mounted("dev", "two", expect="")
        assert catalog.snapshot("dev") == replace(sample_snapshot("dev", None), mounted="one")
        catalog.set_mounted("dev", "two", expect="one")
        catalog.set_mounted("dev", "", expect=None)
        assert catalog.snapshot("dev") == sample_snapshot("dev", None)
        with refuses(NotFound, "snapshot-not-found", naming="prod"):
            catalog.set_mounted("prod", "", expect=None)

    def test_a_removed_snapshot_is_gone(self, catalog: Catalog) -> None:
        catalog.add_snapshot(sample_snapshot("dev", None))
        assert catalog.remove_snapshot("dev") is True
        assert catalog.remove_snapshot("dev") is False
        assert catalog.snapshot("dev") is None


class BlobsSuite:
    """How blobs can be had again, and which were dropped."""

    BLOB = Digest.of(b"a blob")
    RECORD = DroppedBlob(BLOB, 7, Digest.of(b"a tar"), "gzip:2:isal 2.32.1 x86_64", NOON)

    def test_a_recipe_is_remembered_and_forgotten(self, catalog: Catalog) -> None:
        assert catalog.blob_recipe(self.BLOB) is None
        catalog.set_blob_recipe(self.BLOB, "zstd:3:zstd 1.5.6")
        catalog.set_blob_recipe(self.BLOB, "zstd:3:zstd 1.5.7")
        assert catalog.blob_recipe(self.BLOB) == "zstd:3:zstd 1.5.7"
        catalog.forget_blob(self.BLOB)
        catalog.forget_blob(self.BLOB)
        assert catalog.blob_recipe(self.BLOB) is None

    def test_sources_come_with_the_latest_first(self, catalog: Catalog) -> None:
        for repository in ("example.com/a", "example.com/b", "example.com/a"):
            catalog.add_blob_source(self.BLOB, repository)
            assert catalog.blob_sources(self.BLOB)[0] == repository
        assert catalog.blob_sources(self.BLOB) == ["example.com/a", "example.com/b"]
        catalog.forget_blob(self.BLOB)
        assert catalog.blob_sources(self.BLOB) == []

    def test_a_dropped_blob_is_listed_until_it_is_back(self, catalog: Catalog) -> None:
        assert catalog.dropped_blob(self.BLOB) is None
        catalog.add_dropped_blob(replace(self.RECORD, recipe=""))
        catalog.add_dropped_blob(self.RECORD)
        assert catalog.dropped_blob(self.BLOB) == self.RECORD
        assert catalog.dropped_blobs() == [self.RECORD]
        assert catalog.remove_dropped_blob(self.BLOB)
        assert not catalog.remove_dropped_blob(self.BLOB)
        assert catalog.dropped_blobs() == []

    def test_dropping_moves_the_generation_and_recipes_do_not(self, catalog: Catalog) -> None:
        seen = [catalog.generation()]
        catalog.set_blob_recipe(self.BLOB, "zstd:3:zstd 1.5.7")
        catalog.add_blob_source(self.BLOB, "example.com/a")
        assert catalog.generation() == seen[0]
        catalog.add_dropped_blob(self.RECORD)
        seen.append(catalog.generation())
        catalog.remove_dropped_blob(self.BLOB)
        seen.append(catalog.generation())
        assert seen == sorted(set(seen))

    def test_dropping_must_last_and_recipes_need_not(self, catalog: Catalog) -> None:
        with catalog.transaction(durable=False):
            catalog.set_blob_recipe(self.BLOB, "zstd:3:zstd 1.5.7")
            catalog.forget_blob(self.BLOB)
        with refuses(FailedPrecondition, "catalog-durability"), catalog.transaction(durable=False):
            catalog.add_dropped_blob(self.RECORD)
        assert catalog.dropped_blobs() == []

    def test_what_is_at_work_is_told_from_what_is_named(self, catalog: Catalog) -> None:
        named, mounted, leased = (add(catalog, seed, layers=(seed,)) for seed in ("named", "mounted", "leased"))
        catalog.set_name("it", named.manifest)
        catalog.add_lease("work", "")
        catalog.extend_lease("work", [str(leased.manifest)])
        used = catalog.used({"work"}, {mounted.manifest})
        assert {image.layers[0].diff_id for image in (mounted, leased)} <= used.diff_ids
        assert named.layers[0].diff_id not in used.diff_ids
        assert named.layers[0].chain_id not in used.chain_ids

    def test_a_dropped_blob_that_is_reached_keeps_its_layer(self, catalog: Catalog) -> None:
        catalog.add_dropped_blob(self.RECORD)
        catalog.add_lease("work", "")
        assert self.RECORD.diff_id not in catalog.reachable({"work"}).diff_ids
        catalog.extend_lease("work", [str(self.BLOB)])
        assert self.RECORD.diff_id in catalog.reachable({"work"}).diff_ids


class LeasesSuite:
    """The contract of ``protocol.Leases``."""

    def test_a_lease_holds_what_it_was_extended_by(self, catalog: Catalog) -> None:
        catalog.add_lease("one", "pull alpine")
        catalog.add_lease("two", "commit")
        catalog.extend_lease("one", ["a", "b"])
        catalog.extend_lease("one", iter(["b", "c"]))
        assert [(lease.id, lease.purpose) for lease in catalog.leases()] == [("one", "pull alpine"), ("two", "commit")]
        assert catalog.lease_resources("one") == {"a", "b", "c"}
        assert catalog.lease_resources("two") == catalog.lease_resources("three") == frozenset()

    def test_an_id_is_taken_once(self, catalog: Catalog) -> None:
        catalog.add_lease("one", "first")
        with refuses(AlreadyExists, "lease-exists", naming="one"):
            catalog.add_lease("one", "second")
        assert [lease.purpose for lease in catalog.leases()] == ["first"]

    def test_a_lease_that_is_not_there_holds_nothing(self, catalog: Catalog) -> None:
        with refuses(NotFound, "lease-not-found", naming="one"):
            catalog.extend_lease("one", ["a"])

    def test_a_dropped_lease_is_gone_with_what_it_held(self, catalog: Catalog) -> None:
        catalog.add_lease("one", "pull")
        catalog.extend_lease("one", ["a"])
        assert catalog.remove_lease("one") is True
        assert catalog.remove_lease("one") is False
        catalog.add_lease("one", "again")
        assert catalog.lease_resources("one") == frozenset()


class ReachSuite:
    """What ``Catalog.reachable`` must count."""

    def reached(self, *images: ImageRecord, documents: Iterable[DocumentRecord] = ()) -> Reachable:
        """These images, all of them, and nothing else."""
        layers = [layer for image in images for layer in image.layers]
        manifests = {image.manifest for image in images} | {document.digest for document in documents}
        blobs = manifests | {image.id for image in images} | {layer.blob for layer in layers}
        return Reachable(
            frozenset(manifests),
            frozenset(blobs),
            frozenset(layer.diff_id for layer in layers),
            frozenset(layer.chain_id for layer in layers),
        )

    def test_what_nothing_leads_to_is_not_reached(self, catalog: Catalog) -> None:
        image = add(catalog, "lost")
        catalog.add_document(sample_index("lost", image))
        catalog.set_blob_diff(image.layers[0].blob, image.layers[0].diff_id)
        assert catalog.reachable([]) == self.reached()

    def test_a_name_leads_to_an_image(self, catalog: Catalog) -> None:
        image = add(catalog, "a", layers=["one", "two"])
        add(catalog, "lost", layers=["one", "three"])
        catalog.set_name("n", image.manifest)
        assert catalog.reachable([]) == self.reached(image)
        catalog.remove_name("n")
        assert catalog.reachable([]) == self.reached()

    def test_a_snapshot_leads_to_its_image(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        catalog.add_snapshot(sample_snapshot("dev", image))
        catalog.add_snapshot(sample_snapshot("empty", None))
        assert catalog.reachable([]) == self.reached(image)

    def test_an_index_leads_to_its_images_and_to_those_it_only_names(self, catalog: Catalog) -> None:
        one, two = add(catalog, "one"), add(catalog, "two", layers=["other"])
        absent, _ = sample_image("not pulled")
        inner = sample_index("inner", two, absent)
        link = Descriptor(inner.media_type, inner.digest, inner.size)
        outer = replace(sample_index("outer", one), children=(*sample_index("outer", one).children, link))
        catalog.add_document(inner)
        catalog.add_document(outer)
        catalog.set_name("n", outer.digest)
        everything = self.reached(one, two, documents=[inner, outer])
        assert catalog.reachable([]) == replace(everything, blobs=everything.blobs | {absent.manifest})

    def test_an_image_leads_to_its_ancestors(self, catalog: Catalog) -> None:
        first = add(catalog, "first", layers=["x"])
        second = add(catalog, "second", layers=["y"], parent=first.manifest)
        third = add(catalog, "third", layers=["z"], parent=second.manifest)
        add(catalog, "sibling", layers=["w"], parent=first.manifest)
        catalog.set_name("n", third.manifest)
        assert catalog.reachable([]) == self.reached(first, second, third)

    def test_a_parent_that_is_not_here_is_no_document(self, catalog: Catalog) -> None:
        child = add(catalog, "child", parent=NOWHERE)
        catalog.set_name("n", child.manifest)
        reached = catalog.reachable([])
        assert reached.documents == {child.manifest}
        assert reached.blobs == self.reached(child).blobs | {NOWHERE}

    def test_a_live_lease_holds_and_a_dead_one_does_not(self, catalog: Catalog) -> None:
        image, other = add(catalog, "a"), add(catalog, "b", layers=["other"])
        blob, diff = Digest.of(b"blob"), Digest.of(b"tar")
        catalog.set_blob_diff(blob, diff)
        catalog.add_lease("live", "pull")
        catalog.extend_lease("live", [str(image.manifest), str(blob), "snapshot dev", "sha256:abc", ""])
        catalog.add_lease("dead", "pull")
        catalog.extend_lease("dead", [str(other.manifest)])
        assert catalog.reachable([]) == self.reached()
        reached, expected = catalog.reachable({"live", "unknown"}), self.reached(image)
        held = {image.manifest, blob}
        assert reached.documents == expected.documents
        assert reached.blobs == expected.blobs | held
        assert reached.diff_ids == expected.diff_ids | held | {diff}
        assert reached.chain_ids == expected.chain_ids | held

    def test_a_document_that_names_itself_ends(self, catalog: Catalog) -> None:
        knot = DocumentRecord(NOWHERE, media.OCI_INDEX, 1, "index", (Descriptor(media.OCI_INDEX, NOWHERE, 1),))
        catalog.add_document(knot)
        catalog.set_name("n", NOWHERE)
        assert catalog.reachable([]).documents == {NOWHERE}


class TransactionsSuite:
    """What ``Catalog.transaction`` and ``Catalog.generation`` promise."""

    def test_an_exception_undoes_all_of_it(self, catalog: Catalog) -> None:
        kept = add(catalog, "kept")
        generation = catalog.generation()
        try:
            with catalog.transaction():
                lost = add(catalog, "lost")
                catalog.set_name("n", lost.manifest)
                catalog.add_lease("one", "x")
                assert catalog.images() == [kept, lost] or catalog.images() == [lost, kept]
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert (catalog.images(), catalog.names(), catalog.leases()) == ([kept], [], [])
        assert catalog.generation() == generation

    def test_a_part_that_fails_is_undone_alone(self, catalog: Catalog) -> None:
        with catalog.transaction():
            one = add(catalog, "one")
            with refuses(NotFound), catalog.transaction():
                add(catalog, "two")
                catalog.set_name("n", NOWHERE)
            three = add(catalog, "three")
        assert {image.manifest for image in catalog.images()} == {one.manifest, three.manifest}

    def test_what_must_last_is_refused_where_it_need_not(self, catalog: Catalog) -> None:
        with refuses(FailedPrecondition, "catalog-durability"), catalog.transaction(durable=False):
            catalog.add_lease("one", "x")
            add(catalog, "a")
        assert catalog.leases() == []
        with catalog.transaction(durable=False):
            catalog.add_lease("one", "x")
            catalog.extend_lease("one", ["r"])
            catalog.set_blob_diff(NOWHERE, NOWHERE)
        assert catalog.lease_resources("one") == {"r"}

    def test_others_see_a_transaction_when_it_is_over(self, catalog: Catalog) -> None:
        seen: list[int] = []

        def look() -> None:
            seen.append(len(catalog.images()))

        with catalog.transaction():
            add(catalog, "a")
            other = threading.Thread(target=look)
            other.start()
            other.join()
        look()
        assert seen == [0, 1]

    def test_the_generation_grows_with_names_and_documents(self, catalog: Catalog) -> None:
        seen = [catalog.generation()]
        image = add(catalog, "a")
        seen.append(catalog.generation())
        catalog.set_name("n", image.manifest)
        seen.append(catalog.generation())
        other = add(catalog, "b")
        catalog.set_name("n", other.manifest)
        seen.append(catalog.generation())
        catalog.remove_name("n")
        seen.append(catalog.generation())
        catalog.remove_document(image.manifest)
        seen.append(catalog.generation())
        assert seen == sorted(set(seen))

    def test_the_generation_rests_when_neither_changes(self, catalog: Catalog) -> None:
        image = add(catalog, "a")
        catalog.set_name("n", image.manifest)
        before = catalog.generation()
        catalog.set_name("n", image.manifest)
        catalog.remove_name("m")
        catalog.add_lease("one", "x")
        catalog.add_snapshot(sample_snapshot("dev", image))
        catalog.set_blob_diff(NOWHERE, NOWHERE)
        assert catalog.generation() == before

    def test_threads_write_at_once(self, catalog: Catalog) -> None:
        def work(number: int) -> None:
            for step in range(5):
                with catalog.transaction():
                    image = add(catalog, f"{number} {step}")
                    catalog.set_name(f"name {number}", image.manifest)
                catalog.images()

        workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(catalog.images()) == 30
        assert [record.target for record in catalog.names()] == [
            sample_image(f"{number} 4")[0].manifest for number in range(6)
        ]
        assert catalog.problems() == []

    def test_a_closed_catalog_says_so(self, catalog: Catalog) -> None:
        catalog.close()
        catalog.close()
        for use in (catalog.images, lambda: add(catalog, "a"), catalog.generation):
            with refuses(FailedPrecondition, "catalog-closed"):
                use()


class CatalogSuite(ImagesSuite, BlobsSuite, NamesSuite, SnapshotsSuite, LeasesSuite, ReachSuite, TransactionsSuite):
    """All of it."""
