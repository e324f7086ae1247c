"""Branches of a real AUFS union, with what AUFS keeps in them: as tars that become layers, and as directories."""

from __future__ import annotations

import os
import subprocess

import pytest

from lamella import TreeView
from lamella.layers.aufs import branch_changes, branch_trees
from support import building, needs
from support.building import directory, file, hard_link, tar
from support.needs import needs_root
from support.trees import assert_same, read_directory, read_view, without

# What the session on the writable branch did, as the 2013 system would have told it without its mistakes: it told
# "A /.wh..wh.plnk/19.45", "D /dir-opq/.wh..opq" and the like. dir-edit and dir-opq themselves have the same times above
# and below: the tars hold whole seconds.
CHANGES = [
    "A /a",
    "A /a/b",
    "A /a/b/c",
    "C /chm",
    "D /del",
    "D /dir-del",
    "D /dir-edit/x",
    "A /dir-edit/z",
    "A /dir-opq/new",
    "D /dir-opq/old",
    "D /ff",
    "C /hl1",
    "C /hl2",
    "C /mod",
    "A /new",
    "D /null",
    "D /ren",
    "A /ren2",
    "D /sl",
    "A /sl2",
    "A /two-link",
]


@pytest.fixture
def branches(disk):
    """The branches as directories: l1 below l2 below rw, and the union as the kernel showed it.

    The names in .wh..wh.plnk hold inode numbers of the disk that the branches were on; here they get those that the
    files have now, as the kernel would have written them.
    """
    needs.root()
    for name in ("l1", "l2", "rw", "union"):
        (disk / name).mkdir()
        subprocess.run(["tar", "xpf", needs.images() / "aufs" / f"{name}.tar", "-C", disk / name], check=True)
    for old, lower, upper in (("20.46", "l2/two", "two-link"), ("19.45", "l1/hl1", "hl1")):
        links = disk / "rw/.wh..wh.plnk"
        new = f"{(disk / lower).stat().st_ino}.{(disk / 'rw' / upper).stat().st_ino}"
        (links / old).rename(links / new)
    return disk


@needs_root
class TestDirectories:
    def test_the_union_is_what_the_kernel_shows(self, branches):
        union = branch_trees([branches / "l2", branches / "l1"], branches / "rw")[1]
        assert_same(read_view(TreeView(union)), read_directory(branches / "union"))

    def test_the_layers_alone(self, branches):
        below = branch_trees([branches / "l2", branches / "l1"], None)[1]
        expected = read_directory(branches / "l1") | read_directory(branches / "l2")
        assert_same(read_view(TreeView(below)), expected)

    def test_changes(self, branches):
        changes = branch_changes([branches / "l2", branches / "l1"], branches / "rw")
        assert [str(change) for change in changes] == CHANGES

    def test_a_file_that_a_lower_layer_deleted_is_added_and_not_changed(self, branches):
        (branches / "l2/.wh.del").touch()
        (branches / "rw/.wh.del").unlink()
        (branches / "rw/del").write_text("again")
        changes = branch_changes([branches / "l2", branches / "l1"], branches / "rw")
        assert [str(change) for change in changes if change.path == b"del"] == ["A /del"]

    def test_a_directory_over_a_file_is_no_failure(self, branches):
        (branches / "rw/keep").mkdir()
        (branches / "rw/keep/inside").touch()
        texts = [str(change) for change in branch_changes([branches / "l2", branches / "l1"], branches / "rw")]
        assert "C /keep" in texts
        assert "A /keep/inside" in texts

    def test_the_inode_numbers_of_a_branch_that_was_copied_mean_nothing(self, branches):
        """A pseudo-link then belongs to the names that it has in the branch, and to what they were below."""
        links = branches / "rw/.wh..wh.plnk"
        for link in links.iterdir():
            link.rename(links / f"{(branches / 'l2/keep').stat().st_ino}.{int(link.name.partition('.')[2]) + 1}")
        union = TreeView(branch_trees([branches / "l2", branches / "l1"], branches / "rw")[1])
        assert union.open("keep").read() == (branches / "union/keep").read_bytes()
        assert union.open("hl2").read() == (branches / "union/hl2").read_bytes()

    def test_a_pseudo_link_means_the_names_that_its_file_still_shows_under(self, branches):
        """A layer above gave the first of its names to another file."""
        (branches / "l2/hl1").write_text("another file")
        (branches / "rw/hl1").rename(branches / "rw/hl2")
        os.link(branches / "l1/hl1", branches / "l1/hl3")
        union = TreeView(branch_trees([branches / "l2", branches / "l1"], branches / "rw")[1])
        assert union.open("hl1").read() == b"another file"
        for name in ("hl2", "hl3"):
            assert union.open(name).read() == (branches / "union/hl2").read_bytes()
        assert union.stat("hl2").inode == union.stat("hl3").inode

    @pytest.mark.parametrize("kind", ["directory", "link", "file with content"])
    def test_a_whiteout_of_an_odd_kind_hides_its_name(self, branches, kind):
        whiteout = branches / "l2/.wh.keep"
        if kind == "directory":
            whiteout.mkdir()
            (whiteout / "inside").touch()
        elif kind == "link":
            whiteout.symlink_to("two")
        else:
            whiteout.write_text("content")
        (branches / "l2/keep").unlink()
        below, union = branch_trees([branches / "l2", branches / "l1"], branches / "rw")
        assert [path for path, _ in below.walk() if b"keep" in path or b"inside" in path] == []
        assert not TreeView(union).exists("keep")

    def test_a_whiteout_wins_over_its_name_in_the_same_branch(self, branches):
        (branches / "rw/.wh.new").touch()
        (branches / "rw/.wh.aufs").touch()
        (branches / "l2/aufs").touch()
        (branches / "l2/.wh.dir-edit").touch()
        (branches / "l2/dir-edit").mkdir()
        (branches / "l2/dir-edit/above").touch()
        below, union = branch_trees([branches / "l2", branches / "l1"], branches / "rw")
        assert not TreeView(below).exists("dir-edit")
        assert not TreeView(union).exists("new")
        assert not TreeView(union).exists("aufs"), "though .wh..wh.aufs is no whiteout of .wh.aufs"

    def test_whiteouts_and_markers_of_nothing_do_nothing(self, branches):
        before = read_view(TreeView(branch_trees([branches / "l2", branches / "l1"], None)[1]))
        for name in (".wh.absent", ".wh..wh.foo"):
            (branches / "l2" / name).touch()
        os.utime(branches / "l2", ns=(0, before[b""].mtime))
        assert_same(read_view(TreeView(branch_trees([branches / "l2", branches / "l1"], None)[1])), before)

    def test_links_are_never_followed(self, branches, disk):
        (disk / "outside").mkdir()
        (disk / "outside/secret").touch()
        (branches / "l1/abs").symlink_to(disk / "outside")
        (branches / "rw/abs").symlink_to(disk / "outside")
        os.utime(branches / "rw/abs", ns=(0, 0), follow_symlinks=False)
        changes = branch_changes([branches / "l2", branches / "l1"], branches / "rw")
        assert [str(change) for change in changes if change.path.startswith(b"abs")] == ["C /abs"]


class TestTars:
    def test_the_image_is_the_union(self, store, disk):
        """But for the pair ``two`` and ``two-link``: which file of the layers below ``.wh..wh.plnk/20.46`` means can
        only be told by inode numbers, which a tar does not have."""
        folder = needs.images() / "aufs"
        layers = [(folder / f"{name}.tar").read_bytes() for name in ("l1", "l2", "rw")]
        store.load(building.layout(disk / "layout", layers))
        (union,) = store.load(building.layout(disk / "union", [(folder / "union.tar").read_bytes()], tag="union"))
        pair = [b"two", b"two-link"]
        image, shown = read_view(store.image("it")), read_view(store.image("union"))
        assert union.names == ("union:latest",)
        assert_same(without(image, "group", at=pair), without(shown, "group", at=pair))

    def test_the_changes_are_those_of_the_branch(self, store, disk):
        folder = needs.images() / "aufs"
        layers = [(folder / f"{name}.tar").read_bytes() for name in ("l1", "l2", "rw")]
        store.load(building.layout(disk / "below", layers[:2], tag="below"))
        store.load(building.layout(disk / "layout", layers))
        assert [str(change) for change in store.image("it").changes(store.image("below"))] == CHANGES

    def test_a_pseudo_link_that_comes_before_its_names(self, tmp_path):
        """tar writes a file with several names at the first that it meets; the others are links to that."""
        below = tar(file("one", "old\n"), hard_link("two", "one"))
        branch = tar(
            directory(".wh..wh.plnk", 0o700),
            file(".wh..wh.plnk/11.22", "new\n"),
            hard_link("one", ".wh..wh.plnk/11.22"),
        )
        tree = TreeView(building.merged(tmp_path, below, branch))
        assert [info.path for info in tree.walk()] == [b"", b"one", b"two"]
        assert tree.open("two").read() == b"new\n"
        assert tree.stat("one").inode == tree.stat("two").inode

    def test_bookkeeping_never_shows(self, tmp_path):
        branch = tar(
            file(".wh..wh.aufs"),
            directory(".wh..wh.orph"),
            file(".wh..wh.orph/x"),
            directory(".wh..wh.plnk"),
            file(".wh..wh.foo"),
            directory("d"),
            hard_link("d/.wh..wh.opq", ".wh..wh.aufs"),
        )
        assert [info.path for info in TreeView(building.merged(tmp_path, branch)).walk()] == [b"", b"d"]
