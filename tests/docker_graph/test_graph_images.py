"""The graph and its images: docker's own tests of 0.4.0 said again, and the edges that were found by probing."""

from __future__ import annotations

import gzip
import io
import json
import os
import platform

import pytest
from graph_support import chain, fake_tar, image, layer, listing, read_view_of

from lamella import errors
from lamella._sys.locks import DirectoryLock
from lamella.archive.compression import Compression
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage, Record, generate_id
from lamella.formats.docker_graph.image import json_path, layer_archive_path, layer_path
from support.building import directory, file, gone, hard_link, tar
from support.trees import assert_same


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
