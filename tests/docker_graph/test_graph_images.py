"""The graph and its images: docker's own tests of 0.4.0 said again, and the edges that were found by probing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import threading
import time

import pytest
from graph_support import chain, container_of, fake_tar, image, layer, listing

from lamella import TreeView, errors
from lamella._sys.locks import DirectoryLock
from lamella.archive.compression import Compression
from lamella.formats.docker_graph import Config, Graph, GraphForm, GraphImage, Record, generate_id
from lamella.formats.docker_graph.image import json_path, layer_archive_path, layer_path
from lamella.formats.docker_graph.sidefile import parse_repositories
from support.building import directory, file, gone, hard_link, opaque, symlink, tar
from support.needs import needs_root
from support.trees import assert_same, read_directory, read_view


class Failing(io.BytesIO):
    """A stream that breaks where it ends."""

    def read(self, size=-1):
        data = super().read(size)
        if not data:
            raise errors.Unavailable("the other side went away", code="gone")
        return data


class TestUpstream:
    """docker's graph_test.go."""

    def test_init(self, disk):
        graph = Graph.open(disk / "a" / "b")
        assert (disk / "a" / "b").is_dir()
        assert (disk / "a" / "b").stat().st_mode & 0o777 == 0o700
        assert graph.all() == []

    def test_interrupted_register(self, graph):
        wanted = image(comment="Testing")
        for broken in (Failing(b""), Failing(tar(file("a", "x" * 9000))[:5000])):
            with pytest.raises(errors.Unavailable):
                graph.register(wanted, broken, keep_archive=True)
            assert not graph.exists(wanted.id)
            assert listing(graph.root) == {":tmp:": 0o700}
        graph.register(wanted, fake_tar())
        assert graph.get(wanted.id).id == wanted.id

    def test_create(self, any_graph):
        made = any_graph.create(fake_tar(), comment="Testing")
        assert len(made.id) == 64
        assert made.record.comment == "Testing"
        assert made.record.docker_version == ".".join(map(str, any_graph.layout.form.release))
        assert [found.id for found in any_graph.all()] == [made.id]

    def test_register(self, any_graph):
        wanted = image(comment="testing")
        any_graph.register(wanted, fake_tar())
        assert len(any_graph.all()) == 1
        assert any_graph.get(wanted.id) == wanted

    def test_delete_prefix(self, any_graph):
        made = any_graph.create(fake_tar())
        any_graph.delete(made.short_id)
        assert any_graph.all() == []

    def test_delete(self, any_graph):
        graph = any_graph
        graph.delete(graph.create(fake_tar(), comment="Bla bla").id)
        assert graph.all() == []
        first, second = (graph.create(fake_tar(), comment="Bla bla") for _ in range(2))
        assert len(graph.all()) == 2
        graph.delete(first.id)
        assert [found.id for found in graph.all()] == [second.id]
        with pytest.raises(errors.NotFound):
            graph.delete("Not_foo")
        assert len(graph.all()) == 1
        graph.register(first, fake_tar())
        graph.delete(first.id)
        assert [found.id for found in graph.all()] == [second.id]

    def test_by_parent(self, any_graph):
        """0.4.0 kept only the child it saw last."""
        parent = any_graph.register(image(), fake_tar())
        children = {any_graph.register(image(parent=parent.id), None).id for _ in range(3)}
        assert {child.id for child in any_graph.by_parent()[parent.id]} == children
        assert set(any_graph.heads()) == children
        assert set(any_graph.map()) == children | {parent.id}

    def test_tar_and_untar(self, any_graph):
        """Every compression goes in; none, gzip, bzip2, xz and zstd come out."""
        base = any_graph.register(image(), io.BytesIO(gzip.compress(tar(directory("d"), file("d/a", "text")))))
        for compression in Compression:
            out = io.BytesIO()
            base.tar_layer(out.write, compression)
            assert Compression.detect(out.getvalue()[:10]) is compression
            again = any_graph.register(image(), io.BytesIO(out.getvalue()))
            assert_same(read_view_of(again), read_view_of(base))


def read_view_of(found):
    return read_view(TreeView(found.tree()))


class TestOnDisk:
    def test_what_0_4_0_had(self, graph):
        made = graph.create(fake_tar(), comment="c")
        found = listing(graph.root)
        top = {name: mode for name, mode in found.items() if "/layer/" not in name}
        assert top == {
            ":tmp:": 0o700,
            made.id: 0o700,
            f"{made.id}/json": 0o600,
            f"{made.id}/layer": 0o755,
            f"{made.id}/layer.tar.xz": 0o600,
        }
        assert made.root() == graph.root / made.id
        assert (graph.root / made.id / "layer.tar.xz").read_bytes() == fake_tar().read()
        made.checksum()
        assert (graph.root / "checksums").stat().st_mode & 0o777 == 0o600
        record = json.loads((graph.root / made.id / "json").read_bytes())
        assert record["docker_version"] == "0.4.0"
        assert record["architecture"] == platform.machine()

    def test_what_later_releases_had(self, disk):
        for form, layer_at, tags in (
            (GraphForm.V0_6, "graph/{}/layer", "repositories"),
            (GraphForm.AUFS, "aufs/diff/{}", "repositories-aufs"),
            (GraphForm.VFS, "vfs/dir/{}", "repositories-vfs"),
        ):
            home = disk / form.value
            graph = Graph.open(home / "graph", form=form)
            base = graph.register(image(), layer(file("base", "12345")))
            child = graph.register(image(parent=base.id), layer(file("child", "123"), gone("base")), keep_archive=True)
            graph.tags.set("a", "b", child.id)
            assert (home / layer_at.format(child.id)).is_dir()
            assert (home / tags).is_file()
            assert (graph.root / child.id / "layersize").read_bytes() == b"3"
            assert (graph.root / child.id / "layersize").stat().st_mode & 0o777 == 0o600
            assert not (graph.root / child.id / "layer.tar.xz").exists()
            assert (graph.root / child.id / "layer").exists() == (form is GraphForm.V0_6)
            assert Graph.open(home).layout == graph.layout, "the form is told by what is there"
            assert Graph.open(home).get(child.id).virtual_size == 8
        aufs = disk / "aufs" / "aufs"
        ids = [found.id for found in Graph.open(disk / "aufs").all()]
        assert sorted((aufs / "layers" / id).read_text() for id in ids) == ["", f"{_base_of(disk / 'aufs')}\n"]
        assert all((aufs / "mnt" / id).is_dir() for id in ids)

    def test_ids_have_the_words_of_0_7_in_the_record(self, disk):
        made = Graph.open(disk / "graph", form=GraphForm.AUFS).create(None)
        record = json.loads(made.record.json)
        assert record["created"].endswith("Z")
        assert record["os"] == "linux"
        go_names = {"x86_64": "amd64", "aarch64": "arm64"}
        assert record["architecture"] == go_names.get(platform.machine(), platform.machine())
        assert "Size" in record

    def test_a_graph_that_was_migrated_by_docker(self, disk):
        """0.7 moved layers to the driver, or put a link there."""
        old = Graph.open(disk / "graph")
        base, child = chain(old, 2)
        (disk / "aufs/diff").mkdir(parents=True)
        os.rename(old.root / base.id / "layer", disk / "aufs/diff" / base.id)
        (disk / "aufs/diff" / child.id).symlink_to(old.root / child.id / "layer")
        graph = Graph.open(disk)
        assert graph.layout.form is GraphForm.AUFS
        found = graph.get(child.id)
        assert [path.name for path in found.layers()] == ["layer", base.id]
        assert set(read_view_of(found)) == {b"", b"f0", b"f1"}
        assert found.size == 1

    def test_a_layer_that_is_a_link_away_is_not_followed(self, disk):
        graph = Graph.open(disk / "graph", form=GraphForm.AUFS)
        made = graph.create(None)
        os.rmdir(made.layer())
        (disk / "aufs/diff" / made.id).symlink_to("/etc")
        with pytest.raises(errors.InvalidInput, match="leads away"):
            graph.get(made.id)

    def test_an_image_that_is_a_link_away_is_not_followed_and_can_be_removed(self, graph, disk):
        made = graph.create(fake_tar())
        away = disk / "away"
        made.root().rename(away)
        made.root().symlink_to(away)
        with pytest.raises(errors.InvalidInput, match="leads away"):
            graph.get(made.id)
        assert graph.all() == []
        before = listing(away)
        graph.delete(made.id)
        assert listing(away) == before
        assert graph.ids() == []

    def test_a_graph_that_is_a_link(self, disk):
        """Whoever came in by the link and whoever did not keep each other out."""
        (disk / "large").mkdir()
        (disk / "docker").mkdir()
        (disk / "docker" / "graph").symlink_to(disk / "large")
        linked, direct = Graph.open(disk / "docker"), Graph.open(disk / "large")
        made = linked.create(fake_tar())
        linked.tags.set("a", "one", made.id)
        assert made.checksum() == direct.get(made.id).checksum()
        with linked.locked():
            assert not DirectoryLock(direct.root).acquire(blocking=False)
        assert linked.delete(made.id, force=True) == ["a:one"]
        assert direct.ids() == []

    def test_a_graph_that_is_not_there(self, disk):
        with pytest.raises(errors.NotFound):
            Graph.open(disk / "none", create=False)

    def test_the_modes_and_owners_of_a_layer_are_those_of_its_archive(self, any_graph):
        made = any_graph.create(
            layer(directory(".", 0o701), directory("d", 0o1777), file("d/f", "x", mode=0o4750, mtime=5))
        )
        status = (made.layer() / "d/f").stat()
        assert made.layer().stat().st_mode & 0o7777 == 0o701
        assert ((made.layer() / "d").stat().st_mode & 0o7777, status.st_mode & 0o7777) == (0o1777, 0o4750)
        assert status.st_mtime == 5


def _base_of(home):
    graph = Graph.open(home)
    return next(found.id for found in graph.all() if not found.parent)


class TestLoad:
    def test_paths(self, disk):
        assert json_path(disk) == disk / "json"
        assert layer_path(disk) == disk / "layer"
        assert layer_archive_path(disk) == disk / "layer.tar.xz"

    def test_load_and_store_without_a_graph(self, disk):
        made = image(comment="alone")
        place = disk / made.id
        made.store(place, fake_tar(), keep_archive=True)
        assert GraphImage.load(place) == made
        assert sorted(os.listdir(place)) == ["json", "layer", "layer.tar.xz"]
        with pytest.raises(errors.AlreadyExists, match=f"Image {made.id} already exists"):
            made.store(place, None)
        assert sorted(os.listdir(disk)) == [made.id]

    def test_a_failed_store_leaves_nothing(self, disk):
        with pytest.raises(errors.Integrity):
            image().store(disk / "x", io.BytesIO(b"garbage" * 200))
        assert os.listdir(disk) == []

    def test_the_checks_in_their_order(self, graph):
        id = generate_id()
        place = graph.root / id
        place.mkdir()
        with pytest.raises(errors.NotFound, match=f"{id}/json: No such file"):
            GraphImage.load(place)
        (place / "json").write_bytes(b"")
        with pytest.raises(errors.InvalidInput, match="unexpected end of JSON input"):
            GraphImage.load(place)
        (place / "json").write_bytes(b'{"id":""}')
        with pytest.raises(errors.InvalidInput, match="Image id can't be empty"):
            GraphImage.load(place)
        (place / "json").write_bytes(b'{"id":"a:b"}')
        with pytest.raises(errors.InvalidInput, match="Invalid character in image id: ':'"):
            GraphImage.load(place)
        (place / "json").write_bytes(Record(id=id).render())
        with pytest.raises(errors.NotFound, match=f"Couldn't load image {id}: no filesystem layer"):
            GraphImage.load(place)
        (place / "layer").write_bytes(b"")
        with pytest.raises(errors.InvalidInput, match=f"Couldn't load image {id}: {place}/layer is not a directory"):
            GraphImage.load(place)
        (place / "layer").unlink()
        (place / "layer").mkdir()
        assert GraphImage.load(place).id == id

    def test_the_id_in_the_record_must_be_that_of_the_directory(self, graph):
        made = graph.create(None)
        other = generate_id()
        os.rename(made.root(), graph.root / other)
        with pytest.raises(errors.Integrity, match=f"Image stored at '{graph.root}/{other}' has wrong id '{made.id}'"):
            graph.get(other)

    def test_a_record_that_is_no_file(self, graph, disk):
        made = graph.create(None)
        (disk / "secret").write_bytes(made.record.json)
        path = made.root() / "json"
        path.unlink()
        path.symlink_to(disk / "secret")
        with pytest.raises(errors.InvalidInput, match="a link, and no file"):
            graph.get(made.id)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(errors.InvalidInput, match="not a regular file"):
            graph.get(made.id)
        path.unlink()
        path.mkdir()
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(errors.InvalidInput, match=f"{made.id}/json: not a regular file"):
            graph.get(made.id)
        assert len(os.listdir("/proc/self/fd")) == before
        assert graph.all() == []

    def test_a_stored_archive_that_is_a_link_is_none(self, graph, disk):
        made = graph.create(fake_tar())
        (disk / "secret").write_bytes(b"secret")
        path = made.root() / "layer.tar.xz"
        path.unlink()
        path.symlink_to(disk / "secret")
        assert made.layer_archive() is None
        with made.open_layer() as archive:
            assert b"secret" not in archive.read()

    def test_the_record_is_kept_byte_by_byte(self, any_graph):
        id = generate_id()
        raw = b'{ "ID":"%s",\n\t"Created":"2013-06-13T14:03:50.821769-07:00", "future":[1.50] }\n' % id.encode()
        any_graph.register(GraphImage.from_json(raw), fake_tar())
        assert (any_graph.root / id / "json").read_bytes() == raw
        assert any_graph.get(id).record.json == raw

    @pytest.mark.parametrize("text", ["", "12\n", "abc", "-1", "1" * 40, None])
    def test_a_layer_size_that_is_none_is_made_anew(self, disk, text):
        graph = Graph.open(disk, form=GraphForm.V0_6)
        made = graph.create(layer(file("a", "12345"), hard_link("b", "a")))
        path = made.root() / "layersize"
        path.unlink()
        if text is not None:
            path.write_text(text)
        expected = 12 if text == "12\n" else 5
        assert graph.get(made.id).size == expected
        assert int(path.read_text()) == expected, "and kept"

    @pytest.mark.parametrize("plant", [os.mkdir, os.mkfifo, lambda path: os.symlink("json", path)])
    def test_a_layer_size_that_is_no_file_is_computed(self, disk, plant):
        graph = Graph.open(disk, form=GraphForm.V0_6)
        made = graph.create(layer(file("a", "12345")))
        (made.root() / "layersize").unlink()
        plant(made.root() / "layersize")
        assert graph.get(made.id).size == 5

    def test_a_layer_size_of_a_graph_that_cannot_be_written_is_computed(self, graph):
        assert graph.create(layer(file("a", "12345"), hard_link("b", "a"))).size == 5


class TestRegister:
    @pytest.mark.parametrize("id", ["a b", "foo/bar", "..", "../escape", "a:b", "", "A" * 64, "checksums", ":tmp:"])
    def test_ids_that_name_no_image_write_nothing(self, graph, disk, id):
        before = listing(disk)
        with pytest.raises(errors.InvalidInput):
            graph.register(GraphImage(Record(id=id)), fake_tar())
        assert listing(disk) == before

    def test_an_id_that_is_the_beginning_of_another(self, graph):
        """Ids have one length; a legacy one is found by itself, and the longer one too."""
        long = "ab" * 32
        graph.register(image(long), None)
        graph.register(image(long[:16]), None)
        assert graph.get(long).id == long
        assert graph.get(long[:16]).id == long[:16]
        with pytest.raises(errors.Ambiguous):
            graph.get("ab")
        graph.delete(long[:16])
        assert graph.get("ab").id == long

    def test_an_id_that_is_there(self, any_graph):
        made = any_graph.create(fake_tar())
        before = read_view_of(made)
        with pytest.raises(errors.AlreadyExists, match=f"Image {made.id} already exists"):
            any_graph.register(made, layer(file("other")))
        assert_same(read_view_of(any_graph.get(made.id)), before)

    def test_a_leftover_that_is_not_empty_is_not_touched(self, graph):
        wanted = image()
        (graph.root / wanted.id).mkdir()
        (graph.root / wanted.id / "something").touch()
        with pytest.raises(errors.Conflict, match="in the way"):
            graph.register(wanted, fake_tar())
        assert os.listdir(graph.root / wanted.id) == ["something"]

    @pytest.mark.parametrize("form", [GraphForm.AUFS, GraphForm.VFS], ids=lambda form: form.name)
    def test_nor_is_what_the_driver_has_of_it(self, disk, form):
        graph = Graph.open(disk / "docker" / "graph", form=form)
        made = graph.create(fake_tar())
        (made.root() / "json").rename(made.root() / "json.lost")
        before = listing(disk / "docker" / form.value)
        with pytest.raises(errors.Conflict, match="in the way"):
            graph.register(made, layer(file("other")))
        assert listing(disk / "docker" / form.value) == before

    @pytest.mark.parametrize("kind", ["containers", "volumes"])
    def test_the_id_of_a_container_or_a_volume_leaves_it_its_files(self, disk, kind):
        """From 0.7 on their files lie where the layers of images do."""
        graph = Graph.open(disk / "docker" / "graph", form=GraphForm.VFS)
        wanted = image()
        (disk / "docker" / kind / wanted.id).mkdir(parents=True)
        (disk / "docker/vfs/dir" / wanted.id / "precious").mkdir(parents=True)
        with pytest.raises(errors.Conflict, match=f"one of the {kind} has this id"):
            graph.register(wanted, fake_tar())
        assert listing(disk / "docker/vfs/dir").keys() == {wanted.id, f"{wanted.id}/precious"}

    def test_a_leftover_that_is_empty_is_taken(self, graph):
        wanted = image()
        (graph.root / wanted.id).mkdir()
        graph.register(wanted, fake_tar())
        assert graph.exists(wanted.id)

    def test_what_a_killed_register_left_with_the_driver_is_taken_away(self, disk):
        graph = Graph.open(disk / "graph", form=GraphForm.VFS)
        wanted = image()
        (disk / "vfs/dir" / wanted.id / "half").mkdir(parents=True)
        graph.register(wanted, layer(file("whole")))
        assert set(read_view_of(graph.get(wanted.id))) == {b"", b"whole"}

    @pytest.mark.parametrize("stream", [None, b"", bytes(1024), bytes(10240)])
    def test_no_layer_and_an_empty_one(self, any_graph, stream):
        made = any_graph.register(image(), None if stream is None else io.BytesIO(stream))
        assert list(made.layer().iterdir()) == []
        assert made.size == 0

    @pytest.mark.parametrize(
        "stream",
        [b"garbage", b"garbage" * 200, gzip.compress(b"x" * 2000), gzip.compress(b"y")[:15]],
        ids=["short", "long", "compressed", "cut off"],
    )
    def test_garbage(self, any_graph, stream):
        before = listing(any_graph.root)
        wanted = image()
        with pytest.raises(errors.Integrity):
            any_graph.register(wanted, io.BytesIO(stream), keep_archive=True)
        assert not any_graph.exists(wanted.id)
        assert {name for name in listing(any_graph.root) if name not in before} <= {":tmp:", "_tmp"}
        any_graph.register(wanted, fake_tar())

    def test_a_parent_that_is_not_there(self, any_graph):
        wanted = image(parent=generate_id())
        with pytest.raises(errors.FailedPrecondition, match=f"its parent {wanted.parent} is not in the graph"):
            any_graph.register(wanted, fake_tar())
        with pytest.raises(errors.InvalidInput):
            any_graph.register(image(parent="../x"), None)

    @pytest.mark.parametrize("when", ["first", "last"])
    def test_a_parent_that_goes_meanwhile(self, any_graph, when):
        parent = any_graph.create(layer(*(file(f"f{number}", "x" * 9000) for number in range(20))))

        class Removing(io.BytesIO):
            def read(self, size=-1):
                data = super().read(size)
                if any_graph.ids() and (when == "first" or not data):
                    any_graph.delete(parent.id)
                return data

        wanted = image(parent=parent.id)
        with pytest.raises(errors.FailedPrecondition, match=f"its parent {parent.id} is not in the graph"):
            any_graph.register(wanted, Removing(tar(file("a"))))
        assert any_graph.ids() == []

    def test_an_image_that_is_its_own_parent(self, graph):
        id = generate_id()
        with pytest.raises(errors.InvalidInput, match="its own parent"):
            graph.register(image(id, parent=id), None)

    def test_the_stored_archive_is_what_came_however_compressed(self, graph):
        for data in (tar(file("a")), gzip.compress(tar(file("a")))):
            made = graph.create(io.BytesIO(data))
            assert layer_archive_path(made.root()).read_bytes() == data
            assert made.open_layer().read() == data
        assert graph.register(image(), fake_tar()).layer_archive() is None

    def test_what_a_killed_process_left_goes_with_the_next_write(self, graph):
        left = graph.layout.temporary / ".lamella-0123456789abcdef"
        left.mkdir(parents=True)
        (left / "file").touch()
        graph.create(None)
        assert not left.exists()

    def test_a_container_is_noted(self, graph):
        base = graph.create(None)
        config = Config.of(Cmd=["/bin/sh", "-c", "x"])
        made = graph.create(
            None, parent=base.id, container="c1", container_config=config, config=Config(), author="me", comment="c"
        )
        record = graph.get(made.id).record
        assert (record.parent, record.container, record.container_config) == (base.id, "c1", config)
        assert (record.config, record.author) == (Config(), "me")


class TestFinding:
    def test_what_else_lies_there_is_no_image(self, graph):
        made = graph.create(fake_tar())
        made.checksum()
        for name in ("checksums", ":tmp:", "c", ":"):
            if not made.id.startswith(name):
                with pytest.raises(errors.NotFound, match=f"No such id: {name}"):
                    graph.get(name)
        assert Graph.open(graph.root).ids() == [made.id]

    def test_damage_of_one_image_is_told_and_hides_no_other(self, graph, noted):
        good, bad = graph.create(None), graph.create(None)
        (bad.root() / "json").write_bytes(b"{")
        assert [found.id for found in graph.all()] == [good.id]
        assert noted.notes[0].startswith(f"image {bad.short_id} cannot be loaded: ")
        told = []
        list(graph.walk(lambda id, error: told.append((id, type(error)))))
        assert told == [(bad.id, errors.InvalidInput)]
        with pytest.raises(errors.InvalidInput):
            graph.exists(bad.id)
        assert not graph.exists("ffff" * 4)
        graph.delete(bad.id)

    @pytest.mark.parametrize("plant", [os.mkdir, os.mkfifo, lambda path: os.symlink("json2", path)])
    def test_whatever_lies_in_the_place_of_a_record_hides_no_other(self, graph, plant):
        good, bad = graph.create(None), graph.create(None)
        (bad.root() / "json").unlink()
        plant(bad.root() / "json")
        open_files = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            assert [found.id for found in graph.all()] == [good.id]
            with pytest.raises(errors.InvalidInput):
                graph.get(bad.id)
        assert len(os.listdir("/proc/self/fd")) == open_files

    def test_ambiguity(self, graph):
        graph.register(image("aa" + "0" * 62), None)
        graph.register(image("ab" + "0" * 62), None)
        with pytest.raises(errors.Ambiguous, match="aa0000000000, ab0000000000"):
            graph.get("a")
        assert graph.get("aa").short_id == "aa0000000000"


class TestHistory:
    def test_child_first(self, any_graph):
        images = chain(any_graph, 3)
        top = any_graph.get(images[-1].id)
        assert [found.id for found in top.history()] == [found.id for found in reversed(images)]
        assert top.depth == 3
        assert top.get_parent().id == images[1].id
        assert images[0].get_parent() is None
        assert images[0].depth == 1
        assert top.virtual_size == 3
        if any_graph.layout.form is not GraphForm.VFS:
            assert top.layers() == [any_graph.get(found.id).layer() for found in reversed(images)]

    def test_unregistered_images(self):
        lonely = image(parent=generate_id())
        with pytest.raises(errors.FailedPrecondition, match="Can't lookup parent of unregistered image"):
            lonely.get_parent()
        for act in (lonely.root, lonely.layer, lonely.layers, lonely.checksum, lambda: lonely.tar_layer(print)):
            with pytest.raises(errors.FailedPrecondition, match="Can't lookup root of unregistered image"):
                act()
        assert [found.id for found in image("a" * 64).history()] == ["a" * 64]

    def test_a_parent_with_an_id_of_the_first_months(self, any_graph):
        old = any_graph.register(image("27cf784147099545"), layer(file("old")))
        young = any_graph.register(image(parent=old.id), layer(file("young")))
        found = Graph.open(any_graph.root).get(young.id)
        assert [entry.id for entry in found.history()] == [young.id, "27cf784147099545"]

    def test_a_missing_parent_is_named(self, graph):
        base, child = chain(graph, 2)
        graph.delete(base.id, orphans=True)
        with pytest.raises(errors.Integrity) as caught:
            graph.get(child.id).history()
        assert child.id in str(caught.value)
        assert f"Error while getting parent image: No such id: {base.id}" in str(caught.value)
        assert graph.by_parent() == {}

    def test_a_cycle_is_named(self, graph):
        base, middle, top = chain(graph, 3)
        (base.root() / "json").write_bytes(Record(id=base.id, parent=top.id).render())
        ring = " -> ".join(found.short_id for found in (top, middle, base, top))
        for act in (top.history, top.layers, top.tree, lambda: top.virtual_size):
            with pytest.raises(errors.Integrity, match=ring):
                act()

    def test_a_parent_that_is_no_id(self, graph):
        made = graph.create(None)
        (made.root() / "json").write_bytes(Record(id=made.id, parent="../../etc").render())
        with pytest.raises(errors.Integrity, match="is invalid"):
            graph.get(made.id).history()


def test_more_layers_than_the_limit(graph):
    parent = ""
    for number in range(1001):
        id = f"{number:064x}"
        (graph.root / id / "layer").mkdir(parents=True)
        (graph.root / id / "json").write_bytes(Record(id=id, parent=parent).render())
        parent = id
    with pytest.raises(errors.ResourceExhausted, match="more than 1000 layers"):
        graph.get(parent).layers()
    with pytest.raises(errors.ResourceExhausted):
        graph.register(image(parent=parent), None)


class TestDelete:
    def test_children_keep_their_parent(self, any_graph):
        base, child = chain(any_graph, 2)
        with pytest.raises(errors.FailedPrecondition, match=child.short_id):
            any_graph.delete(base.id, force=True)
        any_graph.delete(child.id)
        any_graph.delete(base.id)
        assert any_graph.ids() == []
        assert not [path for path in any_graph.layout.home.rglob("*") if base.id in path.name]

    def test_names_keep_their_image_unless_forced(self, any_graph):
        made = any_graph.create(None)
        any_graph.tags.set("a", "one", made.id)
        any_graph.tags.set("b", "two", made.id)
        with pytest.raises(errors.FailedPrecondition, match="a:one, b:two"):
            any_graph.delete(made.id)
        assert any_graph.delete(made.id, force=True) == ["a:one", "b:two"]
        assert any_graph.tags.repositories == {}

    def test_containers_keep_the_image_that_they_were_made_of(self, any_graph):
        made, other = any_graph.create(None), any_graph.create(None)
        container = container_of(any_graph, made.id)
        assert any_graph.containers(made.id) == [container]
        with pytest.raises(errors.FailedPrecondition, match=container[:12]) as caught:
            any_graph.delete(made.id, force=True)
        assert caught.value.code == "graph-image-used"
        any_graph.delete(other.id)
        any_graph.delete(made.id, containers=True)
        assert any_graph.ids() == []

    def test_a_container_that_cannot_be_read_is_noted_and_keeps_nothing(self, graph, noted):
        made = graph.create(None)
        damaged = graph.layout.home / "containers" / container_of(graph, made.id) / "config.json"
        (damaged.parent.parent / "empty").mkdir()
        for text in (b"{", b'{"Image":7}', b"[]"):
            damaged.write_bytes(text)
            assert graph.containers(made.id) == []
        damaged.unlink()
        damaged.mkdir()
        graph.delete(made.id)
        assert [note[:35] for note in noted.notes] == ["container cccccccccccc cannot be loa"[:35]] * 4

    def test_a_removal_that_fails_leaves_image_and_names(self, graph):
        made = graph.create(None)
        graph.tags.set("a", "one", made.id)
        rename = os.rename

        def failing(source, target, *arguments, **named):
            if str(source) == str(made.root()):
                raise OSError(5, "Input/output error")
            return rename(source, target, *arguments, **named)

        os.rename = failing
        try:
            with pytest.raises(errors.Unavailable):
                graph.delete(made.id, force=True)
        finally:
            os.rename = rename
        assert graph.get(made.short_id).id == made.id
        assert graph.tags.names(made.id) == ["a:one"]
        graph.delete(made.id, force=True)

    @needs_root
    def test_an_image_that_the_driver_has_mounted_stays(self, disk):
        graph = Graph.open(disk / "docker" / "graph", form=GraphForm.AUFS)
        made = graph.create(fake_tar())
        graph.tags.set("a", "one", made.id)
        before = listing(disk / "docker")
        mount_point = disk / "docker/aufs/mnt" / made.id
        subprocess.run(["mount", "-t", "tmpfs", "none", mount_point], check=True)
        try:
            with pytest.raises(errors.Conflict):
                graph.delete(made.id, force=True)
        finally:
            subprocess.run(["umount", mount_point], check=True)
        assert listing(disk / "docker") == before
        assert graph.delete(made.id, force=True) == ["a:one"]

    @needs_root
    def test_a_mount_in_a_layer_keeps_nobody_from_removing_its_image(self, graph, noted):
        made = graph.create(layer(directory("d"), file("d/a")))
        subprocess.run(["mount", "-t", "tmpfs", "none", made.layer() / "d"], check=True)
        graph.delete(made.id)
        assert graph.ids() == []
        assert "something is mounted at d" in noted.notes[0]
        left = next(graph.layout.temporary.iterdir())
        subprocess.run(["umount", left / "removed/layer/d"], check=True)
        graph.create(None)

    @needs_root
    def test_a_driver_on_a_file_system_of_its_own(self, disk):
        graph = Graph.open(disk / "graph", form=GraphForm.VFS)
        made = graph.create(fake_tar())
        subprocess.run(["mount", "--bind", disk / "vfs", disk / "vfs"], check=True)
        try:
            graph.delete(made.id)
            assert os.listdir(disk / "vfs/dir") == []
        finally:
            subprocess.run(["umount", disk / "vfs"], check=True)

    def test_its_checksum_goes_too(self, graph):
        made, other = graph.create(None), graph.create(None)
        made.checksum()
        kept = other.checksum()
        graph.delete(made.id)
        assert graph.checksums() == {other.id: kept}


class TestChecksums:
    def test_the_stored_archive_counts(self, graph):
        data = gzip.compress(tar(file("a", "text")))
        made = graph.create(io.BytesIO(data))
        expected = "sha256:" + hashlib.sha256(made.record.json + b"\n" + data).hexdigest()
        assert graph.get(made.id).checksum() == expected
        assert json.loads((graph.root / "checksums").read_bytes()) == {made.id: expected}

    def test_without_one_it_can_be_made_again(self, any_graph):
        made = any_graph.register(
            image(), layer(directory("d"), file("d/a", "1"), symlink("l", "d"), hard_link("h", "d/a"))
        )
        first = any_graph.get(made.id)._compute()
        os.utime(made.layer() / "d/a", (1, (made.layer() / "d/a").stat().st_mtime))
        assert any_graph.get(made.id)._compute() == first

    def test_what_is_kept_wins_unless_it_is_empty(self, graph):
        one, two = graph.create(None), graph.create(None)
        graph.update_checksums({one.id: "sha256:kept", two.id: ""})
        assert one.checksum() == "sha256:kept"
        assert two.checksum().startswith("sha256:")
        assert graph.update_checksums({one.id: "sha256:other"})[one.id] == "sha256:kept"

    def test_an_empty_one_in_the_file_is_none(self, graph):
        made = graph.create(None)
        (graph.root / "checksums").write_text(json.dumps({made.id: ""}))
        assert len(made.checksum()) == 71

    def test_a_damaged_file_is_used_as_far_as_it_goes_and_kept(self, graph, noted):
        made = graph.create(None)
        damaged = b'{"aaaa":"sha256:one","bbbb":"sha256:tw'
        (graph.root / "checksums").write_bytes(damaged)
        sum = made.checksum()
        assert graph.checksums() == {"aaaa": "sha256:one", made.id: sum}
        assert (graph.root / "checksums.damaged-1").read_bytes() == damaged
        assert any("checksums is damaged, 1 checksums are used" in note for note in noted.notes)
        (graph.root / "checksums").write_bytes(damaged)
        graph.update_checksums({"aaaa": "sha256:one"})
        assert json.loads((graph.root / "checksums").read_bytes()) == {"aaaa": "sha256:one"}

    @pytest.mark.timeout(60)
    def test_damage_that_never_ends_a_string_is_gone_through_once(self, graph):
        """Seconds at the worst, where every quotation mark was tried as a beginning for days."""
        damaged = b'"aaaa":{"bbbb":"cccc","' + b'\\"' * 300_000
        (graph.root / "checksums").write_bytes(damaged)
        assert graph.checksums() == {"bbbb": "cccc"}
        assert parse_repositories(damaged)[0] == {"aaaa": {"bbbb": "cccc"}}

    def test_many_at_once(self, graph):
        images = [graph.create(layer(file(str(number)))) for number in range(8)]
        found = {}

        def work():
            for made in images:
                found.setdefault(made.id, set()).add(Graph.open(graph.root).get(made.id).checksum())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {id: {kept} for id, kept in graph.checksums().items()} == found
        assert len(found) == 8

    def test_one_computes_and_the_others_wait(self, graph):
        made, computed, all_are_there = graph.create(None), [], threading.Barrier(4)

        def compute():
            time.sleep(0.05)  # time for the others to come as far
            computed.append(1)
            return "sha256:x"

        def work():
            all_are_there.wait()
            assert Graph.open(graph.root).keep_checksum(made, compute) == "sha256:x"

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert computed == [1]

    def test_none_is_kept_of_an_image_that_was_removed_meanwhile(self, graph):
        made = graph.create(None)

        def compute():
            graph.delete(made.id)
            return "sha256:x"

        graph.keep_checksum(made, compute)
        assert graph.checksums() == {}

    def test_tarsums_of_an_image(self, graph):
        made = graph.create(fake_tar())
        assert made.tarsum().startswith("tarsum+sha256:")
        assert made.tarsum(version="1", algorithm="md5").startswith("tarsum.v1+md5:")


class TestLayers:
    """docker's TestApplyLayer and the table of what applying a layer does, on what the directories come to."""

    BASE = (
        directory("d", 0o750), file("d/a", "a"), file("d/b", "b"), file("f", "f"), directory("t"), file("t/x", "x"),
        symlink("l", "d"), file("h1", "h"), hard_link("h2", "h1"),
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("items", "gone_paths", "there"),
        [
            ([gone("f")], ["f"], {}),
            ([gone("t")], ["t", "t/x"], {}),
            ([gone("none")], [".wh.none", "none"], {}),
            ([gone("t"), directory("t"), file("t/y", "y")], ["t/x"], {"t/y": "y"}),
            ([gone("f"), file("f", "new")], [], {"f": "new"}),
            ([file("f", "new"), gone("f")], [], {"f": "new"}),
            ([directory("t"), file("t/y", "y"), opaque("t")], ["t/x", "t/.wh..wh..opq", "t/.wh..opq"], {"t/y": "y"}),
            ([opaque("d")], ["d/a", "d/b"], {}),
            ([directory("f"), file("f/in", "1")], [], {"f/in": "1"}),
            ([file("t", "now a file")], ["t/x"], {"t": "now a file"}),
            ([directory("l"), file("l/in", "1")], [], {"l/in": "1", "d/a": "a"}),
            ([file("l/through", "1")], [], {"d/through": "1", "l/through": "1"}),
            ([directory("d", 0o711)], [], {"d/a": "a"}),
            ([file("new/dir/file", "1")], [], {"new/dir/file": "1"}),
            ([file("f", "1"), file("f", "2")], [], {"f": "2"}),
            ([file(".wh..wh.aufs"), directory(".wh..wh.orph"), directory(".wh..wh.plnk")], [".wh..wh.aufs"], {}),
            ([hard_link("h3", "h1")], [], {"h3": "h"}),
            ([file(".wh..wh.plnk/1.2", "p"), hard_link("p1", ".wh..wh.plnk/1.2"), hard_link("p2", ".wh..wh.plnk/1.2")],
             [".wh..wh.plnk"], {"p1": "p", "p2": "p"}),
        ],
    )  # fmt: skip
    def test_applying(self, any_graph, items, gone_paths, there):
        base = any_graph.register(image(), layer(*self.BASE))
        child = any_graph.register(image(parent=base.id), layer(*items))
        view = TreeView(any_graph.get(child.id).tree())
        for path in gone_paths:
            assert not view.exists(path, follow=False), path
        for path, content in there.items():
            assert view.open(path).read().decode() == content
        if any_graph.layout.form is GraphForm.VFS:
            assert_same(read_view(view), read_directory(child.layer()))
        out = io.BytesIO()
        any_graph.get(child.id).tar_layer(out.write)
        again = any_graph.register(image(parent=base.id), io.BytesIO(out.getvalue()))
        assert_same(read_view_of(again), read_view_of(child))

    def test_a_directory_over_a_directory_has_the_mode_owner_and_time_of_its_entry(self, any_graph):
        base = any_graph.register(image(), layer(*self.BASE))
        child = any_graph.register(image(parent=base.id), layer(directory("d", 0o711, owner=(3, 4), mtime=7)))
        found = TreeView(any_graph.get(child.id).tree()).stat("d")
        assert (found.mode, found.uid, found.gid, found.mtime) == (0o711, 3, 4, 7_000_000_000)

    def test_a_member_that_leads_outside_is_refused(self, any_graph, disk):
        for items in ([file("../x")], [file("a/../../x")]):
            with pytest.raises(errors.InvalidInput):
                any_graph.register(image(), layer(*items))
        made = any_graph.register(image(), layer(symlink("out", str(disk)), file("out/x", "1")))
        assert not (disk / "x").exists()
        assert set(read_view_of(made)) >= {b"out"}

    def test_a_link_to_an_aufs_pseudo_link_that_is_not_there(self, graph):
        with pytest.raises(errors.InvalidInput, match="pseudo-link"):
            graph.register(image(), layer(hard_link("a", ".wh..wh.plnk/1.2")))

    def test_a_missing_parent_directory_is_0755(self, any_graph):
        made = any_graph.register(image(), layer(file("new/dir/file")))
        assert (made.layer() / "new").stat().st_mode & 0o7777 == 0o755
        assert (made.layer() / "new/dir").stat().st_mode & 0o7777 == 0o755

    def test_global_headers_and_mixed_headers_are_read(self, graph, tmp_path):
        """docker's TestTypeXGlobalHeaderDoesNotFail and TestUntarUstarGnuConflict."""
        (tmp_path / ("long" * 40)).write_text("x")
        done = subprocess.run(
            ["tar", "-C", tmp_path, "--format=gnu", "-c", "."], capture_output=True, check=True
        ).stdout
        assert (("long" * 40).encode()) in read_view_of(graph.register(image(), io.BytesIO(done)))
        done = subprocess.run(
            ["tar", "-C", tmp_path, "--format=pax", "--pax-option=globexthdr.comment=x,comment=x", "-c", "."],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert len(read_view_of(graph.register(image(), io.BytesIO(done)))) == 2

    def test_of_a_whole_tree_nothing_below_its_parents_is_read(self, disk):
        graph = Graph.open(disk / "graph", form=GraphForm.VFS)
        base, _, top = chain(graph, 3)
        (disk / "vfs" / "dir" / base.id / "f0").unlink()
        (disk / "vfs" / "dir" / base.id).rmdir()
        found = io.BytesIO()
        top.tar_layer(found.write)
        with tarfile.open(fileobj=io.BytesIO(found.getvalue())) as archive:
            assert [member for member in archive.getnames() if member.startswith("f")] == ["f2"]
        assert sorted(path for path, _ in top.tree().walk() if path) == [b"f0", b"f1", b"f2"]

    def test_the_archive_of_a_layer_has_no_trace_of_aufs(self, graph):
        base = graph.register(image(), layer(*self.BASE))
        child = graph.register(image(parent=base.id), layer(gone("f"), file("new")))
        (child.layer() / ".wh..wh.orph").mkdir()
        (child.layer() / ".wh..wh.aufs").touch()
        out = io.BytesIO()
        child.tar_layer(out.write)
        out.seek(0)
        with tarfile.open(fileobj=out) as archive:
            assert archive.getnames() == [".", ".wh.f", "new"]


class TestLock:
    """Whoever makes something visible, or takes it away, waits for whoever else does; readers wait for nobody."""

    @staticmethod
    def waits(graph, act):
        """Whether ``act`` changes nothing while another holds the lock, and something after that."""

        def state():
            return graph.ids(), graph.tags.repositories, graph.checksums()

        before = state()
        worker = threading.Thread(target=act, args=(Graph.open(graph.layout.home),))
        with graph.locked():
            worker.start()
            worker.join(0.2)
            held = state()
        worker.join()
        return held == before != state()

    @pytest.mark.parametrize(
        "act",
        [
            lambda graph, id: graph.create(fake_tar(), parent=id),
            lambda graph, id: graph.delete(id, force=True),
            lambda graph, id: graph.tags.set("r", "u", id),
            lambda graph, id: graph.tags.delete("r"),
            lambda graph, id: graph.tags.delete_all(id),
        ],
        ids=["create", "delete", "set a name", "delete a name", "delete all names"],
    )
    def test_images_and_names(self, any_graph, act):
        id = any_graph.create(fake_tar()).id
        any_graph.tags.set("r", "t", id)
        assert self.waits(any_graph, lambda graph: act(graph, id))

    def test_checksums(self, graph):
        made = graph.create(fake_tar())
        assert self.waits(graph, lambda other: other.get(made.id).checksum())
        assert self.waits(graph, lambda other: other.update_checksums({generate_id(): "sha256:x"}))

    def test_reading(self, any_graph):
        made = any_graph.create(fake_tar())
        any_graph.tags.set("r", "t", made.id)
        with any_graph.locked():
            reader = Graph.open(any_graph.layout.home)
            assert reader.tags.lookup("r:t") == made
            assert reader.all() == [made]
            assert TreeView(reader.get(made.short_id).tree()).exists("etc/passwd")
