"""Layers applied one on the other, rule by rule (image-spec 1.1 ``layer.md``), and read without mounting."""

from __future__ import annotations

import os

import pytest

from lamella import TreeView
from lamella.errors import InvalidInput, NotFound
from support.building import (
    Item,
    directory,
    file,
    gone,
    hard_link,
    merged,
    opaque,
    symlink,
    tar,
)


@pytest.fixture
def view(tmp_path):
    """Gives the files of some layers, each a tuple of items."""

    def of(*layers: tuple[Item, ...]) -> TreeView:
        return TreeView(merged(tmp_path, *(tar(*layer) for layer in layers)))

    return of


def names(view):
    return [info.path.decode() for info in view.walk() if info.path]


BASE = (directory("d"), file("d/a", "a"), directory("d/e"), file("d/e/b", "b"), file("f", "f"), symlink("l", "d"))


class TestWhiteouts:
    def test_a_file(self, view):
        assert names(view(BASE, (gone("f"),))) == ["d", "d/a", "d/e", "d/e/b", "l"]

    def test_a_directory_with_all_in_it(self, view):
        assert names(view(BASE, (gone("d"),))) == ["f", "l"]

    def test_of_what_is_not_there(self, view):
        assert names(view(BASE, (gone("nothing"), gone("no/such/directory")))) == names(view(BASE))

    @pytest.mark.parametrize("first", [True, False])
    def test_they_hide_what_is_below_and_never_what_is_beside_them(self, view, first):
        """Wherever they stand in the stream."""
        items = (gone("d"), directory("d"), file("d/new", "n"))
        assert names(view(BASE, items if first else items[::-1])) == ["d", "d/new", "f", "l"]

    @pytest.mark.parametrize("first", [True, False])
    def test_an_opaque_directory_hides_all_that_is_below(self, view, first):
        items = (opaque("d"), file("d/new", "n"))
        assert names(view(BASE, items if first else items[::-1])) == ["d", "d/new", "f", "l"]

    def test_an_opaque_root(self, view):
        assert names(view(BASE, (Item(".wh..wh..opq"), file("new")))) == ["new"]

    def test_an_opaque_directory_keeps_its_metadata(self, view):
        found = view((directory("d", 0o700, owner=(1, 2)), file("d/a")), (opaque("d"),))
        assert (found.stat("d").mode, found.stat("d").uid) == (0o700, 1)

    def test_a_hard_link_is_as_good_as_a_file(self, view):
        assert names(view(BASE, (file(".wh.f"), hard_link("d/.wh.a", ".wh.f")))) == ["d", "d/e", "d/e/b", "l"]

    def test_they_act_through_a_link_of_a_lower_layer(self, view):
        assert names(view(BASE, (gone("l/a"),))) == ["d", "d/e", "d/e/b", "f", "l"]

    def test_a_layer_in_between_and_one_that_adds_again(self, view):
        found = view(BASE, (gone("f"),), (file("f", "again"),))
        assert found.open("f").read() == b"again"
        assert found.stat("f").layer == 2

    def test_of_one_of_several_names(self, view):
        found = view((file("one", "x"), hard_link("two", "one"), hard_link("three", "one")), (gone("one"),))
        assert names(found) == ["three", "two"]
        assert found.stat("two").inode == found.stat("three").inode
        assert found.open("two").read() == b"x"

    def test_a_dot_file_and_a_name_with_wh_inside_are_files(self, view):
        assert names(view((file(".whx"), file("a.wh.b"), file(".w")))) == [".w", ".whx", "a.wh.b"]


class TestReplacing:
    def test_a_file_by_a_directory(self, view):
        assert names(view(BASE, (directory("f"), file("f/n")))) == ["d", "d/a", "d/e", "d/e/b", "f", "f/n", "l"]

    def test_a_directory_by_a_file(self, view):
        assert names(view(BASE, (file("d", "now a file"),))) == ["d", "f", "l"]

    def test_a_directory_by_a_link(self, view):
        found = view((*BASE, directory("other"), file("other/o")), (symlink("d", "other"), file("d/n")))
        assert names(found) == ["d", "f", "l", "other", "other/n", "other/o"]

    def test_a_link_by_a_directory(self, view):
        found = view(BASE, (directory("l"), file("l/n")))
        assert names(found) == ["d", "d/a", "d/e", "d/e/b", "f", "l", "l/n"]

    def test_a_directory_entry_changes_metadata_and_keeps_what_is_in_it(self, view):
        found = view(BASE, (directory("d", 0o700, owner=(7, 8), mtime=9),))
        assert [(i.mode, i.uid, i.gid, i.mtime) for i in [found.stat("d")]] == [(0o700, 7, 8, 9 * 10**9)]
        assert found.exists("d/e/b")

    def test_the_same_name_twice_in_one_layer(self, view):
        found = view((file("f", "first"), file("f", "second"), directory("x"), file("x", "file"), directory("x")))
        assert found.open("f").read() == b"second"
        assert found.stat("x").is_dir

    def test_one_of_several_names_leaves_the_others(self, view):
        found = view((file("one", "old"), hard_link("two", "one")), (file("one", "new"),))
        assert (found.open("one").read(), found.open("two").read()) == (b"new", b"old")
        assert found.stat("two").links == 1


class TestLinks:
    def test_to_a_file_of_a_lower_layer(self, view):
        found = view(BASE, (hard_link("h", "f"),), (hard_link("d/h2", "h"),))
        assert len({found.stat(path).inode for path in ("f", "h", "d/h2")}) == 1
        assert found.stat("f").links == 3

    def test_to_a_symbolic_link(self, view):
        found = view((symlink("s", "nowhere"), hard_link("t", "s")))
        assert found.readlink("t") == b"nowhere"
        assert found.stat("s", follow=False).inode == found.stat("t", follow=False).inode

    def test_through_a_link(self, view):
        found = view(BASE, (hard_link("h", "l/a"),))
        assert found.stat("h").inode == found.stat("d/a").inode

    def test_a_target_that_was_deleted_below(self, view):
        with pytest.raises(InvalidInput) as refused:
            view(BASE, (gone("f"),), (hard_link("h", "f"),))
        assert refused.value.code == "hardlink-target-missing"
        assert refused.value.entry == b"h"
        assert refused.value.layer


class TestParents:
    def test_a_directory_without_an_entry(self, view):
        found = view((file("a/b/c", "c"),))
        assert [(info.path, info.mode, info.mtime) for info in found.walk()][:3] == [
            (b"", 0o755, 0),
            (b"a", 0o755, 0),
            (b"a/b", 0o755, 0),
        ]

    def test_below_a_link_is_where_the_link_leads(self, view):
        assert view(BASE, (file("l/n"),)).exists("d/n")

    def test_below_a_link_to_the_root_and_above_it(self, view):
        found = view((symlink("r", "../../.."), symlink("s", "/d"), directory("d")), (file("r/x"), file("s/y")))
        assert names(found) == ["d", "d/y", "r", "s", "x"]

    def test_below_a_file(self, view):
        with pytest.raises(InvalidInput) as refused:
            view(BASE, (file("f/n"),))
        assert refused.value.code == "entry-parent-not-directory"

    def test_below_links_that_never_end(self, view):
        with pytest.raises(InvalidInput) as refused:
            view((symlink("a", "b"), symlink("b", "a"), file("a/x")))
        assert refused.value.code == "link-loop"


class TestReading:
    @pytest.fixture
    def image(self, view):
        return view(
            (
                *BASE,
                symlink("abs", "/d/a"),
                symlink("up", "../../../d/e/../a"),
                symlink("chain", "up"),
                symlink("dangling", "no/where"),
                symlink("loop", "loop"),
                file("big", b"0123456789" * 50_000),
            )
        )

    @pytest.mark.parametrize(
        "path", ["d/a", "/d/a", "./d//a", b"d/a", "l/a", "abs", "up", "chain", "../../d/a", "l/../d/a"]
    )
    def test_links_lead_nowhere_but_inside(self, image, path):
        assert image.open(path).read() == b"a"
        assert image.stat(path).path == b"d/a"

    def test_a_link_itself(self, image):
        assert image.stat("abs", follow=False).link == b"/d/a"
        assert image.readlink("abs") == b"/d/a"
        with pytest.raises(InvalidInput):
            image.readlink("f")

    @pytest.mark.parametrize("path", ["nothing", "d/nothing", "f/x", "dangling", "dangling/x"])
    def test_what_is_not_there(self, image, path):
        for ask in (image.stat, image.open, lambda path: list(image.walk(path)), image.listdir):
            with pytest.raises(NotFound):
                ask(path)
        assert not image.exists(path)

    def test_a_chain_without_an_end(self, image):
        with pytest.raises(InvalidInput) as refused:
            image.stat("loop")
        assert refused.value.code == "link-loop"
        assert image.stat("loop", follow=False).link == b"loop"

    def test_files_can_be_read_from_anywhere(self, image):
        with image.open("big") as stream:
            assert stream.seekable()
            stream.seek(-5, os.SEEK_END)
            assert stream.read() == b"56789"
            stream.seek(123_456)
            assert stream.read(4) == b"6789"
            assert stream.tell() == 123_460
            assert stream.read(-1)[-1:] == b"9"
            assert stream.read() == b""

    def test_what_has_no_content(self, image):
        for path in ("d", "l"):
            with pytest.raises(InvalidInput) as refused:
                image.open(path)
            assert refused.value.code == "not-a-file"

    def test_a_directory_is_listed_in_byte_order(self, view):
        found = view((file("b"), file("B"), file("a.b"), directory("a"), file("a/z")))
        assert [info.path for info in found.listdir()] == [b"B", b"a", b"a.b", b"b"]
        assert [info.path for info in found.listdir("a")] == [b"a/z"]
        with pytest.raises(InvalidInput):
            found.listdir("b")

    def test_a_walk_from_below(self, image):
        assert [info.path for info in image.walk("l/e")] == [b"d/e", b"d/e/b"]

    def test_sparse_files_have_their_holes(self, tmp_path):
        import subprocess

        with (tmp_path / "s").open("wb") as stream:
            stream.seek(300_000)
            stream.write(b"data")
            stream.truncate(700_000)
        command = ["tar", "--create", "--format=posix", "--sparse", "-C", tmp_path, "s"]
        layer = subprocess.run(command, capture_output=True, check=True).stdout
        assert len(layer) < 100_000
        found = TreeView(merged(tmp_path, layer))
        with found.open("s") as stream:
            assert stream.read() == bytes(300_000) + b"data" + bytes(399_996)
            stream.seek(300_002)
            assert stream.read(4) == b"ta\0\0"
