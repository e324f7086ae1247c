"""Images found by name, id, digest and prefix, and by platform."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lamella import Digest, Platform
from lamella.errors import Ambiguous, InvalidInput, NotFound
from lamella.testing.catalog import sample_image
from support import building

NAMES = ["app", "app:latest", "docker.io/app", "library/app", "docker.io/library/app:latest", "index.docker.io/app"]


@pytest.fixture
def app(store, disk):
    """An image with one name."""
    store.load(building.layout(disk / "app", [building.tar(building.file("f"))], tag="app"))
    return store.images()[0]


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_way_to_write_a_name_finds_it(self, store, app, name):
        assert store.image(name) == app

    def test_a_name_with_its_digest(self, store, app):
        assert store.image(f"app@{app.digest}") == app
        assert store.image(f"app:latest@{app.digest}") == app

    def test_a_tag_that_has_moved_does_not_fit_its_old_digest(self, store, app, disk):
        store.load(building.layout(disk / "other", [building.tar(building.file("g"))], tag="app"))
        with pytest.raises(NotFound, match="the tag is"):
            store.image(f"app:latest@{app.digest}")
        assert store.image(f"app@{app.digest}") == app
        assert app.names == []

    def test_what_is_not_there(self, store, app):
        for name in ("other", "app:1", "quay.io/app", "app@sha256:" + "0" * 64, "0" * 64, ""):
            with pytest.raises(NotFound) as missing:
                store.image(name)
            assert missing.value.code == "image-not-found"
        assert not store.exists("other")
        assert store.exists("app")

    def test_a_name_wins_over_an_id(self, store, app, disk):
        name = app.id.hex[:8]
        store.load(building.layout(disk / "other", [building.tar(building.file("g"))], tag="other"))
        store.tag("other", name)
        assert store.image(name) == store.image("other")
        assert store.image(app.id.hex[:9]) == app


class TestIds:
    def test_ids_and_digests_whole_and_cut(self, store, app):
        for digest in (app.id, app.digest):
            for text in (str(digest), digest.hex, digest.hex[:12], f"sha256:{digest.hex[:9]}", digest.hex.upper()):
                assert store.image(text) == app

    def test_a_prefix_that_fits_several_names_them(self, store, disk):
        for number in range(20):
            store.load(building.layout(disk / str(number), [building.tar(building.file(f"f{number}"))], tag=None))
        ids = [image.id for image in store.images()]
        digests = [image.digest for image in store.images()]
        first = next(d for d in "0123456789abcdef" if sum(x.hex.startswith(d) for x in ids + digests) > 1)
        with pytest.raises(Ambiguous) as ambiguous:
            store.image(first)
        assert ambiguous.value.code == "ambiguous-prefix"
        fitting = [str(x) for x in ids + digests if x.hex.startswith(first)]
        assert sum(text in str(ambiguous.value) for text in fitting) == min(len(fitting), 8)

    def test_an_exact_id_wins_over_a_longer_one_that_begins_with_it(self, store):
        """A sha512 digest may begin with all 64 digits of a sha256 one."""
        short, long = "ab" * 32, "ab" * 64
        for seed, hex_digits in (("short", short), ("long", long)):
            image, document = sample_image(seed)
            digest = Digest("sha256" if len(hex_digits) == 64 else "sha512", hex_digits)
            store.catalog.add_image(replace(image, manifest=digest), replace(document, digest=digest))
        assert store.graph.find_document(short).digest.hex == short
        assert store.graph.find_document(long).digest.hex == long
        with pytest.raises(Ambiguous):
            store.graph.find_document(short[:60])
        for digest in (Digest("sha256", short), Digest("sha512", long)):
            store.catalog.remove_document(digest)

    def test_two_manifests_of_one_config_are_one_id(self, store, app, real_layout):
        store.load(real_layout("alpine-3.20"))
        store.load(real_layout("alpine-docker-archive.tar"))
        first, second = store.image("3.20.3"), store.image("alpine:3.20.3")
        assert first.id == second.id
        assert first.digest != second.digest
        assert store.image(first.id.hex) == first
        assert store.image(second.digest.hex) == second


class TestPlatforms:
    @pytest.fixture
    def index(self, store, real_layout):
        """The ten platforms of hello-world as one index, under a name."""
        (loaded,) = store.load(real_layout("hello-world-10-platforms"), name="hello-world")
        assert loaded.kind == "index"
        return loaded

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/arm64", "linux/arm64/v8"),
            ("aarch64", "linux/arm64/v8"),
            ("linux/arm/v5", "linux/arm/v5"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/s390x", "linux/s390x"),
            ("riscv64", "linux/riscv64"),
        ],
    )
    def test_the_image_that_fits_is_found(self, store, index, wanted, found):
        chosen = store.image("hello-world", platform=Platform.parse(wanted))
        document = store.graph.find_document("hello-world")
        (child,) = [child for child in document.children if child.digest == chosen.digest]
        assert str(child.platform) == found

    def test_without_a_platform_it_is_this_machine_s(self, store, index):
        assert store.image("hello-world") == store.image("hello-world", platform=Platform.host())

    def test_a_platform_that_is_not_there(self, store, index):
        with pytest.raises(NotFound) as missing:
            store.image("hello-world", platform=Platform.parse("windows/amd64"))
        assert missing.value.code == "platform-not-found"
        assert "linux/s390x" in missing.value.hint

    def test_an_image_that_is_no_index_must_fit_too(self, store, app):
        assert store.image("app", platform=Platform.parse("linux/amd64")) == app
        with pytest.raises(NotFound):
            store.image("app", platform=Platform.parse("linux/arm64"))

    def test_loading_one_platform_only(self, store, real_layout):
        (loaded,) = store.load(real_layout("hello-world-10-platforms"), platform=Platform.parse("s390x"), name="hello")
        assert loaded.kind == "image"
        assert [image.platform.architecture for image in store.images()] == ["s390x"]
        assert store.image("hello", platform=Platform.parse("s390x")).names == ["hello:latest"]

    def test_the_index_is_kept_as_it_came(self, store, index, disk):
        document = store.graph.find_document("hello-world")
        store.save(["hello-world"], disk / "saved", format="oci-dir")
        assert (disk / "saved/blobs/sha256" / document.digest.hex).read_bytes() == store.graph.read_document(
            document.digest
        )
        assert len(list((disk / "saved/blobs/sha256").iterdir())) == 31


def test_an_artifact_is_no_image(store, real_layout):
    loaded = store.load(real_layout("semantics/hello-world-cosign-manifest"))
    artifact = next(item for item in loaded if item.kind == "artifact")
    with pytest.raises(InvalidInput) as refused:
        store.image(str(artifact.descriptor.digest))
    assert refused.value.code == "not-an-image"
