"""The layers of a graph's images as archives, and their checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import time

import pytest
from graph_support import chain, fake_tar, image, layer, read_view_of

from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm
from lamella.formats.docker_graph.sidefile import parse_repositories
from support.building import directory, file, gone, hard_link, opaque, symlink, tar
from support.trees import assert_same, read_directory, read_view


class TestChecksums:
    def test_the_stored_archive_counts(self, graph):
        data = gzip.compress(tar(file("a", "text")))
        made = graph.create(io.BytesIO(data))
        expected = "sha256:" + hashlib.sha256(made.record.json + b"\n" + data).hexdigest()
        assert graph.get(made.id).checksum() == expected
        assert json.loads((graph.root / "checksums").read_bytes()) == {made.id: expected}

    def test_without_one_it_can_be_made_again(self, any_graph):
        made = any_graph.register(
            image(), layer(directory("d"), file("d/a", "1"), symlink("l", "d"), hard_link("h", "d/a"))
        )
        first = any_graph.get(made.id)._compute()
        os.utime(made.layer() / "d/a", (1, (made.layer() / "d/a").stat().st_mtime))
        assert any_graph.get(made.id)._compute() == first

    def test_what_is_kept_wins_unless_it_is_empty(self, graph):
        one, two = graph.create(None), graph.create(None)
        graph.update_checksums({one.id: "sha256:kept", two.id: ""})
        assert one.checksum() == "sha256:kept"
        assert two.checksum().startswith("sha256:")
        assert graph.update_checksums({one.id: "sha256:other"})[one.id] == "sha256:kept"

    def test_an_empty_one_in_the_file_is_none(self, graph):
        made = graph.create(None)
        (graph.root / "checksums").write_text(json.dumps({made.id: ""}))
        assert len(made.checksum()) == 71

    def test_a_damaged_file_is_used_as_far_as_it_goes_and_kept(self, graph, noted):
        made = graph.create(None)
        damaged = b'{"aaaa":"sha256:one","bbbb":"sha256:tw'
        (graph.root / "checksums").write_bytes(damaged)
        sum = made.checksum()
        assert graph.checksums() == {"aaaa": "sha256:one", made.id: sum}
        assert (graph.root / "checksums.damaged-1").read_bytes() == damaged
        assert any("checksums is damaged, 1 checksums are used" in note for note in noted.notes)
        (graph.root / "checksums").write_bytes(damaged)
        graph.update_checksums({"aaaa": "sha256:one"})
        assert json.loads((graph.root / "checksums").read_bytes()) == {"aaaa": "sha256:one"}

    @pytest.mark.timeout(60)
    def test_damage_that_never_ends_a_string_is_gone_through_once(self, graph):
        """Seconds at the worst, where every quotation mark was tried as a beginning for days."""
        damaged = b'"aaaa":{"bbbb":"cccc","' + b'\\"' * 300_000
        (graph.root / "checksums").write_bytes(damaged)
        assert graph.checksums() == {"bbbb": "cccc"}
        assert parse_repositories(damaged)[0] == {"aaaa": {"bbbb": "cccc"}}

    def test_many_at_once(self, graph):
        images = [graph.create(layer(file(str(number)))) for number in range(8)]
        found = {}

        def work():
            for made in images:
                found.setdefault(made.id, set()).add(Graph.open(graph.root).get(made.id).checksum())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {id: {kept} for id, kept in graph.checksums().items()} == found
        assert len(found) == 8

    def test_one_computes_and_the_others_wait(self, graph):
        made, computed, all_are_there = graph.create(None), [], threading.Barrier(4)

        def compute():
            time.sleep(0.05)  # time for the others to come as far
            computed.append(1)
            return "sha256:x"

        def work():
            all_are_there.wait()
            assert Graph.open(graph.root).keep_checksum(made, compute) == "sha256:x"

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert computed == [1]

    def test_none_is_kept_of_an_image_that_was_removed_meanwhile(self, graph):
        made = graph.create(None)

        def compute():
            graph.delete(made.id)
            return "sha256:x"

        graph.keep_checksum(made, compute)
        assert graph.checksums() == {}

    def test_tarsums_of_an_image(self, graph):
        made = graph.create(fake_tar())
        assert made.tarsum().startswith("tarsum+sha256:")
        assert made.tarsum(version="1", algorithm="md5").startswith("tarsum.v1+md5:")


class TestLayers:
    """docker's TestApplyLayer and the table of what applying a layer does, on what the directories come to."""

    BASE = (
        directory("d", 0o750), file("d/a", "a"), file("d/b", "b"), file("f", "f"), directory("t"), file("t/x", "x"),
        symlink("l", "d"), file("h1", "h"), hard_link("h2", "h1"),
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("items", "gone_paths", "there"),
        [
            ([gone("f")], ["f"], {}),
            ([gone("t")], ["t", "t/x"], {}),
            ([gone("none")], [".wh.none", "none"], {}),
            ([gone("t"), directory("t"), file("t/y", "y")], ["t/x"], {"t/y": "y"}),
            ([gone("f"), file("f", "new")], [], {"f": "new"}),
            ([file("f", "new"), gone("f")], [], {"f": "new"}),
            ([directory("t"), file("t/y", "y"), opaque("t")], ["t/x", "t/.wh..wh..opq", "t/.wh..opq"], {"t/y": "y"}),
            ([opaque("d")], ["d/a", "d/b"], {}),
            ([directory("f"), file("f/in", "1")], [], {"f/in": "1"}),
            ([file("t", "now a file")], ["t/x"], {"t": "now a file"}),
            ([directory("l"), file("l/in", "1")], [], {"l/in": "1", "d/a": "a"}),
            ([file("l/through", "1")], [], {"d/through": "1", "l/through": "1"}),
            ([directory("d", 0o711)], [], {"d/a": "a"}),
            ([file("new/dir/file", "1")], [], {"new/dir/file": "1"}),
            ([file("f", "1"), file("f", "2")], [], {"f": "2"}),
            ([file(".wh..wh.aufs"), directory(".wh..wh.orph"), directory(".wh..wh.plnk")], [".wh..wh.aufs"], {}),
            ([hard_link("h3", "h1")], [], {"h3": "h"}),
            ([file(".wh..wh.plnk/1.2", "p"), hard_link("p1", ".wh..wh.plnk/1.2"), hard_link("p2", ".wh..wh.plnk/1.2")],
             [".wh..wh.plnk"], {"p1": "p", "p2": "p"}),
        ],
    )  # fmt: skip
    def test_applying(self, any_graph, items, gone_paths, there):
        base = any_graph.register(image(), layer(*self.BASE))
        child = any_graph.register(image(parent=base.id), layer(*items))
        view = TreeView(any_graph.get(child.id).tree())
        for path in gone_paths:
            assert not view.exists(path, follow=False), path
        for path, content in there.items():
            assert view.open(path).read().decode() == content
        if any_graph.layout.form is GraphForm.VFS:
            assert_same(read_view(view), read_directory(child.layer()))
        out = io.BytesIO()
        any_graph.get(child.id).tar_layer(out.write)
        again = any_graph.register(image(parent=base.id), io.BytesIO(out.getvalue()))
        assert_same(read_view_of(again), read_view_of(child))

    def test_a_directory_over_a_directory_has_the_mode_owner_and_time_of_its_entry(self, any_graph):
        base = any_graph.register(image(), layer(*self.BASE))
        child = any_graph.register(image(parent=base.id), layer(directory("d", 0o711, owner=(3, 4), mtime=7)))
        found = TreeView(any_graph.get(child.id).tree()).stat("d")
        assert (found.mode, found.uid, found.gid, found.mtime) == (0o711, 3, 4, 7_000_000_000)

    def test_a_member_that_leads_outside_is_refused(self, any_graph, disk):
        for items in ([file("../x")], [file("a/../../x")]):
            with pytest.raises(errors.InvalidInput):
                any_graph.register(image(), layer(*items))
        made = any_graph.register(image(), layer(symlink("out", str(disk)), file("out/x", "1")))
        assert not (disk / "x").exists()
        assert set(read_view_of(made)) >= {b"out"}

    def test_a_link_to_an_aufs_pseudo_link_that_is_not_there(self, graph):
        with pytest.raises(errors.InvalidInput, match="pseudo-link"):
            graph.register(image(), layer(hard_link("a", ".wh..wh.plnk/1.2")))

    def test_a_missing_parent_directory_is_0755(self, any_graph):
        made = any_graph.register(image(), layer(file("new/dir/file")))
        assert (made.layer() / "new").stat().st_mode & 0o7777 == 0o755
        assert (made.layer() / "new/dir").stat().st_mode & 0o7777 == 0o755

    def test_global_headers_and_mixed_headers_are_read(self, graph, tmp_path):
        """docker's TestTypeXGlobalHeaderDoesNotFail and TestUntarUstarGnuConflict."""
        (tmp_path / ("long" * 40)).write_text("x")
        done = subprocess.run(
            ["tar", "-C", tmp_path, "--format=gnu", "-c", "."], capture_output=True, check=True
        ).stdout
        assert (("long" * 40).encode()) in read_view_of(graph.register(image(), io.BytesIO(done)))
        done = subprocess.run(
            ["tar", "-C", tmp_path, "--format=pax", "--pax-option=globexthdr.comment=x,comment=x", "-c", "."],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        assert len(read_view_of(graph.register(image(), io.BytesIO(done)))) == 2

    def test_of_a_whole_tree_nothing_below_its_parents_is_read(self, disk):
        graph = Graph.open(disk / "graph", form=GraphForm.VFS)
        base, _, top = chain(graph, 3)
        (disk / "vfs" / "dir" / base.id / "f0").unlink()
        (disk / "vfs" / "dir" / base.id).rmdir()
        found = io.BytesIO()
        top.tar_layer(found.write)
        with tarfile.open(fileobj=io.BytesIO(found.getvalue())) as archive:
            assert [member for member in archive.getnames() if member.startswith("f")] == ["f2"]
        assert sorted(path for path, _ in top.tree().walk() if path) == [b"f0", b"f1", b"f2"]

    def test_the_archive_of_a_layer_has_no_trace_of_aufs(self, graph):
        base = graph.register(image(), layer(*self.BASE))
        child = graph.register(image(parent=base.id), layer(gone("f"), file("new")))
        (child.layer() / ".wh..wh.orph").mkdir()
        (child.layer() / ".wh..wh.aufs").touch()
        out = io.BytesIO()
        child.tar_layer(out.write)
        out.seek(0)
        with tarfile.open(fileobj=out) as archive:
            assert archive.getnames() == [".", ".wh.f", "new"]
