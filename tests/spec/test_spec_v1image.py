"""Records of images of before 2016, and what today's documents keep of them."""

from __future__ import annotations

import json

import pytest

from lamella.errors import InvalidInput, NotFound, ResourceExhausted
from lamella.spec import media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import Manifest
from lamella.spec.limits import Limits
from lamella.spec.v1image import (
    V1_CHECKSUM,
    V1_ID,
    V1_JSON,
    V1Image,
    V1Layer,
    is_kept,
    kept_chain,
    kept_images,
    parents_first,
    to_documents,
)

IDS = [f"{n:064x}" for n in range(1, 6)]


def image(n: int, parent: int | None = None, **more: object) -> V1Image:
    above = {"parent": IDS[parent]} if parent is not None else {}
    return V1Image.parse(json.dumps({"id": IDS[n], **above, **more}).encode())


def chain(length: int, **labels: str) -> list[V1Layer]:
    return [
        V1Layer(
            image(n, n - 1 if n else None),
            Descriptor.of(media.OCI_LAYER, b"layer %d" % n),
            Digest.of(b"layer %d" % n),
            labels,
        )
        for n in range(length)
    ]


class TestRecords:
    @pytest.mark.parametrize("key", ["id", "ID", "Id", "iD"])
    def test_keys_in_any_case_unknown_ones_ignored_null_as_absent(self, key):
        found = V1Image.parse(json.dumps({key: IDS[0], "Nothing": 1, "parent": None, "CONFIG": {}}).encode())
        assert (found.id, found.parent, found.fields["config"]) == (IDS[0], "", {})

    @pytest.mark.parametrize("name", ["ContainerConfig", "container_config", "Container_Config"])
    def test_what_docker_0_12_saved_is_not_lost(self, name):
        assert image(0, **{name: {"Cmd": ["a", "b"]}}).created_by == "a b"

    @pytest.mark.parametrize("fields", [{"comment": 1}, {"config": []}, {"created": {}}, {"author": 7}])
    def test_wrong_types_are_errors(self, fields):
        with pytest.raises(InvalidInput):
            image(0, **fields)

    def test_a_key_twice_is_refused_in_whatever_case(self):
        with pytest.raises(InvalidInput) as caught:
            image(0, Comment="a", comment="b")
        assert caught.value.code == "document-duplicate-key"

    @pytest.mark.parametrize("text", ["", "x" * 64, "A" * 64, "../x", "a b", "1" * 63, "1" * 15])
    def test_ids_that_are_none(self, text):
        with pytest.raises(InvalidInput) as caught:
            V1Image.parse(json.dumps({"id": text}).encode())
        assert caught.value.code == "v1-id"


class TestOrder:
    def test_parents_come_first(self):
        images = {found.id: found for found in (image(2, 1), image(3, 0), image(1, 0), image(0))}
        order = [found.id for found in parents_first(images)]
        assert sorted(order) == sorted(images)
        assert all(order.index(found.parent) < order.index(found.id) for found in images.values() if found.parent)

    def test_a_long_line_is_no_recursion(self):
        ids = [f"{n:064x}" for n in range(5000)]
        images = {
            ids[n]: V1Image(b"", ids[n], ids[n - 1] if n else "", {}) for n in reversed(range(len(ids)))
        }  # fmt: skip
        assert [found.id for found in parents_first(images)] == ids

    @pytest.mark.parametrize("parents", [{0: 0}, {0: 1, 1: 0}, {0: 1, 1: 2, 2: 1}])
    def test_circles_are_named(self, parents):
        images = {IDS[n]: image(n, to) for n, to in parents.items()}
        with pytest.raises(InvalidInput) as caught:
            parents_first(images)
        assert caught.value.code == "v1-cycle"

    def test_a_missing_parent_is_named(self):
        with pytest.raises(NotFound) as caught:
            parents_first({IDS[1]: image(1, 0)})
        assert IDS[0] in str(caught.value)
        assert IDS[1] in str(caught.value)


class TestDocuments:
    def test_there_and_back(self):
        links = chain(3, **{V1_CHECKSUM: "sha256:x"})
        config, manifest = to_documents(links)
        assert config.diff_ids == tuple(link.diff_id for link in links)
        assert kept_images(manifest) == kept_chain(manifest) == [link.image for link in links]
        assert is_kept(manifest, kept_images(manifest))
        assert {layer.annotations[V1_CHECKSUM] for layer in manifest.layers} == {"sha256:x"}

    def test_what_a_record_does_not_say_is_what_there_was_in_2013(self):
        config, _ = to_documents(chain(1))
        assert str(config.platform) == "linux/amd64"
        assert (config.created, config.author, config.config) == (None, "", {})

    @pytest.mark.parametrize(("text", "platform"), [("x86_64", "linux/amd64"), ("arm", "linux/arm/v7")])
    def test_architectures_as_the_kernel_called_them(self, text, platform):
        link = V1Layer(image(0, architecture=text), Descriptor.of(media.OCI_LAYER, b""), Digest.of(b""))
        assert str(to_documents([link])[0].platform) == platform

    def test_the_limit_of_layers(self):
        with pytest.raises(ResourceExhausted):
            to_documents(chain(3), limits=Limits(layers=2))


def changed(manifest: Manifest, n: int, **annotations: str | None) -> Manifest:
    """The manifest with annotations of one layer changed by somebody."""
    document = json.loads(manifest.raw)
    notes = document["layers"][n]["annotations"]
    for key, value in annotations.items():
        if value is None:
            del notes[key.replace("_", ".")]
        else:
            notes[key.replace("_", ".")] = value
    return Manifest.parse(json.dumps(document).encode())


class TestForgeries:
    """Annotations come from whoever wrote the manifest: they never make a chain that is none."""

    @pytest.mark.parametrize(
        "forged",
        [
            {"lamella_v1_id": IDS[4]},
            {"lamella_v1_id": None},
            {"lamella_v1_json": None},
            {"lamella_v1_json": "{"},
            {"lamella_v1_json": image(1, 3).raw.decode()},
            {"lamella_v1_json": json.dumps({"id": "../../x", "parent": IDS[0]}), "lamella_v1_id": "../../x"},
        ],
    )
    def test_only_what_lies_below_counts(self, forged):
        manifest = changed(to_documents(chain(3))[1], 1, **forged)
        assert [found.id for found in kept_images(manifest)] == IDS[:1]
        assert not is_kept(manifest, kept_images(manifest))

    def test_a_child_without_a_layer_of_its_own_is_not_its_parent(self):
        document = json.loads(to_documents(chain(3))[1].raw)
        del document["annotations"]
        child = Manifest.parse(json.dumps(document).encode())
        assert [found.id for found in kept_images(child)] == IDS[:3]
        assert [found.id for found in kept_chain(child)] == IDS[:2]
        assert not is_kept(child, kept_images(child))

    def test_the_keys(self):
        assert (V1_ID, V1_JSON, V1_CHECKSUM) == ("lamella.v1.id", "lamella.v1.json", "lamella.v1.checksum")
