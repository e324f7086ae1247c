"""What goes and what stays when images are removed."""

from __future__ import annotations

import pytest

from lamella.errors import FailedPrecondition, NotFound
from support import building


@pytest.fixture
def app(store, disk):
    """An image with one name."""
    store.load(building.layout(disk / "app", [building.tar(building.file("f", "base"))], tag="app"))
    return store.image("app")


def child_of(store, parent, name, text="child"):
    """An image committed on another one."""
    with store.prepare(parent, driver="copy") as snapshot:
        (snapshot.upper / text).write_text(text)
        child = snapshot.commit(name)
        snapshot.remove()
    return child


def blobs(store):
    return {path.name for path in (store.root / "blobs").glob("*/*")}


def layers(store):
    return {path.name for path in (store.root / "layers").glob("*")}


class TestNames:
    def test_one_name_of_several_goes_and_the_image_stays(self, store, app):
        store.tag("app", "other:1")
        removed = store.remove(["app"])
        assert removed.untagged == ("app:latest",)
        assert removed.report.items == []
        assert store.image("other:1") == app
        assert not store.exists("app")

    def test_the_last_name_takes_the_image_with_it(self, store, app):
        removed = store.remove(["app"])
        assert removed.untagged == ("app:latest",)
        assert {item.kind for item in removed.report.items} == {"blob", "layer"}
        assert (blobs(store), layers(store), store.images()) == (set(), set(), [])

    def test_by_id_an_image_with_several_names_is_refused(self, store, app):
        store.tag("app", "other:1")
        with pytest.raises(FailedPrecondition, match="app:latest, other:1") as refused:
            store.remove([app.id.hex])
        assert refused.value.code == "image-named"
        assert store.remove([app.id.hex], force=True).untagged == ("app:latest", "other:1")
        assert blobs(store) == set()

    def test_by_id_an_image_without_a_name_goes(self, store, disk):
        store.load(building.layout(disk / "nameless", [building.tar()], tag=None))
        store.remove([store.images()[0].short_id])
        assert store.images() == []

    def test_all_go_or_none(self, store, app):
        with pytest.raises(NotFound):
            store.remove(["app", "nothing"])
        assert store.image("app") == app
        assert not store.gc(dry_run=True).items

    def test_two_names_of_one_image_in_one_call(self, store, app):
        store.tag("app", "other")
        assert store.remove(["app", "other"]).untagged == ("app:latest", "other:latest")
        assert blobs(store) == set()

    def test_a_name_that_another_image_has_taken_leaves_the_first_as_garbage(self, store, app, disk):
        store.load(building.layout(disk / "new", [building.tar(building.file("g"))], tag="app"))
        assert store.image("app") != app
        assert store.image(app.id.hex).names == []
        assert {item.kind for item in store.gc().items} == {"blob", "layer"}
        assert [image.names for image in store.images()] == [["app:latest"]]


class TestChildren:
    def test_an_image_with_children_is_refused_naming_them(self, store, app):
        child_of(store, app, "me/child")
        with pytest.raises(FailedPrecondition, match="me/child:latest") as refused:
            store.remove(["app"])
        assert refused.value.code == "image-in-use"
        assert store.image("app") == app

    def test_forced_the_name_goes_and_the_image_stays_for_its_child(self, store, app):
        child = child_of(store, app, "child")
        assert store.remove(["app"], force=True).untagged == ("app:latest",)
        assert store.gc().items == []
        assert store.image("child").parent == app
        assert store.image("child").open("f").read() == b"base"
        assert store.images() == [app, child]

    @pytest.mark.parametrize("order", [("app", "middle", "last"), ("last", "middle", "app"), ("middle", "app", "last")])
    def test_a_whole_line_goes_in_one_call(self, store, app, order):
        child_of(store, child_of(store, app, "middle", "m"), "last", "l")
        with pytest.raises(FailedPrecondition, match="last:latest"):
            store.remove(["app", "middle"])
        assert len(store.images()) == 3
        assert store.remove(order).untagged == tuple(f"{name}:latest" for name in order)
        assert (store.images(), blobs(store), layers(store)) == ([], set(), set())

    def test_with_the_last_child_a_parent_without_names_goes_too(self, store, app):
        child_of(store, app, "one", "one")
        child_of(store, app, "two", "two")
        store.remove(["app"], force=True)
        store.remove(["one"])
        assert store.image(app.id.hex) == app
        store.remove(["two"])
        assert blobs(store) == set()

    def test_a_parent_with_a_name_stays(self, store, app):
        child_of(store, app, "child")
        store.remove(["child"])
        assert store.images() == [app]
        assert len(blobs(store)) == 3

    def test_a_layer_that_another_image_has_stays(self, store, app):
        child = child_of(store, app, "child")
        store.remove(["app"], force=True)
        store.remove(["child"])
        assert layers(store) == set()
        assert not store.content.exists(child.layers[0].digest)

    def test_in_the_middle_of_a_line(self, store, app):
        middle = child_of(store, app, "middle", "m")
        last = child_of(store, middle, "last", "l")
        store.remove(["middle"], force=True)
        assert [image.id for image in last.ancestors()] == [last.id, middle.id, app.id]
        store.remove(["last"])
        assert store.images() == [app]


class TestSnapshots:
    def test_an_image_with_snapshots_is_refused_naming_them(self, store, app):
        store.prepare(app, "work", driver="copy")
        with pytest.raises(FailedPrecondition, match="snapshot work") as refused:
            store.remove(["app"])
        assert refused.value.code == "image-in-use"

    def test_forced_the_snapshot_goes_on_working(self, store, app, driver):
        snapshot = store.prepare(app, "work", driver=driver)
        store.remove(["app"], force=True)
        assert store.gc().items == []
        with snapshot.mount() as root:
            (root / "new").write_text("new")
            assert (root / "f").read_text() == "base"
        child = snapshot.commit("child")
        assert child.parent == app
        snapshot.remove()
        store.remove(["child"])
        store.gc()
        assert blobs(store) == set()

    def test_when_the_last_snapshot_goes_the_image_is_garbage(self, store, app):
        snapshot = store.prepare(app, "work", driver="copy")
        store.remove(["app"], force=True)
        snapshot.remove()
        assert {item.kind for item in store.gc().items} == {"blob", "layer"}
        assert blobs(store) == set()


class TestIndexes:
    @pytest.fixture
    def index(self, store, real_layout):
        store.load(real_layout("hello-world-10-platforms"), name="hello")
        return store.graph.find_document("hello")

    def test_an_index_goes_with_all_its_images(self, store, index):
        assert len(store.images()) == 10
        store.remove(["hello"])
        assert (store.images(), blobs(store), layers(store)) == ([], set(), set())

    def test_an_image_of_an_index_that_has_a_name_of_its_own_stays(self, store, index):
        image = store.image("hello")
        store.tag(str(image.digest), "mine")
        store.remove(["hello"])
        assert store.images() == [image]
        assert store.image("mine").open("hello").read()
        assert len(blobs(store)) == 3

    def test_an_index_one_of_whose_images_has_a_child_is_refused(self, store, index):
        child_of(store, store.image("hello"), "child")
        with pytest.raises(FailedPrecondition, match="child:latest"):
            store.remove(["hello"])

    def test_an_image_that_an_index_lists_stays_with_it(self, store, index):
        image = store.images()[3]
        with pytest.raises(FailedPrecondition) as refused:
            store.remove([str(image.digest)])
        assert refused.value.code == "image-in-use"
        assert "hello:latest" in str(refused.value)
        assert len(store.images()) == 10
