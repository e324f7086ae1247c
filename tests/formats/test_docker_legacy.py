"""Docker archives of 0.6.7 to 1.9: a record, a parent and a layer an image, and no manifest.json."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from formats_support import open_descriptors, read_all, real_image, sha256

import lamella
from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound, ResourceExhausted
from lamella.formats.detect import open_source
from lamella.formats.docker_legacy import DockerLegacySource
from lamella.images.create import Recipe
from lamella.spec import v1image
from lamella.spec.documents import ImageConfig, Manifest
from lamella.spec.limits import Limits
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS
from support import building

BASE = building.tar(building.directory("etc"), building.file("etc/hosts", "127.0.0.1 localhost\n"))
MIDDLE = building.tar(building.file("etc/motd", "hello\n"), building.gone("etc/hosts"))
TOP = building.tar(building.file("srv", "s" * 3000))
LAYERS = (BASE, MIDDLE, TOP)
IDS = tuple(sha256(b"image %d" % n) for n in range(3))

RUN_2013 = {"Hostname": "", "User": "", "Memory": 0, "MemorySwap": 0, "CpuShares": 0, "AttachStdin": False,
            "AttachStdout": False, "AttachStderr": False, "PortSpecs": None, "Tty": False, "OpenStdin": False,
            "StdinOnce": False, "Env": None, "Cmd": None, "Dns": None, "Image": "", "Volumes": None,
            "VolumesFrom": "", "Entrypoint": []}  # fmt: skip


def raw_json(n: int, **more: object) -> bytes:
    """The record as docker kept it: the form of 0.6.7, and of 1.1 to 1.9 but for more keys."""
    record = {"id": IDS[n], **({"parent": IDS[n - 1]} if n else {}), "comment": f"step <{n}>",
              "created": f"2013-0{n + 1}-13T14:03:50.821769-07:00", "container": sha256(b"c"),
              "container_config": {**RUN_2013, "Cmd": ["/bin/sh", "-c", f"echo {n}"]}, "docker_version": "0.6.7",
              "author": "me & you", "config": {**RUN_2013, "Cmd": ["/bin/sh"], "Env": ["A=b"]},
              "architecture": "x86_64", "Size": len(LAYERS[n]), **more}  # fmt: skip
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").encode()


def camel_json(n: int) -> bytes:
    """What docker 0.12 and 1.0 wrote in its place: the answer of ``inspect``."""
    raw = json.loads(raw_json(n))
    names = {"id": "Id", "parent": "Parent", "comment": "Comment", "created": "Created", "container": "Container",
             "container_config": "ContainerConfig", "docker_version": "DockerVersion", "author": "Author",
             "config": "Config", "architecture": "Architecture", "Size": "Size"}  # fmt: skip
    record = {names[key]: value for key, value in raw.items()}
    return json.dumps({"Parent": "", **record, "Os": "linux", "Architecture": "amd64"}).encode()


def members(*, form=raw_json, places=IDS, version=b"1.0") -> dict[str, bytes]:
    """The files of three images, each the parent of the next."""
    found: dict[str, bytes] = {}
    for n, place in enumerate(places):
        found |= {f"{place}/VERSION": version, f"{place}/json": form(n), f"{place}/layer.tar": LAYERS[n]}
    return found


def repositories(**names: dict[str, str]) -> dict[str, bytes]:
    return {"repositories": json.dumps(names).encode()}


def archive(path: Path, files: dict[str, bytes], *, modes: tuple[int, int] = (0o755, 0o644), prefix: str = "") -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for place in dict.fromkeys(name.rpartition("/")[0] for name in files if "/" in name):
            info = tarfile.TarInfo(f"{prefix}{place}/")
            info.type, info.mode = tarfile.DIRTYPE, modes[0]
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size, info.mode = len(data), modes[1]
            tar.addfile(info, io.BytesIO(data))
    return path


ERAS = {
    "0.6.7, modes of zero": ({**members(), **repositories(demo={"latest": IDS[2]})}, {"modes": (0, 0)}),
    "0.6.7, ./ before names": ({**members(), **repositories(demo={"latest": IDS[2]})}, {"prefix": "./"}),
    "0.12 and 1.0, CamelCase": ({**members(form=camel_json), **repositories(demo={"latest": IDS[2]})}, {}),
    "1.1 to 1.9": ({**members(), **repositories(demo={"latest": IDS[2]})}, {}),
}


def opened(path: Path, **limits: int) -> DockerLegacySource:
    source = open_source(path, spool=path.parent, limits=Limits(**limits))
    assert isinstance(source, DockerLegacySource)
    return source


def refused(path: Path, files: dict[str, bytes], **limits: int) -> LamellaError:
    before = open_descriptors()
    with pytest.raises(LamellaError) as caught:
        opened(archive(path, files), **limits).close()
    assert open_descriptors() == before
    assert str(path) in str(caught.value)
    return caught.value


class TestSource:
    @pytest.mark.parametrize("era", ERAS)
    def test_archives_of_every_era_give_all_images_with_parents_and_names(self, tmp_path, era):
        files, options = ERAS[era]
        with closing(opened(archive(tmp_path / "a", files, **options))) as source:
            offers = source.offers()
            assert [offer.names for offer in offers] == [(), (), ("demo:latest",)]
            digests = [offer.descriptor.digest for offer in offers]
            assert [offer.parent for offer in offers] == [None, *digests[:2]]
            manifest = Manifest.parse(read_all(source, offers[2].descriptor))
            assert [read_all(source, layer) for layer in manifest.layers] == list(LAYERS)
            config = ImageConfig.parse(read_all(source, manifest.config))
            assert [step.created_by for step in config.history] == [f"/bin/sh -c echo {n}" for n in range(3)]
            assert config.history[1].comment == "step <1>"
            assert config.author == "me & you"
            assert str(config.platform) == "linux/amd64"
            assert config.config["Env"] == ["A=b"]
            assert config.fields["docker_version"] == "0.6.7"
            assert config.fields["container_config"]["Cmd"] == ["/bin/sh", "-c", "echo 2"]

    def test_ids_and_records_are_kept_byte_by_byte(self, tmp_path):
        with closing(opened(archive(tmp_path / "a", members()))) as source:
            manifest = Manifest.parse(read_all(source, source.offers()[2].descriptor))
        kept = v1image.kept_images(manifest)
        assert [image.id for image in kept] == list(IDS)
        assert [image.raw for image in kept] == [raw_json(n) for n in range(3)]
        assert manifest.annotations[v1image.V1_ID] == IDS[2]
        assert v1image.is_kept(manifest, kept)

    def test_the_same_archive_gives_the_same_documents(self, tmp_path):
        one = opened(archive(tmp_path / "a", members()))
        other = opened(archive(tmp_path / "b", dict(reversed(members().items()))))
        assert {offer.descriptor for offer in one.offers()} == {offer.descriptor for offer in other.offers()}
        one.close()
        other.close()

    def test_keys_of_configurations_match_without_case(self, tmp_path):
        fields = {"config": {"cmd": ["/bin/sh"], "ENV": ["A=b"], "Mine": 1}, "container_config": {"CMD": ["echo", "2"]}}
        with closing(opened(archive(tmp_path / "a", members() | {f"{IDS[2]}/json": raw_json(2, **fields)}))) as source:
            manifest = Manifest.parse(read_all(source, source.offers()[2].descriptor))
            config = ImageConfig.parse(read_all(source, manifest.config))
        assert config.config == {"Cmd": ["/bin/sh"], "Env": ["A=b"], "Mine": 1}
        assert config.history[2].created_by == "echo 2"
        error = refused(tmp_path / "b", members() | {f"{IDS[2]}/json": raw_json(2, config={"Cmd": [], "cmd": []})})
        assert error.code == "document-duplicate-key"

    def test_the_topmost_directory_may_be_called_what_the_user_typed(self, tmp_path):
        # As of 1.0: "docker save busybox:latest" wrote no repositories, and this.
        places = (IDS[0], IDS[1], "busybox:latest")
        with closing(opened(archive(tmp_path / "a", members(places=places)))) as source:
            assert [offer.names for offer in source.offers()] == [(), (), ()]

    def test_many_tags_of_many_images(self, tmp_path):
        names = repositories(demo={"latest": IDS[2], "1": IDS[2], "0": IDS[0]}, other={"x": IDS[1]})
        with closing(opened(archive(tmp_path / "a", members() | names))) as source:
            assert [sorted(offer.names) for offer in source.offers()] == [
                ["demo:0"], ["other:x"], ["demo:1", "demo:latest"]]  # fmt: skip

    def test_layers_may_be_compressed_and_empty(self, tmp_path):
        packed = gzip.compress(MIDDLE, mtime=0)
        files = members() | {f"{IDS[1]}/layer.tar": packed, f"{IDS[2]}/layer.tar": bytes(1024)}
        with closing(opened(archive(tmp_path / "a", files))) as source:
            manifest = Manifest.parse(read_all(source, source.offers()[2].descriptor))
            config = ImageConfig.parse(read_all(source, manifest.config))
            assert [str(d) for d in config.diff_ids] == [
                f"sha256:{sha256(data)}" for data in (BASE, MIDDLE, bytes(1024))]  # fmt: skip
            assert read_all(source, manifest.layers[1]) == packed

    def test_ids_of_sixteen_digits_are_those_of_the_first_months(self, tmp_path):
        short = "27cf784147099545"
        files = {f"{short}/json": json.dumps({"id": short}).encode(), f"{short}/layer.tar": BASE}
        with closing(opened(archive(tmp_path / "a", files))) as source:
            manifest = Manifest.parse(read_all(source, source.offers()[0].descriptor))
            assert manifest.annotations[v1image.V1_ID] == short


class TestHostile:
    @pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"id":7}', b'{"id":"%s","created":7}' % IDS[1].encode(),
                                        b'{"id":"%s","Id":"x"}' % IDS[1].encode()])  # fmt: skip
    def test_a_broken_record_is_named_with_its_image(self, tmp_path, record):
        error = refused(tmp_path / "a", members() | {f"{IDS[1]}/json": record})
        assert isinstance(error, InvalidInput)
        assert IDS[1] in str(error)
        assert error.entry == f"{IDS[1]}/json".encode()

    @pytest.mark.parametrize("identity", ["", "../../etc", "a b", "x" * 64, IDS[1].upper(), IDS[1] + "/", "foo"])
    def test_ids_that_are_none_are_refused(self, tmp_path, identity):
        error = refused(tmp_path / "a", members() | {f"{IDS[1]}/json": json.dumps({"id": identity}).encode()})
        assert error.code == "v1-id"
        assert f"{IDS[1]}/json" in str(error)

    @pytest.mark.parametrize("parents", [{0: 0}, {0: 2}, {0: 1}])
    def test_cycles_are_refused(self, tmp_path, parents):
        files = members() | {f"{IDS[n]}/json": raw_json(n, parent=IDS[to]) for n, to in parents.items()}
        error = refused(tmp_path / "a", files)
        assert isinstance(error, InvalidInput)
        assert error.code == "v1-cycle"
        assert any(identity in str(error) for identity in IDS)

    def test_a_missing_parent_is_named_with_its_child(self, tmp_path):
        files = {name: data for name, data in members().items() if not name.startswith(IDS[0])}
        error = refused(tmp_path / "a", files)
        assert isinstance(error, NotFound)
        assert error.code == "v1-parent-missing"
        assert IDS[0] in str(error)
        assert IDS[1] in str(error)

    def test_a_missing_layer_is_named(self, tmp_path):
        files = members()
        del files[f"{IDS[1]}/layer.tar"]
        error = refused(tmp_path / "a", files)
        assert isinstance(error, NotFound)
        assert error.entry == f"{IDS[1]}/layer.tar".encode()
        assert IDS[1] in error.subject

    def test_two_directories_with_one_id(self, tmp_path):
        files = members() | {"again/json": raw_json(1), "again/layer.tar": BASE}
        error = refused(tmp_path / "a", files)
        assert error.code == "v1-duplicate"
        assert "'again'" in str(error)

    @pytest.mark.parametrize(
        ("text", "code"),
        [(b"[]", "document-type"), (b"{", "document-syntax"), (b'{"a":7}', "document-wrong-type"),
         (b'{"a":{"b":7}}', "document-wrong-type"), (b'{"a":{"b":"%s"}}' % (b"0" * 64), "v1-image-missing")],
    )  # fmt: skip
    def test_broken_repositories_are_refused(self, tmp_path, text, code):
        error = refused(tmp_path / "a", members() | {"repositories": text})
        assert error.code == code

    @pytest.mark.parametrize("fields", [{"config": {"Env": "A=b"}}, {"container_config": {"Cmd": "ls"}},
                                        {"created": "yesterday"}, {"config": []}])  # fmt: skip
    def test_records_that_no_configuration_can_be_made_of_are_named(self, tmp_path, fields):
        error = refused(tmp_path / "a", members() | {f"{IDS[2]}/json": raw_json(2, **fields)})
        assert isinstance(error, InvalidInput)
        assert IDS[2] in str(error)

    def test_limits(self, tmp_path):
        assert refused(tmp_path / "a", members(), layers=2).code == "layer-count"
        assert refused(tmp_path / "b", members(), layer_bytes=len(BASE) - 1).code == "layer-size"
        assert isinstance(refused(tmp_path / "c", members(), document_bytes=100), ResourceExhausted)

    def test_an_archive_that_is_cut_off_between_members_is_refused(self, tmp_path):
        path = archive(tmp_path / "a", members() | repositories(demo={"1": IDS[2]}))
        whole = path.read_bytes()
        with tarfile.open(path) as tar:
            starts = [info.offset for info in tar] + [tar.offset]
        for length in starts[1:]:
            path.write_bytes(whole[:length])
            with pytest.raises(LamellaError) as caught:
                opened(path)
            assert caught.value.code in ("tar-truncated", "not-an-image")
        assert caught.value.code == "tar-truncated"
        path.write_bytes(whole[: starts[-1] + 512])  # one zero block will do
        opened(path).close()

    def test_a_file_called_repositories_makes_no_archive(self, tmp_path):
        error = refused(tmp_path / "a", {"repositories": b"{}", "etc/passwd": b"root"})
        assert error.code == "not-an-image"
        assert "lamella import" in error.hint


class TestLoading:
    @pytest.mark.parametrize("era", ERAS)
    def test_the_store_gets_every_image_tag_and_parent(self, store, disk, era):
        files, options = ERAS[era]
        loaded = store.load(archive(disk / "a", files, **options))
        assert [item.names for item in loaded] == [(), (), ("demo:latest",)]
        image = store.image("demo")
        assert [ancestor.digest for ancestor in image.ancestors()] == [item.descriptor.digest for item in loaded][::-1]
        assert image.open("/etc/motd").read() == b"hello\n"
        assert not image.exists("/etc/hosts")
        assert image.parent.parent.open("/etc/hosts").read() == b"127.0.0.1 localhost\n"
        assert [step.image for step in image.history()] == [found.id for found in list(image.ancestors())[::-1]]
        assert len(store.images()) == 3

    def test_a_name_of_ones_own_is_for_the_topmost(self, store, disk):
        store.load(archive(disk / "a", members()), name="mine:1")
        assert store.image("mine:1").manifest.annotations[v1image.V1_ID] == IDS[2]
        assert [image.names for image in store.images() if image.names] == [["mine:1"]]

    def test_a_child_keeps_what_its_ancestors_were(self, store, disk):
        store.load(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}))
        snapshot = store.prepare("demo:1", "s")
        with snapshot.mount() as root:
            (root / "new").write_text("new")
        child = snapshot.commit("demo:2")
        kept = v1image.kept_images(child.manifest)
        assert [image.id for image in kept] == list(IDS)
        assert not v1image.is_kept(child.manifest, kept)

    def test_saved_again_it_has_the_same_ids_records_and_tags(self, store, disk):
        store.load(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}))
        store.save(["demo:1"], disk / "b", format="docker-archive", legacy=True, platform=Platform("linux", "amd64"))
        with tarfile.open(disk / "b") as tar:
            assert json.load(tar.extractfile("repositories")) == {"demo": {"1": IDS[2]}}
            for n, identity in enumerate(IDS):
                assert tar.extractfile(f"{identity}/json").read() == raw_json(n)
                assert tar.extractfile(f"{identity}/layer.tar").read() == LAYERS[n]

    def test_a_child_saved_stands_on_the_old_ids(self, store, disk):
        store.load(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}))
        for n, text in enumerate(("", "new")):
            snapshot = store.prepare("demo:1", f"s{n}")
            if text:
                with snapshot.mount() as root:
                    (root / "new").write_text(text)
            snapshot.commit(f"demo:child{n}", recipe=Recipe(changes=("USER me",)))
            store.save([f"demo:child{n}"], disk / f"b{n}", format="docker-archive", legacy=True)
        with tarfile.open(disk / "b0") as same_layers, tarfile.open(disk / "b1") as one_more:
            same = json.load(same_layers.extractfile("repositories"))["demo"]["child0"]
            assert same not in IDS
            assert json.load(same_layers.extractfile(f"{same}/json"))["parent"] == IDS[1]
            more = json.load(one_more.extractfile("repositories"))["demo"]["child1"]
            record = json.load(one_more.extractfile(f"{more}/json"))
            assert (record["parent"], record["config"]["User"]) == (IDS[2], "me")

    @pytest.mark.parametrize(
        "other",
        [{f"{IDS[0]}/json": raw_json(0, author="eve")}, {f"{IDS[0]}/layer.tar": building.tar(building.file("evil"))}],
        ids=["record", "layer"],
    )
    def test_two_images_of_one_id_are_not_saved_as_one(self, store, disk, other):
        store.load(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}))
        store.load(archive(disk / "b", {**members(), **other, **repositories(other={"1": IDS[1]})}))
        with pytest.raises(InvalidInput) as caught:
            store.save(["demo:1", "other:1"], disk / "c", format="docker-archive", legacy=True)
        assert (caught.value.code, IDS[0] in str(caught.value)) == ("v1-duplicate", True)
        assert not (disk / "c").exists()
        store.save(["demo:1", "other:1"], disk / "c", format="docker-archive")

    def test_damage_between_looking_and_loading_is_noticed(self, store, disk):
        path = archive(disk / "a", members())

        class Damages(type(NO_PROGRESS)):
            def start(self, key, action, *, total=None, unit="bytes"):
                if action == "copying":
                    path.write_bytes(path.read_bytes().replace(b"sss", b"tss", 1))

        with pytest.raises(Integrity):
            store.load(path, progress=Damages())
        assert store.images() == []

    def test_ancestors_survive_the_collector(self, store, disk):
        store.load(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}))
        store.gc()
        assert len(store.images()) == 3
        store.remove(["demo:1"])
        store.gc()
        assert store.images() == []

    @pytest.mark.needs_tool("skopeo")
    def test_what_was_loaded_is_an_image_for_others(self, store, disk):
        import subprocess

        store.load(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}))
        store.save(["demo:1"], disk / "out", format="oci-dir")
        shown = subprocess.run(["skopeo", "inspect", f"oci:{disk}/out:demo:1"], capture_output=True, check=False)
        assert shown.returncode == 0, shown.stderr
        assert len(json.loads(shown.stdout)["Layers"]) == 3

    def test_the_public_store_reads_from_a_pipe_too(self, disk):
        import subprocess
        import sys

        data = gzip.compress(archive(disk / "a", {**members(), **repositories(demo={"1": IDS[2]})}).read_bytes())
        command = [sys.executable, "-m", "lamella", "--root", str(disk / "s"), "load", "-q"]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Loaded image: demo:1\n" in done.stdout
        with lamella.Store.open(disk / "s") as store:
            assert len(store.images()) == 3


class TestReal:
    """An archive of docker's own, without the file that it has had since 1.10."""

    @pytest.fixture
    def stripped(self, disk):
        real = real_image("alpine-docker-archive.tar", disk)
        with tarfile.open(real) as whole, tarfile.open(disk / "stripped", "w", format=tarfile.GNU_FORMAT) as tar:
            for info in whole:
                if info.name != "manifest.json":
                    tar.addfile(info, whole.extractfile(info) if info.isreg() else None)
        return real, disk / "stripped"

    def test_it_is_the_same_image(self, store, disk, stripped):
        real, path = stripped
        (loaded,) = store.load(path)
        assert loaded.names
        image = store.image(loaded.names[0])
        with tarfile.open(real) as tar:
            (identity,) = next(iter(json.load(tar.extractfile("repositories")).values())).values()
            assert v1image.kept_images(image.manifest)[0].raw == tar.extractfile(f"{identity}/json").read()
        with lamella.Store.open(disk / "modern") as modern:
            (same,) = modern.load(real)
            other = modern.image(str(same.descriptor.digest))
            assert image.diff_ids == other.diff_ids
            assert image.config.config["Cmd"] == other.config.config["Cmd"]
            assert (image.platform, image.created) == (other.platform, other.created)
