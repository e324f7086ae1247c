"""Adding images to a graph and removing them, all or nothing, and its lock."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import threading

import pytest
from graph_support import chain, container_of, fake_tar, image, layer, listing, read_view_of

from lamella import TreeView, errors
from lamella.formats.docker_graph import Config, Graph, GraphForm, GraphImage, Record, generate_id
from lamella.formats.docker_graph.image import layer_archive_path
from support.building import directory, file, tar
from support.needs import needs_root
from support.trees import assert_same


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
