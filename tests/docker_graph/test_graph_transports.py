"""``copy`` to and from what docker before 1.10 had: its graph, and registries of version 1."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

import lamella
from lamella.errors import AccessDenied, Integrity, NotFound, Unsupported
from lamella.formats.docker_graph import Graph, GraphImage
from lamella.images.create import Recipe
from lamella.registry.access import Access, Retrying
from lamella.registry.policy import Policy
from lamella.registry.registries_conf import RegistriesConf
from lamella.spec import v1image
from lamella.spec.digest import Digest
from lamella.spec.platform import Platform
from lamella.transfer.endpoints import Journey, Place, copy_between
from support import building
from support.noted import Noted
from support.registry_v1 import World, world

ACCESS = Access(retrying=Retrying(attempts=2), sleep=lambda _: None)
LAYERS = (building.tar(building.file("a", "one")), gzip.compress(building.tar(building.file("b", "two")), mtime=0))
IDS = tuple(hashlib.sha256(b"transport %d" % n).hexdigest() for n in range(2))


@pytest.fixture
def registry():
    """An index and a registry with one image on another, of which the TarSums are known."""
    from lamella.formats.docker_graph import tarsum

    with world() as here:
        for n, layer in enumerate(LAYERS):
            record = {"id": IDS[n], **({"parent": IDS[0]} if n else {}), "created": "2013-06-13T14:03:50Z"}
            raw = json.dumps(record, separators=(",", ":")).encode()
            here.add(record, layer, tag="latest" if n else "", checksum=tarsum(io.BytesIO(layer), raw))
        yield here


def copy(store: lamella.Store, source: str, target: str, **options) -> list:
    return store.copy(source, target, access=ACCESS, **options)


def v1(here: World, name: str = "demo") -> str:
    return f"docker-v1://{here.index}/{name}"


class TestRegistry:
    def test_into_the_store_with_ancestors(self, store, registry):
        copy(store, v1(registry), "mine:1")
        image = store.image("mine:1")
        assert image.open("b").read() == b"two"
        assert image.parent.manifest.annotations[v1image.V1_ID] == IDS[0]
        assert len(store.images()) == 2

    def test_tarsums_are_verified(self, store, registry):
        progress = Noted()
        copy(store, v1(registry), "mine:1", progress=progress)
        assert not any("could not be verified" in note for note in progress.notes)
        registry.checksums[IDS[1]] = "tarsum+sha256:" + "0" * 64
        with pytest.raises(Integrity) as caught:
            copy(store, v1(registry), "mine:2")
        assert caught.value.code == "v1-checksum"

    def test_straight_into_a_graph(self, store, registry, disk):
        copy(store, v1(registry), f"docker-graph:{disk}/docker")
        graph = Graph.open(disk / "docker", create=False)
        assert graph.ids() == sorted(IDS)
        assert [graph.get(key).record.json for key in IDS] == [registry.images[key].json for key in IDS]
        assert graph.checksums() == registry.checksums
        assert graph.tags.repositories == {f"{registry.index}/demo": {"latest": IDS[1]}}
        assert store.images() == []

    def test_an_empty_checksum_is_not_pushed_on(self, store, registry):
        registry.checksums = dict.fromkeys(IDS, "")
        copy(store, v1(registry), "mine:1")
        with world() as other:
            copy(store, "mine:1", v1(other))
            assert all(checksum.startswith("tarsum+sha256:") for checksum in other.checksums.values())
            assert other.checksums.keys() == set(IDS)

    @pytest.mark.parametrize("call", [f"{IDS[1]}/layer", "checksum", "tags/latest", "demo/images$"])
    def test_a_push_that_fails_leaves_nothing_here(self, store, registry, disk, call):
        copy(store, v1(registry), f"oci:{disk}/layout:it")
        place = disk / "scratch"
        place.mkdir()
        journey = Journey(place, ACCESS, ACCESS)
        with world() as other:
            other.fail[f"PUT .*{call}"] = [403]
            with pytest.raises(AccessDenied):
                copy_between(Place.parse(f"oci:{disk}/layout:it"), Place.parse(v1(other)), journey)
        assert [path for path in place.rglob("*") if not path.is_dir()] == []

    def test_an_image_that_the_graph_has_gets_no_checksum_of_another_layer(self, store, registry, disk):
        """Its id and its record are what whoever published it chose."""
        graph = Graph.open(disk / "docker")
        graph.register(GraphImage.from_json(registry.images[IDS[0]].json), io.BytesIO(building.tar()))
        copy(store, v1(registry), f"docker-graph:{disk}/docker")
        graph = Graph.open(disk / "docker", create=False)
        assert graph.checksums() == {IDS[1]: registry.checksums[IDS[1]]}
        assert graph.get(IDS[0]).checksum() != registry.checksums[IDS[0]]

    def test_out_of_the_store_it_has_the_same_ids(self, store, registry):
        copy(store, v1(registry), "mine:1")
        with world() as other:
            copy(store, "mine:1", v1(other, "demo:back"))
            assert [other.images[key].json for key in IDS] == [registry.images[key].json for key in IDS]
            assert [other.images[key].layer for key in IDS] == list(LAYERS)
            assert other.tags == {"back": IDS[1]}
            assert other.checksums == registry.checksums

    @pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
    def test_images_of_today_are_pushed_as_a_registry_of_then_can_take_them(self, store, disk, compression):
        recipe = Recipe(platform=Platform.host(), compression=lamella.Compression(compression))
        image = store.import_rootfs(io.BytesIO(building.tar(building.file("x", "y" * 9000))), "today:1", recipe=recipe)
        with world() as here:
            copy(store, "today:1", v1(here, "demo:1"))
            (identity,) = here.images
            assert identity == image.checksums().v1_id
            assert here.images[identity].layer[:4] != b"\x28\xb5\x2f\xfd"
            copy(store, v1(here, "demo:1"), "back:1")
        assert store.image("back:1").open("x").read() == b"y" * 9000

    def test_what_is_not_there(self, store, registry):
        with pytest.raises(NotFound):
            copy(store, v1(registry, "demo:nope"), "mine:1")
        with pytest.raises(NotFound):
            copy(store, v1(registry, "other/name"), "mine:1")
        assert store.images() == []

    @pytest.mark.parametrize("way", ["from", "to"])
    def test_a_digest_is_refused_and_not_overlooked(self, store, registry, way):
        copy(store, v1(registry), "mine:1")
        asked = len(registry.log)
        pinned = v1(registry, f"demo:latest@sha256:{'0' * 64}")
        with pytest.raises(Unsupported) as caught:
            copy(store, *((pinned, "mine:2") if way == "from" else ("mine:1", pinned)))
        assert caught.value.code == "v1-digest"
        assert len(registry.log) == asked

    def test_a_policy_counts_here_too(self, store, registry):
        seen = []
        copy(store, v1(registry), "mine:1", verify=seen.append)
        (candidate,) = seen
        assert str(candidate.reference) == f"{registry.index}/demo:latest"
        assert candidate.descriptor.digest == store.image("mine:1").digest == Digest.of(candidate.document)
        with pytest.raises(AccessDenied) as caught:
            copy(store, v1(registry), "mine:2", verify=Policy.parse(b'{"default": [{"type": "reject"}]}'))
        assert caught.value.code == "policy-rejected"
        assert [image.names for image in store.images() if image.names] == [["mine:1"]]

    @pytest.mark.parametrize("way", ["from", "to"])
    def test_what_registries_conf_blocks_is_not_asked(self, store, registry, disk, way):
        copy(store, v1(registry), "mine:1")
        asked = len(registry.log)
        (disk / "registries.conf").write_text(f"[[registry]]\nlocation = '{registry.index}'\nblocked = true\n")
        blocking = replace(ACCESS, registries=RegistriesConf.load(disk / "registries.conf"))
        ends = (v1(registry), "mine:2") if way == "from" else ("mine:1", v1(registry))
        with pytest.raises(AccessDenied) as caught:
            store.copy(*ends, access=blocking, target_access=blocking)
        assert caught.value.code == "registry-blocked"
        assert len(registry.log) == asked


class TestGraph:
    @pytest.fixture
    def docker(self, store, registry, disk) -> Path:
        copy(store, v1(registry), f"docker-graph:{disk}/docker")
        return disk / "docker"

    @pytest.mark.parametrize("by", ["name", "id", "prefix"])
    def test_one_image_with_its_ancestors(self, store, docker, registry, by):
        name = {"name": f"{registry.index}/demo", "id": IDS[1], "prefix": IDS[1][:7]}[by]
        copy(store, f"docker-graph:{docker}:{name}", "mine:1")
        assert store.image("mine:1").manifest.annotations[v1image.V1_ID] == IDS[1]
        assert store.image("mine:1").parent.names == []
        copy(store, f"docker-graph:{docker}:{name}", f"oci:{docker.parent}/layout:it")
        assert len(json.loads((docker.parent / "layout/index.json").read_text())["manifests"]) == 1

    def test_all_of_it(self, store, docker):
        copy(store, f"docker-graph:{docker}", f"oci:{docker.parent}/layout")
        loaded = store.load(docker.parent / "layout")
        assert len(loaded) == 2

    def test_from_a_graph_to_another(self, store, docker, disk):
        copy(store, f"docker-graph:{docker}", f"docker-graph:{disk}/second")
        one, other = Graph.open(docker, create=False), Graph.open(disk / "second", create=False)
        assert other.ids() == one.ids()
        assert other.checksums() == one.checksums()
        assert other.tags.repositories == one.tags.repositories

    def test_what_is_no_graph(self, store, disk):
        with pytest.raises(NotFound):
            copy(store, f"docker-graph:{disk}/nothing", "mine:1")
