"""Docker archives: what is made of them, what is written, and what hostile ones come to."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import pytest
from formats_support import (
    MemorySource,
    blobs_of,
    copy,
    layer,
    listing,
    open_descriptors,
    read_all,
    real_image,
    sha256,
    tar_of,
)

from lamella.archive.compression import Compression, CompressWriter
from lamella.errors import (
    FailedPrecondition,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unsupported,
)
from lamella.formats.detect import open_source
from lamella.formats.docker_archive import DockerArchiveSource
from lamella.formats.docker_archive_sink import DockerArchiveSink
from lamella.spec import media
from lamella.spec.digest import Digest
from lamella.spec.documents import Manifest
from lamella.spec.endpoint import ImageSink, ImageSource, Offer
from lamella.spec.limits import Limits

ONE, TWO = layer(a="one"), layer(b="two")


def config_of(*layers: bytes, **fields: object) -> bytes:
    diff_ids = [str(Digest.of(data)) for data in layers]
    return json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, **fields}).encode()


CONFIG = config_of(ONE, TWO)
NAME = f"{sha256(CONFIG)}.json"
FILES = {NAME: CONFIG, "1/layer.tar": ONE, "2/layer.tar": TWO}


def entry(**fields: object) -> dict:
    return {"Config": NAME, "RepoTags": ["demo:1"], "Layers": ["1/layer.tar", "2/layer.tar"], **fields}


def archive(path: Path, members: dict | list, *entries: dict, raw: bytes | None = None) -> Path:
    manifest = raw if raw is not None else json.dumps(entries).encode()
    listed = members.items() if isinstance(members, dict) else members
    path.write_bytes(tar_of([*listed, ("manifest.json", manifest)]))
    return path


def opened(path: Path, **limits: int) -> DockerArchiveSource:
    source = open_source(path, spool=path.parent, limits=Limits(**limits))
    assert isinstance(source, DockerArchiveSource)
    return source


def manifest_of(source: ImageSource, offer: Offer) -> Manifest:
    return Manifest.parse(read_all(source, offer.descriptor), offer.descriptor.media_type)


def zstd(data: bytes) -> bytes:
    out: list[bytes] = []
    with CompressWriter(out.append, Compression.ZSTD) as writer:
        writer.write(data)
    return b"".join(out)


class TestSource:
    def test_it_has_the_shape_of_the_protocol(self, tmp_path):
        assert isinstance(opened(archive(tmp_path / "a", FILES, entry())), ImageSource)
        assert isinstance(DockerArchiveSink(tmp_path / "b"), ImageSink)

    def test_an_image_is_offered_with_its_config_and_layers(self, tmp_path):
        source = opened(archive(tmp_path / "a", FILES, entry()))
        (offer,) = source.offers()
        assert offer.names == ("demo:1",)
        manifest = manifest_of(source, offer)
        assert manifest.media_type == media.DOCKER_MANIFEST
        assert manifest.config.digest == Digest.of(CONFIG)
        assert [one.media_type for one in manifest.layers] == [media.DOCKER_LAYER] * 2
        assert [read_all(source, one) for one in manifest.layers] == [ONE, TWO]
        assert read_all(source, manifest.config) == CONFIG

    def test_the_manifest_is_always_the_same(self, tmp_path):
        one = opened(archive(tmp_path / "a", FILES, entry())).offers()
        two = opened(archive(tmp_path / "b", dict(reversed(FILES.items())), entry(RepoTags=["x"]))).offers()
        assert one[0].descriptor == two[0].descriptor

    @pytest.mark.parametrize(
        ("compress", "suffix"),
        [(gzip.compress, ".gzip"), (bz2.compress, ".bzip2"), (lzma.compress, ".xz"), (zstd, ".zstd")],
    )
    def test_compressed_layers_are_described_as_they_lie_there(self, tmp_path, compress, suffix):
        stored = compress(ONE)
        source = opened(archive(tmp_path / "a", {**FILES, "1/layer.tar": stored}, entry()))
        manifest = manifest_of(source, source.offers()[0])
        assert manifest.layers[0].media_type == media.DOCKER_LAYER + suffix
        assert manifest.layers[0].digest == Digest.of(stored)
        assert read_all(source, manifest.layers[0]) == stored

    def test_layers_that_are_links_to_others_are_found(self, tmp_path):
        config = config_of(ONE, ONE, ONE)
        members = {
            "c.json": config,
            "1/layer.tar": ONE,
            "2/layer.tar": (tarfile.SYMTYPE, "../1/layer.tar"),
            "3/layer.tar": (tarfile.LNKTYPE, "1/layer.tar"),
        }
        path = archive(tmp_path / "a", members, entry(Config="c.json", Layers=[f"{n}/layer.tar" for n in (1, 2, 3)]))
        source = opened(path)
        assert [read_all(source, one) for one in manifest_of(source, source.offers()[0]).layers] == [ONE] * 3

    def test_several_images_with_parents(self, tmp_path):
        child = config_of(ONE, TWO, author="me")
        files = {**FILES, "child.json": child}
        entries = [
            entry(),
            entry(Config="child.json", RepoTags=["child:1", "child:2"], Parent=f"sha256:{sha256(CONFIG)}"),
        ]
        base, derived = opened(archive(tmp_path / "a", files, *entries)).offers()
        assert base.parent is None
        assert derived.parent == base.descriptor.digest
        assert derived.names == ("child:1", "child:2")

    def test_a_parent_that_is_not_there_is_noted(self, tmp_path):
        (offer,) = opened(archive(tmp_path / "a", FILES, entry(Parent=f"sha256:{'0' * 64}"))).offers()
        assert offer.parent is None
        assert "not in the archive" in offer.notes[0]

    def test_one_image_listed_twice_is_one_with_both_names(self, tmp_path):
        (offer,) = opened(archive(tmp_path / "a", FILES, entry(), entry(RepoTags=["other:2", "demo:1"]))).offers()
        assert offer.names == ("demo:1", "other:2")

    @pytest.mark.parametrize("tags", [None, []])
    def test_an_image_may_have_no_names(self, tmp_path, tags):
        assert opened(archive(tmp_path / "a", FILES, entry(RepoTags=tags))).offers()[0].names == ()

    def test_names_are_passed_on_as_they_are(self, tmp_path):
        names = ["../../etc/passwd", "UPPER:1", "a b"]
        assert opened(archive(tmp_path / "a", FILES, entry(RepoTags=names))).offers()[0].names == tuple(names)

    def test_sparse_layers_are_read_whole(self, tmp_path):
        hole = tar_of({"f": b"\0" * (4 << 20) + b"end"})
        config = config_of(hole)
        directory = tmp_path / "d"
        directory.mkdir()
        with open(directory / "layer.tar", "wb") as file:
            for start in range(0, len(hole), 1 << 16):
                if any(piece := hole[start : start + (1 << 16)]):
                    file.seek(start)
                    file.write(piece)
            file.truncate(len(hole))
        (directory / "c.json").write_bytes(config)
        (directory / "manifest.json").write_text(json.dumps([entry(Config="c.json", Layers=["layer.tar"])]))
        for flags in ("--format=gnu", "--format=posix --sparse-version=1.0", "--format=posix --sparse-version=0.1"):
            os.system(f"tar -C {directory} {flags} -cSf {tmp_path}/a .")
            assert (tmp_path / "a").stat().st_size < 1 << 20
            source = opened(tmp_path / "a")
            assert read_all(source, manifest_of(source, source.offers()[0]).layers[0]) == hole

    def test_an_image_of_skopeo(self, tmp_path):
        source = opened(real_image("alpine-docker-archive.tar", tmp_path))
        (offer,) = source.offers()
        assert offer.names == ("docker.io/library/alpine:3.20.3",)
        assert all(read_all(source, blob) for blob in blobs_of(source, offer.descriptor))

    def test_blobs_can_be_read_after_the_source_is_closed(self, tmp_path):
        source = opened(archive(tmp_path / "a", FILES, entry()))
        first = manifest_of(source, source.offers()[0]).layers[0]
        reader = source.open_blob(first)
        source.close()
        assert reader.read(1 << 20) == ONE

    def test_a_blob_that_is_not_there_is_not_found(self, tmp_path):
        other = MemorySource().add("x", b"unknown")
        with pytest.raises(NotFound):
            opened(archive(tmp_path / "a", FILES, entry())).open_blob(other)


class TestHostile:
    def refused(self, path: Path, kind: type[LamellaError], code: str, **limits: int) -> LamellaError:
        before = open_descriptors(), sorted(os.listdir(path.parent))
        with pytest.raises(kind) as caught:
            open_source(path, spool=path.parent, limits=Limits(**limits))
        assert caught.value.code == code, caught.value
        assert caught.value.subject.startswith(str(path))
        assert (open_descriptors(), sorted(os.listdir(path.parent))) == before
        return caught.value

    @pytest.mark.parametrize("layers", [["1/layer.tar"], [], ["1/layer.tar", "2/layer.tar", "1/layer.tar"]])
    def test_more_or_fewer_layers_than_the_config_has(self, tmp_path, layers):
        self.refused(archive(tmp_path / "a", FILES, entry(Layers=layers)), Integrity, "layer-count-mismatch")

    @pytest.mark.parametrize("name", ["{}.json", "blobs/sha256/{}", "sha256:{}"])
    def test_a_config_that_is_not_what_its_name_says(self, tmp_path, name):
        name = name.format("0" * 64)
        path = archive(tmp_path / "a", {**FILES, name: CONFIG}, entry(Config=name))
        self.refused(path, Integrity, "config-digest-mismatch")

    def test_a_layer_that_is_not_the_configs_is_found_by_who_reads_it(self, tmp_path):
        source = opened(archive(tmp_path / "a", {**FILES, "1/layer.tar": TWO}, entry()))
        first = manifest_of(source, source.offers()[0]).layers[0]
        with pytest.raises(Integrity):
            read_all(source, first)

    @pytest.mark.parametrize("path", ["3/layer.tar", "", "..", "1/layer.tar/x", "/etc/passwd", "../../../etc/passwd"])
    def test_members_that_are_not_there(self, tmp_path, path):
        error = self.refused(
            archive(tmp_path / "a", FILES, entry(Layers=["1/layer.tar", path])), NotFound, "archive-member-missing"
        )
        assert error.entry is not None

    @pytest.mark.parametrize("path", ["/1/layer.tar", "../../1/layer.tar", "./2/../1//layer.tar"])
    def test_paths_lead_nowhere_but_into_the_archive(self, tmp_path, path):
        source = opened(archive(tmp_path / "a", FILES, entry(Layers=[path, "2/layer.tar"])))
        assert read_all(source, manifest_of(source, source.offers()[0]).layers[0]) == ONE

    @pytest.mark.parametrize("target", ["../../../etc/passwd", "/etc/passwd", "/proc/self/environ"])
    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
    def test_links_lead_nowhere_but_into_the_archive(self, tmp_path, target, kind):
        path = archive(tmp_path / "a", {**FILES, "1/layer.tar": (kind, target)}, entry())
        self.refused(path, NotFound, "archive-member-missing")

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
    def test_circles_of_links(self, tmp_path, kind):
        members = {**FILES, "1/layer.tar": (kind, "/x"), "x": (kind, "/y"), "y": (kind, "/1/layer.tar")}
        self.refused(archive(tmp_path / "a", members, entry()), InvalidInput, "archive-link-loop")

    def test_a_link_to_itself_through_its_directory(self, tmp_path):
        members = {**FILES, "1/layer.tar": (tarfile.SYMTYPE, "layer.tar/layer.tar")}
        self.refused(archive(tmp_path / "a", members, entry()), InvalidInput, "archive-link-loop")

    def test_a_link_of_four_megabytes(self, tmp_path):
        members = {**FILES, "1/layer.tar": (tarfile.SYMTYPE, "a/" * (1 << 20))}
        self.refused(archive(tmp_path / "a", members, entry()), ResourceExhausted, "path-length")

    def test_a_path_of_a_megabyte(self, tmp_path):
        path = archive(tmp_path / "a", FILES, entry(Layers=["a/" * (1 << 19), "2/layer.tar"]))
        self.refused(path, InvalidInput, "archive-path")

    @pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
    def test_layers_that_are_no_files(self, tmp_path, kind):
        members = {**FILES, "1/layer.tar": (kind, "")}
        self.refused(archive(tmp_path / "a", members, entry()), InvalidInput, "archive-member-type")

    @pytest.mark.parametrize("name", [NAME, "1/layer.tar", "manifest.json"])
    def test_two_different_members_of_one_name(self, tmp_path, name):
        members = [*FILES.items(), (name, b"[]" if name == "manifest.json" else ONE + bytes(512))]
        self.refused(archive(tmp_path / "a", members, entry()), InvalidInput, "archive-duplicate")

    def test_two_members_of_one_name_that_are_the_same(self, tmp_path):
        path = archive(tmp_path / "a", [*FILES.items(), *FILES.items(), ("./1//layer.tar", ONE)], entry())
        source = opened(path)
        assert read_all(source, manifest_of(source, source.offers()[0]).layers[0]) == ONE

    def test_two_members_of_one_name_that_nobody_needs(self, tmp_path):
        members = [*FILES.items(), ("x", b"1"), ("x", b"2"), ("y", (tarfile.SYMTYPE, "x"))]
        assert opened(archive(tmp_path / "a", members, entry())).offers()

    def test_a_file_and_a_link_of_one_name(self, tmp_path):
        members = [*FILES.items(), ("1/layer.tar", (tarfile.SYMTYPE, "../2/layer.tar"))]
        self.refused(archive(tmp_path / "a", members, entry()), InvalidInput, "archive-duplicate")

    @pytest.mark.parametrize(
        ("raw", "code"),
        [
            (b"", "document-syntax"),
            (b"{}", "document-type"),
            (b"null", "document-type"),
            (b"[1]", "document-type"),
            (b"[{}]", "document-missing-field"),
            (b'[{"Config":1,"Layers":[]}]', "document-wrong-type"),
            (b'[{"Config":"x","Layers":"y"}]', "document-wrong-type"),
            (b'[{"Config":"x","Layers":[1]}]', "document-wrong-type"),
            (b'[{"Config":"x","Layers":[],"RepoTags":"a"}]', "document-wrong-type"),
            (b'[{"Config":"x","Layers":[],"RepoTags":[{}]}]', "document-wrong-type"),
            (b'[{"Config":"x","Layers":[],"Parent":"nonsense"}]', "digest-syntax"),
            (b'[{"Config":"x","Config":"y","Layers":[]}]', "document-duplicate-key"),
            (b'[{"Config":"\\ud800","Layers":[]}]', "document-syntax"),
            (b'[{"Config":"a\\u0000b","Layers":[]}]', "archive-path"),
        ],
    )
    def test_malformed_manifests(self, tmp_path, raw, code):
        self.refused(archive(tmp_path / "a", FILES, raw=raw), InvalidInput, code)

    def test_a_deeply_nested_manifest(self, tmp_path):
        self.refused(archive(tmp_path / "a", FILES, raw=b"[" * 100_000), ResourceExhausted, "document-depth")

    def test_a_huge_manifest(self, tmp_path):
        path = archive(tmp_path / "a", FILES, raw=b" " * 1000)
        self.refused(path, ResourceExhausted, "document-size", document_bytes=999)

    @pytest.mark.parametrize(
        "config", [b"", b"[]", b'{"rootfs":1}', b'{"rootfs":{"diff_ids":["x"]}}', b'{"config":{"Env":{}}}', ONE]
    )
    def test_malformed_configs(self, tmp_path, config):
        path = archive(tmp_path / "a", {**FILES, "c": config}, entry(Config="c"))
        with pytest.raises(InvalidInput):
            open_source(path, spool=tmp_path)

    def test_too_many_layers(self, tmp_path):
        members = {"c": config_of(*[ONE] * 6), "l": ONE}
        path = archive(tmp_path / "a", members, entry(Config="c", Layers=["l"] * 6))
        self.refused(path, ResourceExhausted, "layer-count", layers=5)

    def test_a_layer_over_the_limit(self, tmp_path):
        self.refused(archive(tmp_path / "a", FILES, entry()), ResourceExhausted, "layer-size", layer_bytes=len(ONE) - 1)

    def test_too_many_members(self, tmp_path):
        path = archive(tmp_path / "a", FILES, entry())
        self.refused(path, ResourceExhausted, "layer-entries", layer_entries=2)

    def test_an_archive_that_is_cut_off(self, tmp_path):
        path = archive(tmp_path / "a", FILES, entry())
        whole = path.read_bytes()
        outcomes = set()
        for length in range(512, len(whole), 256):
            path.write_bytes(whole[:length])
            try:
                source = open_source(path, spool=tmp_path)
            except LamellaError as error:
                outcomes.add(error.code)
            else:  # all is there but the end marker
                assert all(read_all(source, blob) for blob in blobs_of(source, source.offers()[0].descriptor))
        assert outcomes == {"tar-truncated", "not-an-image"}

    def test_a_member_that_claims_more_than_there_is(self, tmp_path):
        info = tarfile.TarInfo("1/layer.tar")
        info.size = 8 << 30
        (tmp_path / "a").write_bytes(info.tobuf() + ONE)
        error = self.refused(tmp_path / "a", Integrity, "tar-truncated")
        assert error.entry == b"1/layer.tar"


@pytest.fixture
def family() -> MemorySource:
    """A base image, a child of it, and an unrelated image with a layer of the base."""
    source = MemorySource()
    base = source.image([ONE], "docker.io/library/base:1", "docker.io/library/base:latest")
    source.image([ONE, TWO], "registry.example:5000/team/child:1", parent=base.descriptor.digest)
    source.image([TWO, ONE], docker=True)
    return source


def saved(source: MemorySource, path: Path, **options: object) -> tarfile.TarFile:
    copy(source, DockerArchiveSink(path, **options))
    return tarfile.open(path)


class TestSink:
    def test_the_archive_has_each_layer_once_uncompressed_and_named_by_its_diff_id(self, family, tmp_path):
        with saved(family, tmp_path / "a.tar") as tar:
            layers = [name for name in tar.getnames() if name.endswith(".tar")]
            assert sorted(layers) == sorted(f"{sha256(data)}.tar" for data in (ONE, TWO))
            for name in layers:
                assert sha256(tar.extractfile(name).read()) == name.removesuffix(".tar")

    def test_the_manifest_lists_the_images_in_order(self, family, tmp_path):
        configs = [Manifest.parse(family.blobs[o.descriptor.digest]).config.digest for o in family.found]
        with saved(family, tmp_path / "a.tar") as tar:
            entries = json.load(tar.extractfile("manifest.json"))
            for written, digest in zip(entries, configs, strict=True):
                assert tar.extractfile(written["Config"]).read() == family.blobs[digest]
        one, two = f"{sha256(ONE)}.tar", f"{sha256(TWO)}.tar"
        assert entries == [
            {
                "Config": f"{configs[0].hex}.json",
                "RepoTags": ["docker.io/library/base:1", "docker.io/library/base:latest"],
                "Layers": [one],
            },
            {
                "Config": f"{configs[1].hex}.json",
                "RepoTags": ["registry.example:5000/team/child:1"],
                "Layers": [one, two],
                "Parent": str(configs[0]),
            },
            {"Config": f"{configs[2].hex}.json", "RepoTags": [], "Layers": [two, one]},
        ]

    def test_it_comes_back_with_ids_names_and_parents(self, family, tmp_path):
        saved(family, tmp_path / "a.tar").close()
        source = open_source(tmp_path / "a.tar", spool=tmp_path)
        configs = [manifest_of(source, offer).config.digest for offer in source.offers()]
        assert configs == [Manifest.parse(family.blobs[o.descriptor.digest]).config.digest for o in family.found]
        assert [offer.names for offer in source.offers()] == [offer.names for offer in family.found]
        assert source.offers()[1].parent == source.offers()[0].descriptor.digest
        assert all(read_all(source, b) for offer in source.offers() for b in blobs_of(source, offer.descriptor))

    def test_the_bytes_do_not_depend_on_the_order_in_which_blobs_came(self, family, tmp_path):
        saved(family, tmp_path / "a.tar", legacy=True).close()
        sink = DockerArchiveSink(tmp_path / "b.tar", legacy=True)
        blobs = [blob for offer in family.found for blob in blobs_of(family, offer.descriptor)]
        for blob in reversed(blobs):
            sink.write_blob(blob, family.open_blob(blob))
        sink.finish(family.found)
        assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()

    def test_the_legacy_form_has_records_and_repositories(self, family, tmp_path):
        with saved(family, tmp_path / "a.tar", legacy=True) as tar:
            repositories = json.load(tar.extractfile("repositories"))
            assert sorted(repositories) == ["base", "registry.example:5000/team/child"]
            assert sorted(repositories["base"]) == ["1", "latest"]
            top = repositories["registry.example:5000/team/child"]["1"]
            record = json.load(tar.extractfile(f"{top}/json"))
            assert record["id"] == top
            assert tar.extractfile(f"{top}/VERSION").read() == b"1.0"
            assert sha256(tar.extractfile(f"{top}/layer.tar").read()) == sha256(TWO)
            assert sha256(tar.extractfile(f"{record['parent']}/layer.tar").read()) == sha256(ONE)
            directories = {member.name for member in tar if member.isdir()}
            assert all(f"{name}/json" in tar.getnames() for name in directories)

    def test_without_names_there_is_no_repositories_file(self, tmp_path):
        source = MemorySource()
        source.image([ONE])
        with saved(source, tmp_path / "a.tar", legacy=True) as tar:
            assert "repositories" not in tar.getnames()

    def test_offers_of_one_config_are_one_image(self, tmp_path):
        source = MemorySource()
        source.image([ONE], "a:1")
        source.image([ONE], "b:1", compress=zstd)
        with saved(source, tmp_path / "a.tar") as tar:
            (found,) = json.load(tar.extractfile("manifest.json"))
        assert found["RepoTags"] == ["docker.io/library/a:1", "docker.io/library/b:1"]

    def test_a_digest_is_no_tag(self, tmp_path):
        source = MemorySource()
        source.image([ONE], f"a@sha256:{'0' * 64}", f"a:2@sha256:{'0' * 64}")
        with saved(source, tmp_path / "a.tar") as tar:
            (found,) = json.load(tar.extractfile("manifest.json"))
        assert found["RepoTags"] == ["docker.io/library/a:2"]

    @pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
    def test_layers_of_every_compression_are_written_plain(self, tmp_path, compress):
        source = MemorySource()
        source.image([ONE, TWO], "a:1", compress=compress)
        with saved(source, tmp_path / "a.tar") as tar:
            assert tar.extractfile(f"{sha256(ONE)}.tar").read() == ONE

    def test_sha512_diff_ids(self, tmp_path):
        source = MemorySource()
        diff_ids = [str(Digest.of(ONE, "sha512"))]
        raw = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        self.add(source, raw, [gzip.compress(ONE)])
        with saved(source, tmp_path / "a.tar") as tar:
            (found,) = json.load(tar.extractfile("manifest.json"))
            assert tar.extractfile(found["Layers"][0]).read() == ONE

    def add(self, source: MemorySource, config: bytes, layers: list[bytes], **fields: object) -> Offer:
        manifest = {
            "schemaVersion": 2,
            "config": source.add(media.OCI_CONFIG, config).to_object(),
            "layers": [source.add(media.OCI_LAYER + "+gzip", data).to_object() for data in layers],
            **fields,
        }
        offer = Offer(source.add(media.OCI_MANIFEST, json.dumps(manifest).encode()), ("a:1",))
        source.found.append(offer)
        return offer

    def refused(self, source: MemorySource, directory: Path, kind: type[LamellaError], code: str) -> None:
        before = open_descriptors()
        (directory / "a.tar").write_text("old")
        with pytest.raises(kind) as caught, DockerArchiveSink(directory / "a.tar") as sink:
            copy(source, sink)
        assert caught.value.code == code, caught.value
        assert listing(directory) == {"a.tar": b"old"}
        assert open_descriptors() == before

    def test_a_layer_that_is_not_the_configs_is_refused(self, tmp_path):
        source = MemorySource()
        self.add(source, config_of(TWO), [gzip.compress(ONE)])
        self.refused(source, tmp_path, Integrity, "diff-id-mismatch")

    def test_another_number_of_layers_than_the_configs_is_refused(self, tmp_path):
        source = MemorySource()
        self.add(source, config_of(ONE, TWO), [gzip.compress(ONE)])
        self.refused(source, tmp_path, Integrity, "layer-count-mismatch")

    @pytest.mark.parametrize(
        ("stored", "code"),
        [(gzip.compress(ONE)[:-9], "compression-truncated"), (gzip.compress(ONE) + b"x", "compression-trailing")],
        ids=["cut off", "with bytes behind it"],
    )
    def test_layers_that_cannot_be_decompressed_are_refused(self, tmp_path, stored, code):
        source = MemorySource()
        self.add(source, config_of(ONE), [stored])
        self.refused(source, tmp_path, Integrity, code)

    def test_a_layer_over_the_limit_is_refused(self, tmp_path):
        source = MemorySource()
        offer = source.image([bytes(1 << 20)])
        sink = DockerArchiveSink(tmp_path / "a.tar", limits=Limits(layer_bytes=1 << 19))
        blob = next(blobs_of(source, offer.descriptor))
        with sink, pytest.raises(ResourceExhausted):
            sink.write_blob(blob, source.open_blob(blob))
        assert listing(tmp_path) == {}

    def test_bytes_that_are_not_the_layers_are_refused(self, tmp_path):
        source = MemorySource()
        offer = source.image([ONE])
        blob = next(blobs_of(source, offer.descriptor))
        with DockerArchiveSink(tmp_path / "a.tar") as sink, pytest.raises(Integrity):
            sink.write_blob(blob, io.BytesIO(gzip.compress(TWO, mtime=0)))
        assert listing(tmp_path) == {}

    def test_what_is_no_image_is_refused(self, tmp_path):
        source = MemorySource()
        config = source.add("application/vnd.oci.empty.v1+json", b"{}").to_object()
        manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
        source.found.append(Offer(source.add(media.OCI_MANIFEST, manifest)))
        self.refused(source, tmp_path, Unsupported, "docker-archive-artifact")

    def index(self, source: MemorySource, *entries: dict) -> None:
        raw = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        source.found[:] = [Offer(source.add(media.OCI_INDEX, raw), ("a:1",))]

    def test_of_an_index_the_only_image_is_taken(self, tmp_path):
        source = MemorySource()
        offer = source.image([ONE])
        attestation = source.image([TWO]).descriptor.to_object()
        attestation["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
        self.index(source, offer.descriptor.to_object(), attestation)
        with saved(source, tmp_path / "a.tar") as tar:
            (found,) = json.load(tar.extractfile("manifest.json"))
        assert (found["Layers"], found["RepoTags"]) == ([f"{sha256(ONE)}.tar"], ["docker.io/library/a:1"])

    def test_an_index_of_several_images_is_refused(self, tmp_path):
        source = MemorySource()
        self.index(source, *(source.image([data]).descriptor.to_object() for data in (ONE, TWO)))
        self.refused(source, tmp_path, Unsupported, "docker-archive-index")

    def test_of_an_index_the_platforms_that_were_not_written_do_not_count(self, tmp_path):
        source = MemorySource()
        offers = [source.image([data]) for data in (ONE, TWO)]
        self.index(source, *(offer.descriptor.to_object() for offer in offers))
        with DockerArchiveSink(tmp_path / "a.tar") as sink:
            for blob in [*blobs_of(source, offers[1].descriptor), source.found[0].descriptor]:
                sink.write_blob(blob, source.open_blob(blob))
            sink.finish(source.found)
        with tarfile.open(tmp_path / "a.tar") as tar:
            (found,) = json.load(tar.extractfile("manifest.json"))
        assert found["Layers"] == [f"{sha256(TWO)}.tar"]

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_an_image_of_which_something_is_missing_is_refused(self, tmp_path, missing):
        source = MemorySource()
        blobs = list(blobs_of(source, source.image([ONE]).descriptor))
        with pytest.raises(FailedPrecondition) as caught, DockerArchiveSink(tmp_path / "a.tar") as sink:
            for i, blob in enumerate(blobs):
                if i != missing:
                    sink.write_blob(blob, source.open_blob(blob))
            sink.finish(source.found)
        assert caught.value.code == "blob-not-written"
        assert listing(tmp_path) == {}

    @pytest.mark.parametrize("name", ["../../etc/passwd", "UPPER", "_cosign:sha256-00.sig", "a b", ""])
    def test_names_that_docker_cannot_have_are_refused(self, tmp_path, name):
        source = MemorySource()
        source.image([ONE], name)
        self.refused(source, tmp_path, InvalidInput, "reference-syntax")

    def test_one_name_for_two_images_is_refused(self, tmp_path):
        source = MemorySource()
        source.image([ONE], "a")
        source.image([TWO], "docker.io/library/a:latest")
        self.refused(source, tmp_path, InvalidInput, "name-twice")

    def test_blobs_that_were_taken_are_known(self, tmp_path):
        source = MemorySource()
        blobs = list(blobs_of(source, source.image([ONE]).descriptor))
        with DockerArchiveSink(tmp_path / "a.tar") as sink:
            assert not any(sink.has_blob(blob) for blob in blobs)
            for blob in blobs:
                sink.write_blob(blob, source.open_blob(blob))
            assert all(sink.has_blob(blob) for blob in blobs)
