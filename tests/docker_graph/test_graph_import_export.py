"""From a graph of 2013 into a store and back: ids, records, checksums, names and files stay what they were."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import lamella
from lamella.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
)
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage
from lamella.formats.docker_graph_sink import DockerGraphSink
from lamella.formats.docker_graph_source import DockerGraphSource
from lamella.formats.oci_layout_sink import OciLayoutSink
from lamella.images.create import Recipe
from lamella.layers.compare import compare
from lamella.layers.view import TreeView
from lamella.spec import v1image
from lamella.spec.descriptor import Descriptor
from lamella.spec.endpoint import ImageSink, ImageSource, Offer
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Cancelled
from lamella.testing import supervised
from lamella.transfer.copy import copy_images
from support import building, needs
from support.noted import Noted
from support.trees import assert_same, read_directory, read_view, without

IDS = tuple(hashlib.sha256(b"graph %d" % n).hexdigest() for n in range(4))
BASE = building.tar(
    building.directory("./"), building.directory("etc"), building.file("etc/hosts", "localhost\n", owner=(3, 4)),
    building.file("etc/gone", "soon"), building.symlink("etc/link", "hosts"),
    replace(building.hard_link("etc/hard", "etc/hosts"), owner=(3, 4)),
)  # fmt: skip
CHILD = building.tar(building.directory("etc"), building.gone("etc/gone"), building.file("etc/motd", "hello\n"))
OTHER = building.tar(building.file("other", "o" * 5000))
DANGLING = building.tar(building.hard_link("a", "nothing"))
CONFIG = (
    '{"Hostname":"","User":"","Memory":0,"MemorySwap":0,"CpuShares":0,"AttachStdin":false,"AttachStdout":false,'
    '"AttachStderr":false,"PortSpecs":null,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":%s,'
    '"Dns":null,"Image":"","Volumes":null,"VolumesFrom":""}'
)


def record(n: int, parent: int | None = None, **more: str) -> bytes:
    """A record byte by byte as 0.4.0 wrote it."""
    middle = f'"parent":"{IDS[parent]}",' if parent is not None else ""
    text = (
        f'{{"id":"{IDS[n]}",{middle}"comment":"c \\u003cd\\u003e é","created":"2013-06-0{n + 1}T12:30:45.123456-07:00",'
        f'"container_config":{CONFIG % "null"},"docker_version":"0.4.0","author":"me",'
        f'"config":{CONFIG % json.dumps(["/bin/sh"], separators=(",", ":"))},"architecture":"x86_64"}}'
    )
    return text.encode()


RECORDS = (record(0), record(1, 0), record(2, 1), record(3, 0))
ARCHIVES = (gzip.compress(BASE, mtime=0), CHILD, OTHER, building.tar())


def simple(n: int) -> str:
    return "sha256:" + hashlib.sha256(RECORDS[n] + b"\n" + ARCHIVES[n]).hexdigest()


NAMES = {"base": {"latest": IDS[0]}, "localhost:5000/me/app": {"1": IDS[2], "2": IDS[2]}, "fork": {"latest": IDS[3]}}


@pytest.fixture
def docker(disk: Path) -> Path:
    """What docker 0.4.0 left behind, made by hand: four images, one of them without a stored archive."""
    home = disk / "docker"
    graph = home / "graph"
    graph.mkdir(parents=True)
    for n, identity in enumerate(IDS):
        layer = graph / identity / "layer"
        layer.mkdir(parents=True, mode=0o700)
        plain = gzip.decompress(ARCHIVES[n]) if n == 0 else ARCHIVES[n]
        subprocess.run(["tar", "--numeric-owner", "-xpf", "-", "-C", layer], input=plain, check=True)
        for whiteout in layer.rglob(".wh.*"):
            whiteout.chmod(0o444)  # as AUFS makes them
        if n != 3:
            (graph / identity / "layer.tar.xz").write_bytes(ARCHIVES[n])
        (graph / identity / "json").write_bytes(RECORDS[n])
    (graph / ":tmp:").mkdir()
    (graph / "checksums").write_text(json.dumps({IDS[0]: simple(0), IDS[1]: simple(1), IDS[2]: ""}))
    (home / "repositories").write_text(json.dumps({"Repositories": NAMES}))
    return home


def image_of(store, identity: str):
    """The image of the store that was the v1 image ``identity``."""
    (found,) = [image for image in store.images() if image.manifest.annotations.get(v1image.V1_ID) == identity]
    return found


def files(directory: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        kind = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "directory"
        found[str(path.relative_to(directory))] = (kind, oct(info.st_mode), info.st_uid, info.st_gid, info.st_nlink)
    return found


class TestImport:
    def test_every_image_with_its_parent_names_and_files(self, store, docker):
        loaded = store.import_graph(docker)
        assert len(loaded) == len(store.images()) == 4
        assert image_of(store, IDS[0]).names == ["base:latest"]
        assert image_of(store, IDS[2]).names == ["localhost:5000/me/app:1", "localhost:5000/me/app:2"]
        assert image_of(store, IDS[2]).parent == image_of(store, IDS[1])
        assert image_of(store, IDS[3]).parent == image_of(store, IDS[0])
        app = store.image("localhost:5000/me/app:2")
        assert app.open("etc/motd").read() == b"hello\n"
        assert not app.exists("etc/gone")
        assert app.config.config["Cmd"] == ["/bin/sh"]
        assert str(app.platform) == "linux/amd64"
        assert [step.comment for step in app.history()] == ["c <d> é"] * 3

    def test_ids_records_and_checksums_stay_with_them(self, store, docker):
        store.import_graph(docker)
        for n in range(3):
            image = image_of(store, IDS[n])
            kept = v1image.kept_images(image.manifest)
            assert (kept[-1].id, kept[-1].raw) == (IDS[n], RECORDS[n])
            assert image.checksum() == simple(n)
            assert image.checksums().v1_id == IDS[n]
        top = image_of(store, IDS[1]).manifest.layers[-1]
        assert top.annotations[v1image.V1_CHECKSUM] == simple(1)
        assert v1image.V1_CHECKSUM not in image_of(store, IDS[2]).manifest.layers[-1].annotations

    def test_they_are_found_by_the_ids_that_they_had(self, store, docker):
        store.import_graph(docker)
        for n, identity in enumerate(IDS):
            assert store.image(identity).digest == store.image(identity[:12]).digest
            assert v1image.kept_images(store.image(identity).manifest)[-1].raw == RECORDS[n]
        snapshot = store.prepare(IDS[2], "s")
        snapshot.commit("child:1", recipe=Recipe(changes=("USER me",)))
        assert store.image(IDS[2]).names == ["localhost:5000/me/app:1", "localhost:5000/me/app:2"]
        for nobody in (IDS[2][:11], "0" * 64, "0" * 12):
            with pytest.raises(NotFound):
                store.image(nobody)

    def test_what_has_no_name_is_told(self, store, docker):
        noted = Noted()
        store.import_graph(docker, progress=noted)
        assert not any("no name" in note for note in noted.notes)
        (docker / "repositories").write_text(json.dumps({"Repositories": {"Upper/Case": {"x": IDS[2]}}}))
        with lamella.Store.open(store.root.parent / "second") as second:
            second.import_graph(docker, progress=noted)
            assert "'Upper/Case:x' is no image name and was not kept" in noted.notes
            assert "2 of the images have no name: 'lamella gc' removes what gets none" in noted.notes
            assert len(second.images()) == 4

    def test_names_that_are_one_today_are_told(self, store, docker):
        names = {"library/base": {"latest": IDS[0]}, "base": {"latest": IDS[1]}, "docker.io/base": {"latest": IDS[1]}}
        (docker / "repositories").write_text(json.dumps({"Repositories": names}))
        noted = Noted()
        loaded = store.import_graph(docker, progress=noted)
        assert [item.names for item in loaded if item.names] == [("base:latest",)]
        assert store.image("base").digest == image_of(store, IDS[1]).digest
        assert noted.notes.count("base:latest is the name of several images; the last of them has it") == 1

    def test_the_graph_itself_may_be_named(self, store, docker):
        store.import_graph(docker / "graph")
        assert store.exists("base")

    def test_some_images_with_their_ancestors(self, store, docker):
        store.import_graph(docker, ["fork"])
        assert {image.manifest.annotations[v1image.V1_ID] for image in store.images()} == {IDS[0], IDS[3]}

    def test_again_is_nothing_new(self, store, docker):
        first = store.import_graph(docker)
        assert store.import_graph(docker) == first
        assert len(store.images()) == 4

    @pytest.mark.parametrize(
        ("damage", "kind"),
        [
            (lambda home: (home / "graph" / IDS[1] / "json").write_bytes(b"{"), InvalidInput),
            (lambda home: (home / "graph" / IDS[1] / "json").write_bytes(RECORDS[0]), Integrity),
            (lambda home: (home / "graph" / IDS[1] / "json").unlink(), NotFound),
            (lambda home: (home / "graph" / IDS[1] / "layer.tar.xz").write_bytes(b"rubbish" * 100), LamellaError),
            (lambda home: (home / "graph" / IDS[1] / "layer.tar.xz").write_bytes(DANGLING), InvalidInput),
            (lambda home: (home / "graph" / IDS[1]).rename(home / "gone"), NotFound),
            (lambda home: (home / "graph" / IDS[1] / "json").write_bytes(record(1, 2)), InvalidInput),
        ],
        ids=["record", "wrong id", "no record", "layer", "link", "no parent", "cycle"],
    )
    def test_damage_is_an_error_that_names_the_image_and_leaves_nothing(self, store, docker, damage, kind):
        damage(docker)
        with pytest.raises(kind) as caught:
            store.import_graph(docker)
        assert any(identity[:12] in str(caught.value) for identity in IDS)
        assert store.images() == []
        assert not list((store.root / "blobs").glob("*/*"))

    @pytest.mark.parametrize(
        ("name", "text"),
        [("json", b"{"), ("json", record(1, 2)), ("json", RECORDS[0]), ("layer.tar.xz", b"rubbish" * 100),
         ("layer.tar.xz", ARCHIVES[0][:-9]), ("layer.tar.xz", building.tar(building.file("../x"))),
         ("layer.tar.xz", DANGLING)],
    )  # fmt: skip
    def test_damaged_ones_can_be_left_out(self, store, docker, name, text):
        (docker / "graph" / IDS[1] / name).write_bytes(text)
        store.import_graph(docker, skip_damaged=True)
        assert {image.manifest.annotations[v1image.V1_ID] for image in store.images()} == {IDS[0], IDS[3]}

    def test_the_documents_of_a_deep_graph_do_not_fill_the_memory(self, disk):
        parent = ""
        for n in range(30):
            identity = hashlib.sha256(b"deep %d" % n).hexdigest()
            (disk / "graph" / identity / "layer").mkdir(parents=True)
            (disk / "graph" / identity / "layer.tar.xz").write_bytes(building.tar(building.file(f"f{n}", "x")))
            raw = json.dumps({"id": identity, "parent": parent, "comment": "c" * 150_000})
            (disk / "graph" / identity / "json").write_text(raw)
            parent = identity
        script = (
            "import sys, lamella; from pathlib import Path; root, graph = map(Path, sys.argv[1:]);"
            "lamella.Store.open(root).import_graph(graph); print(Path('/proc/self/status').read_text())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, disk / "s", disk], capture_output=True, text=True, check=True
        )
        peak = next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmHWM"))
        assert peak < 220 << 10  # the documents of all have 140 MB

    def test_what_is_no_graph(self, store, disk):
        for place in ("nothing", "empty"):
            if place == "empty":
                (disk / place).mkdir()
            with pytest.raises(NotFound):
                store.import_graph(disk / place)


class TestRoundTrip:
    def test_a_graph_comes_back_as_it_was(self, store, docker, disk):
        store.import_graph(docker)
        store.export_graph(["base", "localhost:5000/me/app:1", "localhost:5000/me/app:2", "fork"], disk / "out")
        graph = disk / "out/graph"
        for n, identity in enumerate(IDS):
            assert (graph / identity / "json").read_bytes() == RECORDS[n]
            if n != 3:
                assert (graph / identity / "layer.tar.xz").read_bytes() == ARCHIVES[n]
            assert files(graph / identity / "layer") == files(docker / "graph" / identity / "layer")
        assert json.loads((disk / "out/repositories").read_text()) == {"Repositories": NAMES}
        assert json.loads((graph / "checksums").read_text()) == {IDS[0]: simple(0), IDS[1]: simple(1)}
        modes = {name: (graph / IDS[0] / name).stat().st_mode & 0o777 for name in ("json", "layer.tar.xz")}
        assert modes == {"json": 0o600, "layer.tar.xz": 0o600}
        assert sorted(os.listdir(graph / ":tmp:")) == []

    def test_the_store_that_it_comes_to_has_the_same_images(self, store, docker, disk):
        first = store.import_graph(docker)
        store.export_graph(["base", "localhost:5000/me/app:1", "localhost:5000/me/app:2", "fork"], disk / "out")
        with lamella.Store.open(disk / "second") as second:
            again = second.import_graph(disk / "out")
            assert {(item.descriptor.digest, item.names) for item in first} == {
                (item.descriptor.digest, item.names) for item in again}  # fmt: skip

    @pytest.mark.parametrize("form", GraphForm)
    def test_every_form_keeps_ids_and_records(self, store, docker, disk, form):
        store.import_graph(docker)
        store.export_graph(["localhost:5000/me/app:1"], disk / "out", form=form)
        graph = Graph.open(disk / "out", create=False)
        assert graph.layout.form is form
        assert [image.record.json for image in graph.tags.lookup("localhost:5000/me/app:1").history()] == [
            RECORDS[n] for n in (2, 1, 0)]  # fmt: skip
        assert graph.get(IDS[2]).tree().lookup(b"etc/motd", follow=False).entry.size == 6
        with lamella.Store.open(disk / "second") as second:
            second.import_graph(disk / "out")
            again, before = second.image("localhost:5000/me/app:1"), store.image("localhost:5000/me/app:1")
            assert compare(again.tree, before.tree) == []
            assert v1image.kept_images(again.manifest) == v1image.kept_images(before.manifest)
            if not form.has_driver and form is GraphForm.V0_4:
                assert again.digest == before.digest

    @pytest.mark.parametrize(
        ("archive", "suffix"),
        [(b"", ""), (bytes(1024), ""), (bz2.compress(CHILD), "+bzip2"), (lzma.compress(CHILD), "+xz")],
        ids=["nothing", "empty", "bzip2", "xz"],
    )
    def test_archives_of_every_kind_are_kept_byte_by_byte(self, store, docker, disk, archive, suffix):
        (docker / "graph" / IDS[3] / "layer.tar.xz").write_bytes(archive)
        store.import_graph(docker, ["fork"])
        image = store.image("fork")
        assert image.manifest.layers[-1].media_type == "application/vnd.oci.image.layer.v1.tar" + suffix
        assert image.exists("etc/motd") == bool(suffix)
        expected = "sha256:" + hashlib.sha256(RECORDS[3] + b"\n" + archive).hexdigest()
        assert image.checksum() == expected
        store.export_graph(["fork"], disk / "out")
        assert (disk / "out/graph" / IDS[3] / "layer.tar.xz").read_bytes() == archive
        assert Graph.open(disk / "out").get(IDS[3]).checksum() == expected

    def test_images_of_today_get_records_that_stand_on_the_old_ones(self, store, docker, disk):
        store.import_graph(docker)
        snapshot = store.prepare("base", "s")
        with snapshot.mount() as root:
            (root / "new").write_text("new\n")
        child = snapshot.commit("me/child:1", recipe=Recipe(changes=('CMD ["new"]',), author="you"))
        store.export_graph(["me/child:1"], disk / "out")
        graph = Graph.open(disk / "out", create=False)
        found = graph.tags.lookup("me/child:1")
        assert (found.parent, found.record.author) == (IDS[0], "you")
        assert list(found.record.config.members()["Cmd"]) == ["new"]
        assert found.id == child.checksums().v1_id
        assert (found.layer() / "new").read_text() == "new\n"

    def test_through_a_layout_nothing_is_lost(self, store, docker, disk):
        (disk / "scratch").mkdir()
        with closing(DockerGraphSource(Graph.open(docker, create=False), disk / "scratch")) as source:
            assert isinstance(source, ImageSource)
            copy_images(source, OciLayoutSink(disk / "layout"))
        store.load(disk / "layout")
        store.export_graph(["localhost:5000/me/app:1"], disk / "out")
        assert [(disk / "out/graph" / identity / "json").read_bytes() for identity in IDS[:3]] == list(RECORDS[:3])


class TestExport:
    @pytest.fixture
    def demo(self, store):
        recipe = Recipe(platform=Platform("linux", "amd64"), changes=("ENV A=b",))
        store.import_rootfs(io.BytesIO(BASE), "demo:1", recipe=recipe)
        return store

    def test_what_docker_of_the_time_expects(self, demo, disk):
        demo.export_graph(["demo:1"], disk / "out")
        (identity,) = [path.name for path in (disk / "out/graph").iterdir() if len(path.name) == 64]
        raw = json.loads((disk / "out/graph" / identity / "json").read_text())
        assert raw["id"] == identity
        assert isinstance(raw["container_config"], dict)
        assert raw["config"]["Env"] == ["A=b"]
        assert (disk / "out/graph" / identity / "layer/etc/hosts").stat().st_uid == 3
        assert json.loads((disk / "out/repositories").read_text()) == {"Repositories": {"demo": {"1": identity}}}

    @pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
    def test_the_checksum_there_is_the_one_that_is_told_here(self, store, disk, compression):
        recipe = Recipe(compression=lamella.Compression(compression), platform=Platform("linux", "amd64"))
        image = store.import_rootfs(io.BytesIO(BASE), "demo:1", recipe=recipe)
        store.export_graph(["demo:1"], disk / "out")
        found = Graph.open(disk / "out").tags.lookup("demo:1")
        assert (found.id, found.checksum()) == (image.checksums().v1_id, image.checksum())
        assert (found.tarsum(), found.tarsum(version="1")) == (image.checksums().tarsum, image.checksums().tarsum_v1)

    def test_added_to_what_is_there(self, demo, docker, disk):
        demo.export_graph(["demo:1"], docker)
        graph = Graph.open(docker, create=False)
        assert len(graph.ids()) == 5
        assert set(graph.tags.repositories) == {*NAMES, "demo"}
        demo.export_graph(["demo:1"], docker)
        assert len(graph.ids()) == 5

    def test_a_name_of_another_image_stays_unless_forced(self, demo, docker):
        demo.tag("demo:1", "base")
        before = files(docker)
        with pytest.raises(Conflict) as caught:
            demo.export_graph(["base"], docker)
        assert "please use -f option" in str(caught.value)
        assert files(docker) == before
        demo.export_graph(["base"], docker, force=True)
        assert Graph.open(docker).tags.repositories["base"]["latest"] not in IDS

    def test_another_record_under_the_same_id_is_not_touched(self, store, docker, disk):
        store.import_graph(docker)
        changed = RECORDS[0].replace(b'"me"', b'"eve"')
        (docker / "graph" / IDS[0] / "json").write_bytes(changed)
        with pytest.raises(AlreadyExists) as caught:
            store.export_graph(["base"], docker)
        assert (caught.value.code, IDS[0] in str(caught.value)) == ("graph-image-differs", True)
        assert (docker / "graph" / IDS[0] / "json").read_bytes() == changed

    def test_a_record_that_docker_could_not_read_is_named(self, store, disk):
        (disk / "archive" / IDS[0]).mkdir(parents=True)
        (disk / "archive" / IDS[0] / "json").write_text(json.dumps({"id": IDS[0], "Size": 1.5}))
        (disk / "archive" / IDS[0] / "layer.tar").write_bytes(CHILD)
        with tarfile.open(disk / "old.tar", "w") as tar:
            tar.add(disk / "archive", ".")
        store.load(disk / "old.tar")
        with pytest.raises(InvalidInput) as caught:
            store.export_graph([IDS[0]], disk / "out")
        assert (caught.value.code, caught.value.subject) == ("graph-json-type", f"image {IDS[0]}")

    def test_two_layers_under_one_id_are_refused(self, store, docker, disk):
        store.import_graph(docker)
        (docker / "graph" / IDS[0] / "layer.tar.xz").write_bytes(OTHER)
        (docker / "repositories").write_text(json.dumps({"Repositories": {"other": {"fork": IDS[3]}}}))
        store.import_graph(docker)
        with pytest.raises(AlreadyExists) as caught:
            store.export_graph(["base", "other:fork"], disk / "out")
        assert (caught.value.code, IDS[0] in str(caught.value)) == ("graph-image-differs", True)
        assert Graph.open(disk / "out", create=False).ids() == []

    @pytest.mark.parametrize("form", [form for form in GraphForm if form is not GraphForm.V0_4])
    def test_a_graph_of_another_form_is_not_mixed_with(self, demo, docker, form):
        before = files(docker)
        with pytest.raises(FailedPrecondition) as caught:
            demo.export_graph(["demo:1"], docker, form=form)
        assert caught.value.code == "graph-form"
        assert files(docker) == before
        demo.export_graph(["demo:1"], docker, form=GraphForm.V0_4)
        assert len(Graph.open(docker).ids()) == 5

    def test_a_failure_takes_back_what_was_added(self, store, docker, disk):
        store.import_graph(docker)
        out = disk / "out"
        graph = Graph.open(out / "graph")
        # Something is in the way of the third image.
        (graph.root / IDS[2]).mkdir()
        (graph.root / IDS[2] / "precious").write_text("data")
        with pytest.raises(Conflict):
            store.export_graph(["localhost:5000/me/app:1"], out)
        assert [image.id for image in graph.all()] == []
        assert (graph.root / IDS[2] / "precious").read_text() == "data"
        assert graph.tags.repositories == {}
        assert os.listdir(graph.layout.temporary) == []

    def test_a_failure_gives_back_the_names_that_it_took(self, docker, disk):
        def copy(**options):
            scratch = Path(tempfile.mkdtemp(dir=disk))
            source = DockerGraphSource(Graph.open(docker, create=False), scratch)
            copy_images(source, DockerGraphSink(disk / "out", **options))

        copy()
        before = {"base": {"latest": IDS[1]}, "others": {f"{n:0120}": IDS[2] for n in range(600)}}
        (disk / "out/repositories").write_text(json.dumps({"Repositories": before}, separators=(",", ":")))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The name of the base can be moved; for the next ones the file would have to grow.
        resource.setrlimit(resource.RLIMIT_FSIZE, ((disk / "out/repositories").stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(ResourceExhausted):
                copy(force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert Graph.open(disk / "out").tags.repositories == before
        copy(force=True)
        assert Graph.open(disk / "out").tags.repositories == {**before, **NAMES}

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_stopped_it_takes_back_what_was_added(self, store, docker, disk, stop):
        store.import_graph(docker)

        class Stops(type(NO_PROGRESS)):
            seen = 0

            def start(self, key, action, *, total=None, unit="bytes"):
                self.seen += action == "registering"
                if self.seen == stop:
                    raise Cancelled("enough")

        with pytest.raises(Cancelled):
            store.export_graph(["localhost:5000/me/app:1"], disk / "out", progress=Stops())
        graph = Graph.open(disk / "out", create=False)
        assert (graph.ids(), graph.tags.repositories, graph.checksums()) == ([], {}, {})
        assert os.listdir(graph.layout.temporary) == []

    @pytest.mark.parametrize("skip_damaged", [False, True])
    @pytest.mark.parametrize("action", ["hashing", "copying"])
    def test_an_import_that_is_stopped_leaves_nothing(self, store, docker, action, skip_damaged):
        class Stops(type(NO_PROGRESS)):
            def start(self, key, doing, *, total=None, unit="bytes"):
                if doing == action:
                    raise Cancelled("enough")

        with pytest.raises(Cancelled):
            store.import_graph(docker, progress=Stops(), skip_damaged=skip_damaged)
        assert store.images() == []
        assert not list((store.root / "blobs").glob("*/*"))

    def test_a_layer_that_is_not_the_configs_is_refused(self, disk, docker):
        (disk / "scratch").mkdir()
        source = DockerGraphSource(Graph.open(docker, create=False), disk / "scratch", names=["base"])
        (offer,) = source.offers()
        manifest = json.loads(source.open_blob(offer.descriptor).read(1 << 20))
        other = Descriptor.of("application/vnd.oci.image.layer.v1.tar", CHILD)
        manifest["layers"] = [{**manifest["layers"][0], **other.to_object()}]
        raw = json.dumps(manifest).encode()
        config = Descriptor.from_object(manifest["config"])
        with DockerGraphSink(disk / "out") as sink:
            assert isinstance(sink, ImageSink)
            sink.write_blob(config, source.open_blob(config))
            sink.write_blob(other, io.BytesIO(CHILD))
            top = Descriptor.of(offer.descriptor.media_type, raw)
            sink.write_blob(top, io.BytesIO(raw))
            with pytest.raises(Integrity) as caught:
                sink.finish([Offer(top, ("demo:1",))])
        assert caught.value.code == "diff-id-mismatch"
        assert IDS[0] in str(caught.value)
        graph = Graph.open(disk / "out")
        assert (graph.ids(), graph.tags.repositories) == ([], {})

    @pytest.fixture
    def supervised_copy(self, docker, disk):
        """A copy of the graph to another place in a process of its own; ``decide`` is asked at each of its calls."""
        if reason := supervised.missing():
            needs.missing(f"seccomp user notifications: {reason}")
        Graph.open(disk / "out/graph")

        def run(decide):
            def act():
                source = DockerGraphSource(Graph.open(docker, create=False), Path(tempfile.mkdtemp(dir=disk)))
                copy_images(source, DockerGraphSink(disk / "out"))

            return supervised.supervised(act, below=disk / "out", decide=decide)

        return run

    def test_what_cannot_be_cleared_away_is_no_failure(self, supervised_copy, disk):
        run = supervised_copy(lambda _, call: errno.EIO if call.name == "unlinkat" else supervised.GO_ON)
        assert run.status == 0, run.errors
        graph = Graph.open(disk / "out", create=False)
        assert (graph.ids(), graph.tags.repositories) == (sorted(IDS), NAMES)
        graph.temporary().close()
        assert os.listdir(graph.layout.temporary) == []

    @pytest.mark.parametrize("directory", ["out", "out/graph"])
    @pytest.mark.parametrize("at", [1, 3])
    def test_what_is_not_sure_to_last_is_taken_back(self, supervised_copy, disk, directory, at):
        seen = []

        def decide(_, call):
            if (call.name, call.paths) == ("fsync", (str(disk / directory),)):
                seen.append(call)
                return errno.EIO if len(seen) == at else supervised.GO_ON
            return supervised.GO_ON

        run = supervised_copy(decide)
        assert run.status != 0
        graph = Graph.open(disk / "out", create=False)
        assert (graph.ids(), graph.tags.repositories, graph.checksums()) == ([], {}, {})

    @pytest.mark.parametrize("form", [GraphForm.AUFS, GraphForm.VFS])
    @pytest.mark.parametrize("failing", [("rename", "graph/{}"), ("fsync", "graph"), ("fsync", "{driver}")])
    def test_what_a_failed_register_gave_the_driver_is_taken_back(self, disk, form, failing):
        if reason := supervised.missing():
            needs.missing(f"seccomp user notifications: {reason}")
        graph = Graph.open(disk / "out/graph", form=form)
        name, place = failing
        driver = "aufs/diff" if form is GraphForm.AUFS else "vfs/dir"
        target = str(disk / "out" / place.format(IDS[0], driver=driver))
        run = supervised.supervised(
            lambda: graph.register(GraphImage.from_json(RECORDS[0]), io.BytesIO(ARCHIVES[0])),
            below=disk / "out",
            decide=lambda _, call: errno.EIO if (call.name, call.paths[-1]) == (name, target) else supervised.GO_ON,
        )
        assert run.status != 0
        assert [path for path in (disk / "out").rglob("*") if IDS[0] in path.name] == []
        assert graph.register(GraphImage.from_json(RECORDS[0]), io.BytesIO(ARCHIVES[0])).tree().lookup(b"etc/hosts")

    def test_what_killed_writers_left_beside_the_names_goes(self, supervised_copy, disk):
        def decide(_, call):
            is_names = call.name == "rename" and call.paths[-1] == str(disk / "out/repositories")
            return supervised.KILL if is_names else supervised.GO_ON

        assert supervised_copy(decide).status == supervised.KILL
        assert list((disk / "out").glob(".repositories.*"))
        assert supervised_copy(lambda *_: supervised.GO_ON).status == 0
        assert sorted(os.listdir(disk / "out")) == ["graph", "repositories"]

    def test_several_processes_into_one_graph(self, store, docker, disk):
        store.import_graph(docker)
        names = ["base", "localhost:5000/me/app:1", "localhost:5000/me/app:2", "fork"]
        command = [sys.executable, "-m", "lamella", "--root", str(store.root), "export-graph", "-q"]
        running = [subprocess.Popen([*command, *names[n % 2 :], str(disk / "out")]) for n in range(4)]
        assert [process.wait() for process in running] == [0] * 4
        graph = Graph.open(disk / "out", create=False)
        assert [image.id for image in graph.all()] == sorted(IDS)
        assert graph.tags.repositories == NAMES
        assert os.listdir(graph.layout.temporary) == []


@pytest.mark.needs_root
class TestRealBranches:
    """Three branches of a real AUFS union as the layers of three images, archived as docker 0.4.0 archived them.

    That ``two`` and ``two-link`` are one file only inode numbers could tell, which a tar does not have.
    """

    PAIR = (b"two", b"two-link")

    @pytest.fixture
    def union(self, disk):
        """The directory of a graph of them, and what the kernel showed of their union."""
        graph = Graph.open(disk / "docker" / "graph")
        parent = ""
        for n, name in enumerate(("l1", "l2", "rw")):
            raw = record(n, n - 1 if n else None)
            with open(needs.images() / "aufs" / f"{name}.tar", "rb") as layer:
                parent = graph.register(GraphImage.from_json(raw), layer, keep_archive=True).id
        graph.tags.set("union", "1", parent)
        (disk / "union").mkdir()
        subprocess.run(["tar", "xpf", needs.images() / "aufs/union.tar", "-C", disk / "union"], check=True)
        return disk / "docker", without(read_directory(disk / "union"), "group", at=self.PAIR)

    def test_imported_it_is_what_the_kernel_showed(self, store, union):
        docker, expected = union
        store.import_graph(docker)
        assert_same(without(read_view(store.image("union:1").files), "group", at=self.PAIR), expected)

    @pytest.mark.parametrize("form", GraphForm)
    def test_exported_it_still_is_and_the_archives_are_the_same_bytes(self, store, union, disk, form):
        docker, expected = union
        store.import_graph(docker)
        store.export_graph(["union:1"], disk / "out", form=form)
        graph = Graph.open(disk / "out", create=False)
        found = read_view(TreeView(graph.tags.lookup("union:1").tree()))
        assert_same(without(found, "group", at=self.PAIR), expected)
        if form is GraphForm.V0_4:
            for n, name in enumerate(("l1", "l2", "rw")):
                stored = (disk / "out/graph" / IDS[n] / "layer.tar.xz").read_bytes()
                assert stored == (needs.images() / "aufs" / f"{name}.tar").read_bytes()
