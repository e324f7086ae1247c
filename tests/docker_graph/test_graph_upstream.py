"""docker's tests of containers, storage drivers and commands that touch images, said again without a daemon.

Those of ``graph_test.go``, ``tags_unit_test.go``, ``changes_test.go``, ``diff_test.go``, ``utils_test.go`` and
``tarsum_test.go`` stand with what they are about. What ran programs to make archives (TestCmdStream...) has nothing to
be about here: no program is run.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from graph_support import chain, container_of, fake_tar, image, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella import TreeView, errors
from lamella.formats.docker_graph import Config, Graph, GraphForm, Record, gojson, parse_repository_tag
from lamella.formats.docker_graph.config import merge
from lamella.formats.docker_graph.prepared import prepare
from lamella.formats.docker_graph.sidefile import parse_checksums, parse_repositories
from lamella.formats.docker_graph_removal import remove_image
from lamella.layers.compare import compare
from support import building, needs, randomtree
from support.building import directory, file, gone
from support.needs import needs_root
from support.trees import assert_same, read_directory, read_view


def view(found):
    return TreeView(found.tree())


@needs_root
class TestContainers:
    """container_test.go, api_test.go."""

    @pytest.fixture
    def base(self, graph):
        items = [directory("etc"), file("etc/passwd", "root\n"), directory("bin"), file("bin/httpd", "x", mode=0o755)]
        return graph.create(layer(*items), config=Config.of(Cmd=["sh"], Env=["A=1"]))

    def test_diff(self, graph, base, disk):
        """TestDiff, TestGetContainersChanges: what is removed is told, and by the next container no more."""
        first = prepare(base, disk / "c1")
        mounted = first.mount()
        (mounted.root / "etc/passwd").unlink()
        first.unmount()
        assert [str(change) for change in first.changes()] == ["C /etc", "D /etc/passwd"]
        committed = first.commit(graph)
        second = prepare(committed, disk / "c2")
        mounted = second.mount()
        assert not (mounted.root / "etc/passwd").exists()
        assert second.changes() == []
        (mounted.root / "bin/httpd").unlink()
        assert "D /bin/httpd" in [str(change) for change in second.changes()]
        second.unmount()

    def test_commit(self, graph, base, disk):
        """TestPostCommit, TestCommitRun, TestCommitAutoRun: what was written is in the image."""
        container = prepare(base, disk / "c1")
        mounted = container.mount()
        (mounted.root / "world").write_text("hello\n")
        config = Config.of(Cmd=["cat", "/world"])
        made = container.commit(graph, comment="unit test commited image", config=config, container="c1", author="me")
        container.unmount()
        assert graph.get(made.short_id) == made
        assert made.parent == base.id
        assert (made.record.comment, made.record.config, made.record.container) == (
            "unit test commited image",
            config,
            "c1",
        )
        assert view(made).open("world").read() == b"hello\n"
        assert view(made).open("etc/passwd").read() == b"root\n"
        assert made.checksum()

    def test_what_is_run_is_the_images_command_unless_another_is_given(self, graph, base):
        """TestCommitAutoRun, TestMergeConfigOnCommit."""
        made = graph.create(None, parent=base.id, config=Config.of(Cmd=["cat", "/world"]))
        kept = graph.get(made.id).record.config
        assert merge(Config(), kept)["Cmd"] == ("cat", "/world")
        assert merge(Config.of(Cmd=["ls"]), kept)["Cmd"] == ("ls",)

    def test_a_name_can_be_taken_while_there_is_a_container(self, graph, base, disk):
        """TestDeleteTagWithExistingContainers."""
        for tag in ("tag1", "tag2"):
            graph.tags.set("utest", tag, base.id)
        container = prepare(base, disk / "c1")
        container_of(graph, base.id)
        for tag in ("tag1", "tag2"):
            assert [str(done) for done in remove_image(graph, f"utest:{tag}")] == [f"Untagged: utest:{tag}"]
        mounted = container.mount()
        assert (mounted.root / "etc/passwd").exists()
        container.unmount()

    def test_what_is_committed_does_not_hold_the_init_layer(self, graph, base, disk):
        container = prepare(base, disk / "c1", init=(1, 0, 0))
        mounted = container.mount()
        (mounted.root / "new").touch()
        container.unmount()
        made = container.commit(graph)
        assert [info.path for info in view(made).walk()] == [b"", b"bin", b"bin/httpd", b"etc", b"etc/passwd", b"new"]

    def test_two_steps_of_a_build(self, graph, base, disk):
        """TestBuild: both effects are there."""
        for step in ("one", "two"):
            container = prepare(base, disk / step)
            (container.mount().root / step).touch()
            container.unmount()
            base = container.commit(graph)
        assert view(base).exists("one")
        assert view(base).exists("two")
        assert base.depth == 3


class TestTags:
    def test_images_with_three_names(self, graph):
        """TestContainerTagImageDelete."""
        made = graph.create(fake_tar())
        names = ["utest:tag1", "utest/docker:tag2", "utest:5000/docker:tag3"]
        for name in names:
            graph.tags.set(*parse_repository_tag(name), made.id)
        graph.tags.set("busybox", "", made.id)
        for number, name in enumerate(names):
            assert len(graph.tags.names(made.id)) == 4 - number
            assert [str(done) for done in remove_image(graph, name)] == [f"Untagged: {name}"]
        assert graph.tags.names(made.id) == ["busybox:latest"]
        assert graph.exists(made.id)

    def test_removing_an_image_takes_its_names(self, graph):
        """TestRmi: of two commits to one repository the first goes by its id, with the name it still has."""
        base = graph.create(fake_tar())
        graph.tags.set("busybox", "", base.id)
        first = graph.create(None, parent=base.id)
        graph.tags.set("test", "", first.id)
        graph.tags.set("test", "0.1", first.id)
        second = graph.create(None, parent=base.id)
        graph.tags.set("test", "", second.id, force=True)
        assert [str(done) for done in remove_image(graph, first.short_id)] == [
            "Untagged: test:0.1", f"Deleted: {first.id}"]  # fmt: skip
        assert set(graph.ids()) == {base.id, second.id}
        assert graph.tags.by_id() == {base.id: ["busybox:latest"], second.id: ["test:latest"]}

    def test_an_id_that_has_names_in_two_repositories(self, graph):
        """TestDeleteImages: refused by its id; by one of the names just that one goes."""
        made = graph.create(fake_tar())
        for repository, tag in (("busybox", ""), ("test", "test")):
            graph.tags.set(repository, tag, made.id)
        with pytest.raises(errors.Conflict, match="multiple repositories"):
            remove_image(graph, made.id)
        assert graph.tags.names(made.id) == ["busybox:latest", "test:test"]
        assert [str(done) for done in remove_image(graph, "test:test")] == ["Untagged: test:test"]
        assert graph.tags.names(made.id) == ["busybox:latest"]


@needs_root
class TestDrivers:
    """aufs_test.go of 0.7, graphtest of 0.12."""

    def test_empty(self, any_graph):
        made = any_graph.create(None)
        found = view(made).stat(b"")
        assert (found.mode, found.uid, found.gid) == (0o755, 0, 0)
        assert view(made).listdir() == []

    def base(self, graph):
        return graph.create(
            layer(
                directory("a subdir", 0o1705, owner=(1, 2)),
                file("a file", mode=0o4222, owner=(0, 0)),
            )
        )

    def test_base_and_what_stands_on_it(self, any_graph):
        base = self.base(any_graph)
        child = any_graph.create(None, parent=base.id)
        for found in (base, child):
            subdirectory, text = view(found).stat("a subdir"), view(found).stat("a file")
            assert (subdirectory.mode, subdirectory.uid, subdirectory.gid) == (0o1705, 1, 2)
            assert (text.mode, text.uid, text.gid) == (0o4222, 0, 0)
        assert_same(read_view(view(child)), read_view(view(base)))

    def test_sizes(self, any_graph):
        base = any_graph.create(layer(file("test_file", "x" * 1024)))
        assert (base.size, any_graph.create(None, parent=base.id).size) == (1024, 0)

    def test_what_a_child_has_is_added_one_change_each(self, any_graph):
        base = any_graph.create(layer(file("base")))
        child = any_graph.create(layer(directory("d"), file("d/f"), file("test_file")), parent=base.id)
        assert [str(change) for change in compare(*child.trees())] == ["A /d", "A /d/f", "A /test_file"]

    def test_a_parent_that_is_not_there(self, any_graph):
        with pytest.raises(errors.FailedPrecondition):
            any_graph.create(None, parent="ab" * 32)

    def test_126_layers_with_deletions_at_every_tenth(self, graph, disk):
        parent, expected = "", set()
        for number in range(126):
            items = [file(f"{number}", str(number))]
            expected.add(str(number))
            if number % 10 == 9:
                items.append(gone(f"{number - 1}"))
                expected.discard(str(number - 1))
            parent = graph.register(image(parent=parent), layer(*items)).id
        top = graph.get(parent)
        assert top.depth == 126
        for driver in ("overlay", "copy"):
            needs.driver(driver, disk)
            container = prepare(top, disk / driver)
            done = container.mount(driver=driver)
            try:
                assert set(os.listdir(done.root)) == expected
                assert all((done.root / name).read_text() == name for name in expected)
            finally:
                container.unmount()


KEYS = st.sampled_from(["id", "Size", "created", "config", "Env", "Repositories", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)
DOCUMENTS = VALUES.map(lambda value: gojson.render(value))


class TestRandom:
    @needs_root
    @settings(max_examples=12)
    @given(trees=st.lists(randomtree.trees(size=6), min_size=1, max_size=3))
    def test_every_form_shows_what_the_layers_come_to(self, real_disk, trees):
        """Layers of random trees, stored in each form, read back and written as archives again."""
        place = Path(tempfile.mkdtemp(prefix="random-", dir=real_disk))
        try:
            layers = []
            for number, tree in enumerate(trees):
                source = place / f"source-{number}"
                source.mkdir()
                randomtree.make(tree, source)
                layers.append(archive(source))
            expected = read_view(TreeView(building.merged(make(place / "merged"), *layers)))
            for form in (GraphForm.V0_4, GraphForm.VFS):
                graph = Graph.open(place / form.value / "graph", form=form)
                parent = again = ""
                for data in layers:
                    made = graph.register(image(parent=parent), io.BytesIO(data))
                    parent = made.id
                    with made.open_layer() as written:
                        again = graph.register(image(parent=again), written).id
                for id in (parent, again):
                    assert_same(read_view(view(graph.get(id))), expected)
                if form is GraphForm.VFS:
                    assert_same(read_directory(graph.get(parent).layer()), expected)
        finally:
            shutil.rmtree(place)

    @given(raw=st.binary(max_size=200) | DOCUMENTS)
    def test_documents_are_read_or_refused_and_never_crash(self, raw):
        parse_checksums(raw)
        parse_repositories(raw)
        try:
            record = Record.parse(raw)
        except errors.LamellaError:
            return
        assert record.json == raw
        assert Record.parse(record.render((1, 0, 0))).render((1, 0, 0)) == record.render((1, 0, 0))

    @given(text=st.text(st.characters(codec="utf-16", categories=None)) | st.text())
    def test_any_text_comes_back(self, text):
        assert Record.parse(Record(id="x", comment=text).render()).comment == text
        assert Record.parse(Record(id="x", comment=text).render(go=gojson.GO_1_1)).comment == text


def make(path):
    path.mkdir()
    return path


def archive(source):
    done = subprocess.run(
        ["tar", "-C", source, "--create", "--numeric-owner", "--format=posix", "--xattrs", "--xattrs-include=*", "."],
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_a_chain_is_read_once_a_layer(graph):
    """Ten ancestors deep, an image is what all its layers say."""
    images = chain(graph, 10)
    assert [info.path for info in view(images[-1]).walk()] == [b"", *(b"f%d" % number for number in range(10))]
