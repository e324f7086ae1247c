"""What leads from one tree to another, case by case."""

from __future__ import annotations

import pytest

from lamella.layers.compare import compare
from support.building import (
    character_device,
    directory,
    fifo,
    file,
    gone,
    hard_link,
    merged,
    opaque,
    symlink,
    tar,
)

BASE = tar(
    directory("d"),
    directory("d/e"),
    file("d/x", "x\n"),
    file("d/e/y", "y\n"),
    file("f", "f\n"),
    symlink("l", "d"),
    file("h1", "linked\n"),
    hard_link("h2", "h1"),
    hard_link("d/h3", "h1"),
)


@pytest.fixture
def changes(tmp_path):
    """Gives the changes that a layer makes to BASE, as text."""

    def of(*items, base=BASE):
        old = merged(tmp_path, base)
        return [str(change) for change in compare(old, merged(tmp_path, base, tar(*items)))]

    return of


def test_nothing(changes):
    assert changes() == []


def test_the_same_entries_once_more_change_nothing(changes):
    assert changes(directory("d"), file("d/x", "x\n"), file("f", "f\n")) == []


def test_content_alone(changes):
    assert changes(file("f", "g\n")) == ["C /f"]


@pytest.mark.parametrize(
    "fields", [{"mode": 0o600}, {"owner": (1, 0)}, {"owner": (0, 1)}, {"mtime": 5.5}, {"xattrs": {"user.a": "b"}}]
)
def test_metadata_alone(changes, fields):
    assert changes(file("f", "f\n", **fields)) == ["C /f"]


def test_the_time_of_the_root_is_no_change(changes):
    assert changes(directory("./", mtime=7)) == []
    assert changes(directory("./", mode=0o700)) == ["C /"]


def test_a_deleted_directory_is_one_change(changes):
    assert changes(gone("d")) == ["D /d"]


def test_an_added_directory_is_listed_with_all_in_it(changes):
    assert changes(directory("n"), file("n/a"), directory("n/b"), fifo("n/b/c")) == [
        "A /n",
        "A /n/a",
        "A /n/b",
        "A /n/b/c",
    ]


def test_a_directory_in_place_of_a_file(changes):
    assert changes(directory("f"), file("f/n")) == ["C /f", "A /f/n"]


def test_a_file_in_place_of_a_directory(changes):
    assert changes(file("d/e")) == ["C /d/e"]


def test_a_directory_in_place_of_a_link(changes):
    assert changes(directory("l"), file("l/n")) == ["C /l", "A /l/n"]


def test_a_link_in_place_of_a_directory(changes):
    assert changes(symlink("d/e", "nowhere")) == ["C /d/e"]


def test_a_link_that_leads_elsewhere(changes):
    assert changes(symlink("l", "f")) == ["C /l"]


def test_a_device_of_another_number(changes):
    base = tar(character_device("c", 1, 3))
    assert changes(character_device("c", 1, 5), base=base) == ["C /c"]


def test_what_is_below_a_link_is_where_the_link_leads(changes):
    assert changes(file("l/x", "z\n")) == ["C /d/x"]


def test_an_opaque_directory_deletes_what_it_does_not_have(changes):
    assert changes(opaque("d"), file("d/x", "x\n")) == ["D /d/e", "D /d/h3"]


def test_paths_are_sorted_as_bytes(changes):
    assert changes(file("d.x"), file("d/n"), file("d-x"), file("D")) == ["A /D", "A /d-x", "A /d.x", "A /d/n"]


class TestLinks:
    def test_a_file_that_is_no_longer_a_link_of_others_is_a_change(self, changes):
        """Though it has the same content; the others, whichever they are, have not changed."""
        assert changes(file("h1", "linked\n")) == ["C /h1"]

    def test_which_name_stayed_is_told_by_the_order_of_names(self, changes):
        """The first name keeps its file, wherever it lies: here in a directory that nothing else was done to."""
        assert changes(file("d/h3", "linked\n")) == ["C /h1", "C /h2"]
        assert changes(file("h2", "linked\n")) == ["C /h2"]

    def test_two_files_that_become_one_are_a_change_of_one(self, changes):
        base = tar(file("a", "same\n"), file("b", "same\n"))
        assert changes(hard_link("b", "a"), base=base) == ["C /b"]

    def test_a_new_name_is_added_and_the_file_is_unchanged(self, changes):
        assert changes(hard_link("n", "f")) == ["A /n"]

    def test_a_deleted_name_leaves_the_others_unchanged(self, changes):
        assert changes(gone("h1")) == ["D /h1"]

    def test_changed_content_shows_at_every_name(self, changes):
        news = (file("h1", "new\n"), hard_link("h2", "h1"), hard_link("d/h3", "h1"))
        assert changes(*news) == ["C /d/h3", "C /h1", "C /h2"]

    def test_the_size_of_a_file_counts_once(self, tmp_path):
        old = merged(tmp_path)
        new = merged(tmp_path, tar(file("a", "1234"), hard_link("b", "a"), file("c", "12")))
        assert [(change.path, change.size) for change in compare(old, new)] == [(b"a", 4), (b"b", 0), (b"c", 2)]
