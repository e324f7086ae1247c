"""Images as a graph: parents, children, heads, history, and which layer did what."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lamella import Recipe
from lamella.errors import InvalidInput
from support import building


@pytest.fixture
def line(store, disk):
    """Four images, each committed on the one before, and a branch."""
    base = store.import_rootfs(_rootfs(disk), "base", recipe=Recipe(comment="the base", author="me"))
    one = commit(store, base, "one", {"one": "1" * 10, "etc/motd": "hello"}, author="me", comment="say hello")
    two = commit(store, one, "two", {"etc/motd": "bye"}, comment="say bye")
    label = commit(store, two, "label", {}, recipe=Recipe(changes=("LABEL a=b",), comment="a label only"))
    branch = commit(store, one, "branch", {"branch": "b"})
    return base, one, two, label, branch


def _rootfs(disk):
    path = disk / "rootfs.tar"
    path.write_bytes(building.tar(building.directory("etc"), building.file("etc/motd", "first"), building.file("old")))
    return path


def commit(store, parent, name, files, **arguments):
    with store.prepare(parent, driver="copy") as snapshot:
        for path, text in files.items():
            (snapshot.upper / path).write_text(text)
        image = snapshot.commit(name, **arguments)
        snapshot.remove()
    return image


def test_parents_and_children(line, store):
    base, one, two, label, branch = line
    assert base.parent is None
    assert base.children == [one]
    assert one.children == [two, branch]
    assert list(label.ancestors()) == [label, two, one, base]
    assert store.graph.heads() == [label, branch]
    assert store.graph.by_parent() == {base.digest: [one], one.digest: [two, branch], two.digest: [label]}


def test_history_tells_every_step_with_its_layer_its_size_and_its_image(line):
    base, one, two, label, _ = line
    steps = label.history()
    assert [step.comment for step in steps] == ["the base", "say hello", "say bye", "a label only"]
    assert [step.author for step in steps] == ["me", "me", "", ""]
    assert [step.size for step in steps] == [5, 15, 3, 0]
    assert [step.layer for step in steps] == [*label.diff_ids, None]
    assert [step.image for step in steps] == [base.id, one.id, two.id, label.id]
    assert all(step.created is not None and step.created <= datetime.now(UTC) for step in steps)


def test_a_commit_without_changes_to_files_has_no_layer_of_its_own(line):
    _, _, two, label, _ = line
    assert label.diff_ids == two.diff_ids
    assert label.labels == {"a": "b"}
    assert label.config.fields["history"][-1]["empty_layer"] is True


def test_sizes(line):
    base, one, two, _, _ = line
    assert (base.size, one.size, two.size) == (5, 20, 23)
    assert two.compressed_size == sum(layer.size for layer in two.layers)


def test_provenance(line):
    branch = line[4]
    two = line[2]
    assert [(step.layer, step.action) for _, step in two.provenance("etc/motd")] == [(0, "A"), (1, "C"), (2, "C")]
    assert [(record.diff_id, step.action) for record, step in branch.provenance("/branch")] == [
        (branch.diff_ids[2], "A")
    ]
    assert two.provenance("not/there") == []


def test_changes_against_any_image(line):
    base, one, two, label, branch = line
    assert [str(change) for change in two.changes()] == ["C /etc/motd"]
    assert [str(change) for change in label.changes()] == []
    assert [str(change) for change in two.changes(base)] == ["C /etc/motd", "A /one"]
    assert [str(change) for change in base.changes(two)] == ["C /etc/motd", "D /one"]
    assert [str(change) for change in branch.changes(two)] == ["A /branch", "C /etc/motd"]
    assert [str(change) for change in base.changes()] == ["A /etc", "A /etc/motd", "A /old"]
    assert [(change.path, change.size) for change in one.changes()] == [(b"etc/motd", 5), (b"one", 10)]


def test_a_loaded_image_tells_its_history_and_has_no_parent(store, untold_layers):
    image = store.image("it")
    steps = image.history()
    assert image.parent is None
    assert [(step.created_by, step.layer) for step in steps] == [
        ("first", image.diff_ids[0]),
        ("nothing", None),
        ("second", image.diff_ids[1]),
        ("", image.diff_ids[2]),
    ]
    assert [step.size for step in steps] == [3, 0, 4, 5]
    assert steps[-1].image == image.id


@pytest.fixture
def untold_layers(store, disk):
    """Three layers, of which the history tells two, and a step without a layer between them."""
    layers = [building.tar(building.file(f"f{size}", "x" * size)) for size in (3, 4, 5)]
    history = [{"created_by": "first"}, {"created_by": "nothing", "empty_layer": True}, {"created_by": "second"}]
    store.load(building.layout(disk / "layout", layers, config={"history": history}))


def test_a_child_of_it_tells_of_all_layers(store, untold_layers):
    child = commit(store, store.image("it"), "child", {"new": "n"}, comment="mine")
    assert [step.layer for step in child.history() if step.layer] == list(child.diff_ids)
    assert child.history()[-1].comment == "mine"
    told = [step for step in child.config.fields["history"] if not step.get("empty_layer")]
    assert len(told) == len(child.diff_ids)


def test_a_recipe_with_arguments_beside_it_is_refused(store, line):
    with pytest.raises(InvalidInput):
        commit(store, line[0], "x", {}, author="me", recipe=Recipe())
    store.snapshots()[0].remove()


def test_the_graph_survives_the_store_being_opened_again(store, line):
    import lamella

    with lamella.Store.open(store.root) as other:
        assert [image.digest for image in other.image("label").ancestors()] == [
            image.digest for image in line[3].ancestors()
        ]
        assert other.image("one").children == [line[2], line[4]]
