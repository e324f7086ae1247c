"""What a writable branch changes: the answers of docker's diff, without its mistakes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest
from graph_support import image, layer

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm
from lamella.formats.docker_graph.stacks import Stacks
from lamella.formats.docker_graph.union import changes, render_changes
from lamella.layers.compare import Change, ChangeKind
from lamella.mounts.model import Form
from support import needs
from support.building import directory, file, gone, hard_link, symlink
from support.needs import needs_root
from support.trees import assert_same, read_directory, read_view, without


@pytest.fixture
def branches(disk):
    """Makes branches: what is below, what is above, and an empty writable one."""
    paths = {name: disk / name for name in ("below", "above", "rw")}
    for path in paths.values():
        path.mkdir()
    return paths


def told(branches, **options):
    return [str(change) for change in changes([branches["above"], branches["below"]], branches["rw"], **options)]


class TestBranches:
    def test_kinds(self, branches):
        (branches["below"] / "same").mkdir()
        (branches["below"] / "changed").write_text("1")
        (branches["below"] / "removed").write_text("1")
        (branches["rw"] / "changed").write_text("22")
        (branches["rw"] / ".wh.removed").touch()
        (branches["rw"] / "added").mkdir()
        (branches["rw"] / "added/file").touch()
        assert told(branches) == ["A /added", "A /added/file", "C /changed", "D /removed"]

    def test_a_directory_that_is_the_same_is_no_change_but_what_is_in_it_is(self, branches):
        for name in ("below", "rw"):
            (branches[name] / "d").mkdir()
        (branches["rw"] / "d/new").touch()
        times = (branches["below"] / "d").stat()
        os.utime(branches["rw"] / "d", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert told(branches) == ["A /d/new"]

    def test_times_count_to_the_nanosecond_and_contents_where_all_else_is_equal(self, branches):
        for branch, content, moment in (("below", "1", 0), ("rw", "2", 1)):
            for name, text, time in (("content", content, 0), ("same", "1", 0), ("time", "1", moment)):
                (branches[branch] / name).write_text(text)
                os.utime(branches[branch] / name, ns=(0, 10**18 + time))
        assert told(branches) == ["C /content", "C /time"]

    def test_what_aufs_keeps_for_itself(self, branches):
        for name in (".wh..wh.plnk", ".wh..wh.orph"):
            (branches["rw"] / name).mkdir()
        (branches["rw"] / ".wh..wh.aufs").touch()
        (branches["rw"] / ".wh..wh.plnk/19.45").touch()
        (branches["rw"] / ".wh..wh.orph/xy").touch()
        assert told(branches) == []

    def test_an_opaque_directory_tells_what_is_gone(self, branches):
        (branches["below"] / "d/sub").mkdir(parents=True)
        (branches["below"] / "d/old").touch()
        (branches["rw"] / "d").mkdir()
        (branches["rw"] / "d/.wh..wh..opq").touch()
        times = (branches["below"] / "d").stat()
        os.utime(branches["rw"] / "d", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert told(branches) == ["D /d/old", "D /d/sub"]

    def test_deleted_in_the_middle_and_made_again_is_added(self, branches):
        (branches["below"] / "f").write_text("1")
        (branches["above"] / ".wh.f").touch()
        (branches["rw"] / "f").write_text("1")
        assert told(branches) == ["A /f"]

    def test_a_directory_over_a_file(self, branches):
        (branches["below"] / "f").write_text("1")
        (branches["rw"] / "f").mkdir()
        (branches["rw"] / "f/inside").touch()
        assert told(branches) == ["C /f", "A /f/inside"]

    def test_links_are_told_apart_as_links(self, branches, disk):
        (disk / "outside").mkdir()
        (branches["below"] / "dangling").symlink_to("nothing")
        (branches["below"] / "away").symlink_to(disk / "outside")
        (branches["rw"] / "dangling").symlink_to("nothing else")
        (branches["rw"] / "away").symlink_to(disk / "elsewhere")
        assert told(branches) == ["C /away", "C /dangling"]

    def test_the_root_is_no_change_and_a_mode_is_one(self, branches):
        for name in ("below", "rw"):
            (branches[name] / "d").mkdir()
            os.utime(branches[name] / "d", (1, 1))
        (branches["rw"] / "d").chmod(0o700)
        branches["rw"].chmod(0o700)
        assert told(branches) == ["C /d"]

    def test_whiteouts_of_nothing(self, branches):
        (branches["rw"] / ".wh.none").touch()
        assert told(branches) == []

    def test_the_order_is_that_of_the_paths(self, branches):
        for name in ("b", "a", "c", "B"):
            (branches["rw"] / name).touch()
        (branches["below"] / "ab").touch()
        (branches["rw"] / ".wh.ab").touch()
        assert told(branches) == ["A /B", "A /a", "D /ab", "A /b", "A /c"]

    def test_no_layers(self, branches):
        (branches["rw"] / "a").touch()
        assert [str(change) for change in changes([], branches["rw"])] == ["A /a"]

    def test_what_is_missing_is_an_error(self, branches, disk):
        with pytest.raises(errors.NotFound):
            changes([branches["below"]], disk / "none")
        with pytest.raises(errors.NotFound):
            changes([disk / "none"], branches["rw"])

    def test_names_that_begin_with_a_whiteouts_name(self, branches):
        (branches["rw"] / ".wh.").touch()
        (branches["rw"] / "a.wh.b").touch()
        assert told(branches) == ["A /.wh.", "A /a.wh.b"]

    @needs_root
    @pytest.mark.parametrize("noted", [Form.OVERLAY, None])
    def test_an_overlay_upper_gives_the_same_answers(self, branches, noted):
        (branches["below"] / "d").mkdir()
        (branches["below"] / "d/old").touch()
        (branches["below"] / "removed").write_text("1")
        os.utime(branches["below"] / "d", (0, 0))
        os.mknod(branches["rw"] / "removed", 0o020600, 0)
        (branches["rw"] / "d").mkdir()
        os.setxattr(branches["rw"] / "d", "trusted.overlay.opaque", b"y")
        (branches["rw"] / "d/new").touch()
        assert told(branches, form=noted) == ["C /d", "A /d/new", "D /d/old", "D /removed"]

    @needs_root
    def test_an_overlay_upper_is_known_by_an_opaque_directory_alone(self, branches):
        (branches["below"] / "d").mkdir()
        (branches["below"] / "d/old").touch()
        os.utime(branches["below"] / "d", (0, 0))
        (branches["rw"] / ".wh.").touch()
        (branches["rw"] / "d").mkdir()
        os.setxattr(branches["rw"] / "d", "trusted.overlay.opaque", b"y")
        assert told(branches) == ["A /.wh.", "C /d", "D /d/old"]

    def test_a_whole_tree_gives_the_same_answers(self, branches):
        (branches["below"] / "a").touch()
        (branches["rw"] / "b").touch()
        assert told(branches, form=Form.PLAIN) == ["D /a", "A /b"]

    def test_json(self):
        found = [Change(b"etc/passwd", ChangeKind.DELETED), Change("é".encode(), ChangeKind.ADDED)]
        assert render_changes(found).decode() == '[{"Path":"/etc/passwd","Kind":2},{"Path":"/é","Kind":1}]'
        assert render_changes([Change(b"a", ChangeKind.MODIFIED)]) == b'[{"Path":"/a","Kind":0}]'
        assert render_changes([]) == b"null", "as 0.4.0 did"


def test_layers_with_pseudo_links_are_read_as_a_branch_is(branches):
    """``Stacks`` reads the layers of a chain; what a number means depends on those below, however many were kept."""
    paths = [branches[name] for name in ("rw", "above", "below")]
    (branches["below"] / "a").write_text("old")
    os.link(branches["below"] / "a", branches["below"] / "b")
    (branches["above"] / "a").write_text("another")
    (branches["rw"] / ".wh..wh.plnk").mkdir()
    (branches["rw"] / "c").write_text("new")
    numbers = [(branches[where] / name).stat().st_ino for where, name in (("below", "b"), ("rw", "c"))]
    os.link(branches["rw"] / "c", branches["rw"] / f".wh..wh.plnk/{numbers[0]}.{numbers[1]}")
    stacks = Stacks()
    for kept in (paths[1:], paths):
        tree = TreeView(stacks.tree(kept))
    assert [tree.open(name).read() for name in "abc"] == [b"another", b"new", b"new"]
    assert_same(read_view(tree), read_view(TreeView(Stacks().tree(paths))))


class TestSampleTree:
    """docker's TestChangesDirsEmpty, TestChangesDirsMutated and TestApplyLayer."""

    TIME = 1_370_000_000

    def sample(self, graph):
        modes = (0o600, 0o666, 0o404, 0o600, 0o600, 0o600, 0o600)
        items = [file(f"file{n}", f"file{n}\n", mode=mode, mtime=self.TIME) for n, mode in enumerate(modes, 1)]
        for number, mode in ((1, 0o740), (2, 0o700), (3, 0o700), (4, 0o700)):
            items.append(directory(f"dir{number}", mode, mtime=self.TIME))
            for child in (1, 2):
                mode = 0o1444 if (number, child) == (1, 1) else 0o666
                name = f"dir{number}/file{number}-{child}"
                items.append(file(name, f"{name}\n", mode=mode, mtime=self.TIME))
        items += [symlink(f"symlink{n}", f"target{n}", mtime=self.TIME) for n in (1, 2)]
        return graph.register(image(), layer(*items))

    MUTATION = (
        gone("file1"), gone("dir1"), gone("symlink1"),
        file("file2", "change\n", mode=0o666), file("file3", "replaced\n"), file("file4", "file4\n", mode=0o600),
        gone("file5"), directory("file5", 0o666), file("filenew", "filenew\n", mode=0o777),
        directory("dirnew", 0o777), symlink("symlinknew", "targetnew"), symlink("symlink2", "target2change"),
        gone("dir2"), file("dir2", "dir2\n", mode=0o777), directory("dir3", 0o700),
    )  # fmt: skip

    @pytest.mark.parametrize("form", [GraphForm.V0_4, GraphForm.VFS])
    def test_mutated(self, disk, form):
        graph = Graph.open(disk / "graph", form=form)
        base = self.sample(graph)
        same = graph.register(image(parent=base.id), None)
        mutated = graph.register(image(parent=base.id), layer(*self.MUTATION))
        from lamella.formats.docker_graph.unpacking import changes_between

        assert changes_between(*same.trees()) == []
        assert [str(change) for change in changes_between(*mutated.trees())] == [
            "D /dir1", "C /dir2", "C /dir3", "A /dirnew", "D /file1", "C /file2", "C /file3", "C /file4", "C /file5",
            "A /filenew", "D /symlink1", "C /symlink2", "A /symlinknew",
        ]  # fmt: skip

    def test_apply(self, graph):
        base = self.sample(graph)
        mutated = graph.register(image(parent=base.id), layer(*self.MUTATION))
        out = io.BytesIO()
        mutated.tar_layer(out.write)
        again = graph.register(image(parent=base.id), io.BytesIO(out.getvalue()))
        assert_same(read_view(TreeView(again.tree())), read_view(TreeView(mutated.tree())))


class TestRealBranches:
    """What a real AUFS leaves in its branches, and what becomes of it as layers of a graph."""

    @pytest.fixture
    def members(self):
        with tarfile.open(needs.images() / "aufs" / "rw.tar") as archive:
            return {member.name.removeprefix("./"): member for member in archive}

    def test_its_bookkeeping(self, members):
        for name in (".wh..wh.orph", ".wh..wh.plnk"):
            assert members[name].isdir()
            assert members[name].mode == 0o700

    def test_whiteouts_are_links_of_one_empty_file(self, members):
        names = [name for name in members if name.rpartition("/")[2].startswith(".wh.") and not members[name].isdir()]
        first = next(name for name in names if members[name].isreg())
        assert (members[first].mode, members[first].size) == (0o444, 0)
        for name in names:
            if name != first and not name.startswith(".wh..wh.plnk/"):
                assert members[name].islnk()
                assert members[name].linkname.removeprefix("./") == first
        assert ".wh..wh.aufs" in names
        assert "dir-opq/.wh..wh..opq" in names

    def test_kinds_of_whiteouts_are_the_same(self, members):
        for name in (".wh.null", ".wh.ff", ".wh.sl", ".wh.dir-del", ".wh.del"):
            assert name in members, "of a device, a fifo, a link, a directory and a file"

    def test_copying_up(self, members):
        assert (members["chm"].mode, members["chm"].size) == (0o600, 1)
        assert members["mod"].size == 2
        assert ".wh.ren" in members
        assert "ren2" in members

    def test_pseudo_links(self, members):
        names = [name for name in members if name.startswith(".wh..wh.plnk/")]
        assert sorted(members[name].linkname.removeprefix("./") for name in names) == ["hl1", "two-link"]

    @needs_root
    @pytest.mark.parametrize("form", list(GraphForm))
    def test_as_layers_of_a_graph(self, disk, form):
        """The image is the union, but for ``two``, which only inode numbers could tell from ``two-link``."""
        graph = Graph.open(disk / "graph", form=form)
        parent = ""
        for name in ("l1", "l2", "rw"):
            with open(needs.images() / "aufs" / f"{name}.tar", "rb") as archive:
                parent = graph.register(image(parent=parent), archive, keep_archive=True).id
        (disk / "union").mkdir()
        subprocess.run(["tar", "xpf", needs.images() / "aufs/union.tar", "-C", disk / "union"], check=True)
        pair = [b"two", b"two-link"]
        shown = without(read_directory(disk / "union"), "group", at=pair)
        made = graph.get(parent)
        assert_same(without(read_view(TreeView(made.tree())), "group", at=pair), shown)
        out = io.BytesIO()
        made.tar_layer(out.write)
        again = graph.register(image(parent=made.parent), io.BytesIO(out.getvalue()))
        assert_same(read_view(TreeView(again.tree())), read_view(TreeView(made.tree())))

    @needs_root
    def test_a_container_of_2013_told_by_its_directories(self, disk):
        graph = Graph.open(disk / "graph")
        parent = ""
        for name in ("l1", "l2"):
            with open(needs.images() / "aufs" / f"{name}.tar", "rb") as archive:
                parent = graph.register(image(parent=parent), archive).id
        (disk / "rw").mkdir()
        subprocess.run(["tar", "xpf", needs.images() / "aufs/rw.tar", "-C", disk / "rw"], check=True)
        found = [str(change) for change in graph.get(parent).changes(disk / "rw")]
        assert not [text for text in found if ".wh." in text]
        for text in ("D /del", "D /dir-opq/old", "A /dir-opq/new", "C /chm", "C /mod", "D /null", "D /ren", "A /ren2"):
            assert text in found


def test_a_cross_layer_hard_link_is_one_file_in_the_layer_and_counted_once(graph):
    base = graph.register(image(), layer(file("a", "12345")))
    child = graph.register(image(parent=base.id), layer(hard_link("b", "a"), file("c", "123"), hard_link("d", "c")))
    assert TreeView(child.tree()).open("b").read() == b"12345"
    assert child.size == 5 + 3
