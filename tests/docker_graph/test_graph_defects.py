"""The defects of docker's image system of 2013, each by its number in the list that this package was written against.

Each is shown to be absent, here or in the test that ``ELSEWHERE`` names. Where a script may rely on the old way there
is a switch, which is told here too.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from graph_support import chain, fake_tar, image, layer

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage, Record, TruncIndex, generate_id, tarsum
from lamella.formats.docker_graph.union import changes
from lamella.layers.compare import compare
from support.building import directory, file, gone, hard_link, opaque, symlink, tar

ELSEWHERE = {
    13: ("docker_graph/test_graph_cli.py", "test_history"),
    14: ("registry/test_registry_v1.py", "test_every_tag_is_of_its_image_alone_and_shared_ancestors_are_sent_once"),
    15: ("registry/test_registry_v1.py", "test_parents_are_fetched_before_children"),
    16: ("registry/test_registry_v1.py", "test_every_status_at_every_call_is_a_typed_error"),
    27: ("formats/test_docker_legacy.py", "test_saved_again_it_has_the_same_ids_records_and_tags"),
    28: ("docker_graph/test_graph_mount.py", "test_127_layers_are_one_branch_too_many"),
    30: ("registry/test_registry_v1.py", "test_nobody_else_is_spoken_to_in_plain_http_because_tls_failed"),
}


@pytest.mark.parametrize("number", sorted(ELSEWHERE))
def test_the_test_of_a_defect_is_there(number):
    path, name = ELSEWHERE[number]
    tree = ast.parse((Path(__file__).parents[1] / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_01_an_id_never_leads_out_of_the_graph(graph, disk):
    before = sorted(disk.rglob("*"))
    for id in ("../x", "..", "/etc", "a/../../x"):
        with pytest.raises(errors.InvalidInput):
            graph.register(GraphImage.from_json(json.dumps({"id": id}).encode()), fake_tar())
    assert sorted(disk.rglob("*")) == before


def test_02_an_id_with_a_space_is_refused_before_anything_is_written(graph):
    with pytest.raises(errors.InvalidInput):
        graph.register(image("a b"), fake_tar())
    assert graph.ids() == []


def test_03_the_index_never_crashes_and_an_exact_id_is_always_found():
    with pytest.raises(errors.InvalidInput):
        TruncIndex().get("")
    index = TruncIndex(["aa", "aab"])
    assert index.get("aa") == "aa"
    index.delete("aa")
    assert index.get("a") == "aab"


def test_04_a_graph_that_is_opened_again_has_images_only(graph):
    made = graph.create(fake_tar())
    made.checksum()
    assert sorted(os.listdir(graph.root)) == sorted([":tmp:", "checksums", made.id])
    assert Graph.open(graph.root).ids() == [made.id]


def test_05_all_children_are_kept(graph):
    base = graph.create(None)
    children = [graph.create(None, parent=base.id).id for _ in range(3)]
    assert sorted(child.id for child in graph.by_parent()[base.id]) == sorted(children)


def test_06_a_tag_is_not_overwritten_unless_forced(graph):
    one, two = graph.create(None), graph.create(None)
    graph.tags.set("r", "t", one.id)
    with pytest.raises(errors.Conflict):
        graph.tags.set("r", "t", two.id)
    assert graph.tags.set("r", "t", two.id, force=True) == two


def test_07_removing_leaves_no_dangling_tags_and_no_orphans_unless_asked_to(graph):
    base, child = chain(graph, 2)
    graph.tags.set("r", "t", child.id)
    with pytest.raises(errors.FailedPrecondition):
        graph.delete(base.id)
    graph.delete(child.id, force=True)
    assert graph.tags.repositories == {}
    base, child = chain(graph, 2)
    graph.delete(base.id, orphans=True)
    assert graph.get(child.id).parent == base.id, "the switch: what 0.4.0 did"


def test_08_an_image_whose_removal_fails_is_found_afterwards(graph, monkeypatch):
    made = graph.create(None)
    rename = os.rename

    def failing(source, *arguments, **named):
        if Path(source) == made.root():
            raise PermissionError(1, "Operation not permitted")
        return rename(source, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(errors.AccessDenied):
            graph.delete(made.id)
    assert graph.get(made.short_id) == made


def test_09_an_empty_checksum_is_none(graph):
    made, other = graph.create(fake_tar()), graph.create(None)
    graph.update_checksums({made.id: "", other.id: "sha256:x"})
    assert json.loads((graph.root / "checksums").read_bytes()) == {other.id: "sha256:x"}
    (graph.root / "checksums").write_text(json.dumps({made.id: ""}))
    assert made.checksum().startswith("sha256:")


@pytest.mark.parametrize("damaged", [b"", b'{"Repositories":{"r":{"t":"', b"null", b"\0" * 9])
def test_10_damaged_files_stop_nothing_and_new_ones_come_whole(graph, noted, damaged):
    made = graph.create(fake_tar())
    (graph.root / "checksums").write_bytes(damaged)
    graph.tags.path.write_bytes(damaged)
    opened = Graph.open(graph.root, progress=noted)
    assert opened.get(made.id).checksum()
    opened.tags.set("r", "t", made.id)
    for path in (graph.root / "checksums", graph.tags.path):
        with open(path, "rb") as before:
            text = before.read()
            graph.update_checksums({generate_id(): "sha256:x"})
            opened.tags.set(path.name, "t", made.id)
            before.seek(0)
            assert before.read() == text != path.read_bytes(), "replaced as a whole, never written in place"


def test_11_an_archive_that_is_made_again_is_the_same(graph, disk):
    items = (directory("d"), file("d/a", "1"), symlink("l", "d"), hard_link("h", "d/a"))
    record = image()
    one = graph.register(record, layer(*items))
    two = Graph.open(disk / "other").register(record, layer(*items))
    assert one.checksum() == two.checksum()
    (graph.root / "checksums").unlink()
    assert one.checksum() == two.checksum()


def test_12_and_35_many_registers_of_one_image_at_once(any_graph):
    graph, wanted, outcomes = any_graph, image(), []

    def work():
        try:
            Graph.open(graph.root, form=graph.layout.form).register(
                wanted, layer(*(file(f"f{number}", "x" * 999) for number in range(50)))
            )
            outcomes.append("made")
        except errors.AlreadyExists:
            outcomes.append("there")

    def finished():
        with suppress(FileNotFoundError):  # a directory that was swept before its maker had locked it is made anew
            return len(list(graph.layout.temporary.glob("*/*/json")))
        return 0

    threads = [threading.Thread(target=work) for _ in range(6)]
    with graph.locked():  # all of them get to the end, where one comes first
        for thread in threads:
            thread.start()
        while finished() < len(threads):
            time.sleep(0.01)
        assert graph.ids() == outcomes == []
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", *["there"] * 5]
    assert len(list(TreeView(graph.get(wanted.id).tree()).walk())) == 51


def test_15_a_child_without_its_parent_is_refused(graph):
    with pytest.raises(errors.FailedPrecondition):
        graph.register(image(parent=generate_id()), fake_tar())


def test_15_a_child_is_refused_whose_parent_goes_while_its_layer_comes(any_graph):
    parent = any_graph.create(fake_tar())

    class Slow(io.BytesIO):
        def read(self, size=-1):
            if any_graph.exists(parent.id):
                any_graph.delete(parent.id)
            return super().read(size)

    with pytest.raises(errors.FailedPrecondition):
        any_graph.register(image(parent=parent.id), Slow(tar(file("a"))))
    assert any_graph.ids() == []


def test_17_changes_of_aufs_branches(disk):
    below, above, rw = disk / "below", disk / "above", disk / "rw"
    for path in (below / "d", above, rw / "d", rw / ".wh..wh.plnk", rw / "was-file", disk / "host"):
        path.mkdir(parents=True)
    (below / "d/old").touch()
    (below / "was-file").touch()
    (below / "again").touch()
    (below / "link").symlink_to(disk / "host")
    (above / ".wh.again").touch()
    (rw / ".wh..wh.plnk/1.2").touch()
    (rw / "d/.wh..wh..opq").touch()
    (rw / "was-file/in").touch()
    (rw / "again").touch()
    (rw / "link").symlink_to("new")
    os.utime(rw / "d", ns=(0, (below / "d").stat().st_mtime_ns))
    assert [str(change) for change in changes([above, below], rw)] == [
        "A /again", "D /d/old", "C /link", "C /was-file", "A /was-file/in",
    ]  # fmt: skip


def test_18_opaque_directories_count_in_every_form(any_graph):
    base = any_graph.create(layer(directory("d"), file("d/old")))
    child = any_graph.create(layer(directory("d"), opaque("d"), file("d/new")), parent=base.id)
    assert [info.path for info in TreeView(child.tree()).walk()] == [b"", b"d", b"d/new"]


def test_19_hard_links_stay_links(any_graph):
    base = any_graph.create(layer(file("a", "1"), hard_link("b", "a")))
    out = io.BytesIO()
    base.tar_layer(out.write)
    again = any_graph.create(io.BytesIO(out.getvalue()))
    view = TreeView(again.tree())
    assert view.stat("a").links == 2
    assert view.stat("a").inode == view.stat("b").inode


def test_19_hard_links_stay_links_across_layers(any_graph):
    base = any_graph.create(layer(directory("d", 0o750), file("d/a", "1"), file("d/other", "2")))
    child = any_graph.create(layer(directory("e"), hard_link("e/b", "d/a")), parent=base.id)
    out = io.BytesIO()
    child.tar_layer(out.write)
    again = any_graph.create(io.BytesIO(out.getvalue()), parent=base.id)
    for found in (child, again):
        view = TreeView(found.tree())
        assert view.stat("d/a").links == 2
        assert view.stat("d/a").inode == view.stat("e/b").inode
        assert view.stat("d").mode == 0o750
        assert view.open("d/other").read() == b"2"
        assert [str(change) for change in compare(*found.trees())] == ["A /e", "A /e/b"]


def test_20_missing_parents_can_be_entered(any_graph):
    made = any_graph.create(layer(file("a/b/c")))
    assert TreeView(made.tree()).stat("a/b").mode == 0o755


def test_21_extraction_never_leaves_the_layer(any_graph, disk):
    with pytest.raises(errors.InvalidInput):
        any_graph.create(layer(file("../x")))
    any_graph.create(layer(symlink("s", str(disk)), file("s/x")))
    any_graph.create(layer(symlink("s", "../../../../../../.."), file("s/lamella-was-here")))
    assert not (disk / "x").exists()
    assert not Path("/lamella-was-here").exists()


@pytest.mark.parametrize("form", [GraphForm.AUFS, GraphForm.VFS])
def test_22_registering_what_is_there_takes_nothing_away(disk, form):
    graph = Graph.open(disk / "graph", form=form)
    made, other = graph.create(fake_tar()), graph.create(fake_tar())
    for wanted, kind in ((made, errors.AlreadyExists), (GraphImage(Record()), errors.InvalidInput)):
        with pytest.raises(kind):
            graph.register(wanted, fake_tar())
    for found in (made, other):
        assert TreeView(found.tree()).exists("etc/passwd")


def test_23_the_size_in_a_record_is_not_believed(any_graph):
    record = Record(id=generate_id(), size=1 << 40).render((0, 6, 0))
    made = any_graph.register(GraphImage.from_json(record), layer(file("a", "123")))
    assert any_graph.get(made.id).record.size == 1 << 40
    assert any_graph.get(made.id).size == 3


def test_24_hard_links_are_counted_once(any_graph):
    assert any_graph.create(layer(file("a", "12345"), hard_link("b", "a"), hard_link("c", "a"))).size == 5


def test_25_names_with_a_port_are_taken_apart_rightly(graph):
    made = graph.create(None)
    graph.tags.set("host:5000/x", "t", made.id)
    assert graph.tags.lookup("host:5000/x:t") == made
    assert graph.tags.delete_all(made.id) == ["host:5000/x:t"]


def test_26_the_beginning_of_an_id_is_no_tag(graph):
    made = graph.create(None)
    graph.tags.set("base", "x", made.id)
    with pytest.raises(errors.NotFound):
        graph.tags.lookup(f"base:{made.id[:4]}")
    assert graph.tags.lookup(f"base:{made.id}") == made, "only a whole id is"


def test_29_a_graph_keeps_the_configuration_that_it_is_given(graph):
    """Commits that lose it, and that do not stop what writes, belong to containers, of which there are none here."""
    from lamella.formats.docker_graph import Config

    config = Config.of(Cmd=["run"], Env=["A=1"])
    assert graph.get(graph.create(None, config=config).id).record.config == config


def test_31_tarsum_is_kept_for_what_was_published_with_it_and_proves_nothing_here():
    """Its weakness is its definition; ids and digests of the store rest on sha256 of the bytes alone."""
    a, b = file("a", "1"), file("b", "2")
    assert tarsum(layer(a, b)) == tarsum(layer(b, a))
    with pytest.raises(errors.Integrity):
        tarsum(io.BytesIO(tar(a)[:700]))


def test_32_an_image_is_what_it_was_first_whatever_comes_by_its_id(graph):
    made = graph.create(layer(file("a", "first")))
    with pytest.raises(errors.AlreadyExists):
        graph.register(made, layer(file("a", "poison")))
    assert TreeView(made.tree()).open("a").read() == b"first"


def test_33_texts_are_whole(graph):
    made = graph.create(None)
    with pytest.raises(errors.AlreadyExists) as caught:
        graph.register(made, None)
    assert str(caught.value) == f"Image {made.id} already exists"


def test_34_no_temporary_is_left_by_what_fails(graph):
    made = graph.create(fake_tar())
    with made.open_layer():
        pass
    with pytest.raises(errors.Integrity):
        graph.create(io.BytesIO(gzip.compress(tar(gone("x"), file("y", "y" * 9000)))[:-20]))
    assert list(graph.layout.temporary.iterdir()) == []


def test_the_text_of_a_checksum_is_that_of_2013(graph):
    data = tar(file("a"))
    made = graph.create(io.BytesIO(data))
    assert made.checksum() == "sha256:" + hashlib.sha256(made.record.json + b"\n" + data).hexdigest()


def test_every_defect_has_its_test():
    here = ast.parse(Path(__file__).read_text())
    numbers = set(ELSEWHERE)
    for node in ast.walk(here):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            numbers |= {int(word) for word in node.name.split("_")[1:4] if word.isdigit()}
    assert numbers == set(range(1, 36))
