"""Images moved between files and stores: all of it or nothing, once, verified, and stopped when asked."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tarfile

import pytest

import lamella
from lamella import Cancelled, Platform
from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound
from lamella.testing import consistency
from support import building, needs
from support.trees import assert_same, read_view

LAYER = building.tar(building.directory("d"), building.file("d/f", "f" * 5000))
MORE = building.tar(building.file("more", os.urandom(300_000)))


class Reporter:
    """Keeps what it is told; raises when ``stop`` says so."""

    def __init__(self, stop=lambda kind, key: False):
        self.events, self.notes, self._stop = [], [], stop

    def _event(self, kind, key, value):
        self.events.append((kind, key, value))
        if self._stop(kind, key):
            raise Cancelled("enough")

    def start(self, key, action, *, total=None, unit="bytes"):
        self._event("start", key, action)

    def advance(self, key, amount):
        self._event("advance", key, amount)

    def done(self, key, outcome="done"):
        self._event("done", key, outcome)

    def note(self, text):
        self.notes.append(text)

    def outcomes(self):
        return [value for kind, _, value in self.events if kind == "done"]


@pytest.fixture
def layout(disk):
    """A layout with two images that share a layer."""
    building.layout(disk / "layout", [LAYER], tag="one")
    return building.layout(disk / "layout", [LAYER, MORE], tag="two")


def nothing_left(store):
    return consistency.leftovers(store) == [] and not list((store.root / "blobs").glob("*/*"))


class TestLoad:
    def test_all_images_with_their_names(self, store, layout):
        loaded = store.load(layout)
        assert [(item.kind, item.names) for item in loaded] == [("image", ("one:latest",)), ("image", ("two:latest",))]
        assert [image.names for image in store.images()] == [["one:latest"], ["two:latest"]]
        assert store.image("one").diff_ids == store.image("two").diff_ids[:1]

    def test_twice_changes_nothing(self, store, layout):
        store.load(layout)
        before = {path: path.stat().st_mtime_ns for path in store.root.rglob("blobs/*/*")}
        reporter = Reporter()
        store.load(layout, progress=reporter)
        assert {path: path.stat().st_mtime_ns for path in store.root.rglob("blobs/*/*")} == before
        assert set(reporter.outcomes()) == {"exists"}
        assert len(store.images()) == 2

    def test_one_name_for_several_images_is_refused(self, store, layout):
        with pytest.raises(InvalidInput) as refused:
            store.load(layout, name="mine")
        assert refused.value.code == "load-name-ambiguous"
        assert nothing_left(store)

    def test_a_name_in_place_of_its_own(self, store, disk):
        building.layout(disk / "single", [LAYER], tag="theirs")
        (loaded,) = store.load(disk / "single", name="mine:1")
        assert loaded.names == ("mine:1",)
        assert not store.exists("theirs")

    def test_names_that_are_none_are_dropped_with_a_note(self, store, disk):
        building.layout(disk / "single", [LAYER], tag="No/Good:Name!")
        reporter = Reporter()
        (loaded,) = store.load(disk / "single", progress=reporter)
        assert loaded.names == ()
        assert any("No/Good:Name!" in note for note in reporter.notes)

    def test_from_standard_input(self, store, layout, disk):
        subprocess.run(["tar", "cf", disk / "layout.tar", "-C", layout, "."], check=True)
        script = f"import lamella; print(len(lamella.Store.open({str(store.root)!r}).load(None)))"
        with (disk / "layout.tar").open("rb") as stream:
            done = subprocess.run([sys.executable, "-c", script], stdin=stream, capture_output=True, check=True)
        assert done.stdout == b"2\n"
        assert len(store.images()) == 2

    @pytest.mark.parametrize("packer", ["gzip", "zstd", "xz", "bzip2"])
    def test_a_compressed_archive(self, store, layout, disk, packer):
        needs.tool(packer)
        subprocess.run(["tar", "cf", disk / "layout.tar", "-C", layout, "."], check=True)
        subprocess.run([packer, "-q", disk / "layout.tar"], check=True)
        (packed,) = disk.glob("layout.tar.*")
        assert len(store.load(packed)) == 2

    @pytest.mark.parametrize(
        ("victim", "change"),
        [
            ("layer", lambda data: data[:-1]),
            ("layer", lambda data: data + b"\0"),
            ("layer", lambda data: data[:200] + b"!" + data[201:]),
            ("config", lambda data: data.replace(b"amd64", b"arm64")),
            ("config", lambda data: b"{}" + b" " * (len(data) - 2)),
            ("manifest", lambda data: data.replace(b"schemaVersion", b"schemaversion")),
        ],
    )
    def test_a_blob_that_is_not_what_it_should_be(self, store, layout, victim, change):
        blob = next(path for path in (layout / "blobs/sha256").iterdir() if _kind_of(path) == victim)
        blob.write_bytes(change(blob.read_bytes()))
        with pytest.raises(Integrity):
            store.load(layout)
        assert store.images() == []
        assert nothing_left(store)

    def test_what_is_missing(self, store, layout):
        blob = next(path for path in (layout / "blobs/sha256").iterdir() if _kind_of(path) == "layer")
        blob.unlink()
        with pytest.raises(NotFound):
            store.load(layout)
        assert nothing_left(store)

    def test_layers_that_are_not_those_of_the_config(self, store, disk):
        wrong = {"rootfs": {"type": "layers", "diff_ids": [building.digest_of(MORE)]}}
        with pytest.raises(Integrity) as refused:
            store.load(building.layout(disk / "wrong", [LAYER], config=wrong))
        assert refused.value.code == "diff-id-mismatch"
        assert nothing_left(store)

    def test_more_layers_than_the_config_has(self, store, disk):
        wrong = {"rootfs": {"type": "layers", "diff_ids": [building.digest_of(LAYER)]}}
        with pytest.raises(Integrity) as refused:
            store.load(building.layout(disk / "wrong", [LAYER, MORE], config=wrong))
        assert refused.value.code == "layer-count-mismatch"
        assert nothing_left(store)

    def test_a_failed_load_takes_nothing_that_was_there(self, store, layout, disk):
        building.layout(disk / "first", [LAYER], tag="first")
        store.load(disk / "first")
        before = read_view(store.image("first"))
        blob = next(path for path in (layout / "blobs/sha256").iterdir() if path.stat().st_size > 100_000)
        blob.write_bytes(blob.read_bytes()[:-1])
        with pytest.raises(LamellaError):
            store.load(layout)
        assert_same(read_view(store.image("first")), before)
        assert [image.names for image in store.images()] == [["first:latest"]]
        assert consistency.leftovers(store) == []

    def test_an_index_that_names_more_than_is_there(self, store, disk):
        """As docker saves one platform of several."""
        building.layout(disk / "l", [LAYER], tag=None)
        there = json.loads((disk / "l/index.json").read_text())["manifests"][0]
        gone = {**there, "digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}}
        index = {"schemaVersion": 2, "mediaType": f"{building.OCI}index.v1+json", "manifests": [there, gone]}
        descriptor = building.put(disk / "l", index["mediaType"], json.dumps(index).encode())
        (disk / "l/index.json").unlink()
        building.add_to_index(disk / "l", [descriptor], tag="multi")
        reporter = Reporter()
        (loaded,) = store.load(disk / "l", progress=reporter)
        assert loaded.kind == "index"
        assert any("sha256:000" in note for note in reporter.notes)
        assert store.image("multi", platform=Platform.parse("amd64")).exists("d/f")
        with pytest.raises(NotFound):
            store.image("multi", platform=Platform.parse("s390x"))


def _kind_of(path):
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return "layer"
    return "manifest" if b'"layers": [{' in data else "config"


class TestCancelled:
    @pytest.mark.parametrize("at", range(0, 12, 2))
    def test_nothing_is_left(self, store, layout, at):
        seen = []

        def stop(kind, key):
            seen.append(kind)
            return len(seen) > at

        with pytest.raises(Cancelled):
            store.load(layout, progress=Reporter(stop))
        assert store.images() == []
        assert nothing_left(store)
        assert len(store.load(layout)) == 2

    def test_a_save_that_is_stopped_leaves_no_file(self, store, layout, disk):
        store.load(layout)
        for form in ("oci-archive", "docker-archive", "oci-dir"):
            with pytest.raises(Cancelled):
                store.save(["two"], disk / "out", format=form, progress=Reporter(lambda kind, key: kind == "done"))
            assert not (disk / "out").exists()


def _load(root, layout, answers):
    with lamella.Store.open(root) as store:
        try:
            answers.put([item.names for item in store.load(layout)])
        except LamellaError as error:
            answers.put(repr(error))


def test_processes_that_load_the_same_at_once(store, layout):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [context.Process(target=_load, args=(store.root, layout, answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == [[("one:latest",), ("two:latest",)]] * 4
    for worker in workers:
        worker.join()
    assert [image.names for image in store.images()] == [["one:latest"], ["two:latest"]]
    assert consistency.leftovers(store) == []


class TestSave:
    @pytest.fixture
    def loaded(self, store, layout):
        store.load(layout)
        return store

    @pytest.mark.parametrize("form", ["oci-dir", "oci-archive", "docker-archive"])
    def test_several_images_come_back(self, loaded, disk, form):
        loaded.tag("one", "also:1")
        loaded.save(["one", "two", "also:1"], disk / "out", format=form)
        with lamella.Store.open(disk / "other") as other:
            other.load(disk / "out")
            assert other.image("one").id == other.image("also:1").id == loaded.image("one").id
            assert other.image("two").id == loaded.image("two").id
            assert_same(read_view(other.image("two")), read_view(loaded.image("two")))

    def test_by_id_with_all_its_names(self, loaded, disk):
        loaded.tag("one", "also:1")
        loaded.save([loaded.image("one").short_id], disk / "out", format="docker-archive")
        with tarfile.open(disk / "out") as archive:
            (entry,) = json.load(archive.extractfile("manifest.json"))
        assert sorted(entry["RepoTags"]) == ["docker.io/library/also:1", "docker.io/library/one:latest"]

    def test_what_is_not_there(self, loaded, disk):
        with pytest.raises(NotFound):
            loaded.save(["one", "three"], disk / "out")
        assert not (disk / "out").exists()

    def test_a_docker_archive_of_an_index_has_this_machine_s_image(self, store, real_layout, disk):
        store.load(real_layout("hello-world-10-platforms"), name="hello")
        store.save(["hello"], disk / "out", format="docker-archive")
        with lamella.Store.open(disk / "other") as other:
            (loaded,) = other.load(disk / "out")
            assert loaded.id == store.image("hello").id

    def test_parents_and_legacy_files_on_request(self, loaded, disk):
        loaded.save(["two"], disk / "plain", format="docker-archive")
        loaded.save(["two"], disk / "legacy", format="docker-archive", legacy=True)
        with tarfile.open(disk / "plain") as plain, tarfile.open(disk / "legacy") as legacy:
            assert not [name for name in plain.getnames() if name.endswith("VERSION")]
            assert len([name for name in legacy.getnames() if name.endswith("VERSION")]) == 2
            assert list(json.load(legacy.extractfile("repositories"))) == ["two"]

    def test_the_same_bytes_every_time(self, loaded, disk):
        for form in ("oci-archive", "docker-archive"):
            loaded.save(["one", "two"], disk / f"{form}-1", format=form)
            loaded.save(["one", "two"], disk / f"{form}-2", format=form)
            assert (disk / f"{form}-1").read_bytes() == (disk / f"{form}-2").read_bytes()

    def test_a_damaged_blob_is_not_written_out(self, disk, layout):
        with lamella.Store.open(disk / "damaged") as damaged:
            damaged.load(layout)
            path = damaged.content.path(damaged.image("one").layers[0].digest)
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"!")
            with pytest.raises(Integrity):
                damaged.save(["one"], disk / "out", format="oci-archive")
        assert not (disk / "out").exists()

    def test_committed_images_remember_their_parent_on_the_way(self, loaded, disk):
        snapshot = loaded.prepare("one", driver="copy")
        (snapshot.upper / "new").touch()
        snapshot.commit("child")
        loaded.save(["one", "child"], disk / "out", format="docker-archive")
        with lamella.Store.open(disk / "other") as other:
            other.load(disk / "out")
            assert other.image("child").parent == other.image("one")
