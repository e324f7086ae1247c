"""Mounting images of a graph as docker did: by AUFS, to the letter, or by what else there is, with the same result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from graph_support import image, layer

from _machine import place_for_all, run_as_nobody
from lamella import TreeView, errors
from lamella.formats.docker_graph import Graph, GraphForm, Record, branch, stacks, union
from lamella.formats.docker_graph.branch import Branch
from lamella.formats.docker_graph.union import mounted, unmount
from lamella.mounts import mount as mounting
from lamella.mounts.model import Form
from support import needs
from support.building import directory, file, gone, hard_link, opaque, symlink
from support.needs import needs_root, needs_tool
from support.trees import assert_same, read_directory, read_view


@pytest.fixture
def place():
    """A directory that every user can reach and write."""
    with place_for_all() as directory:
        yield directory


@pytest.fixture(params=["overlay", "erofs", "fuse", "fuse-overlayfs", "copy", "aufs"])
def any_driver(request, disk):
    """A driver that works here."""
    needs.driver(request.param, disk)
    return request.param


@pytest.fixture(params=[GraphForm.V0_4, GraphForm.VFS], ids=lambda form: form.name)
def stack(request, disk):
    """An image whose layers delete, replace and add."""
    graph = Graph.open(disk / "graph", form=request.param)
    base = graph.register(
        image(),
        layer(
            directory(".", 0o755), directory("d", 0o750), file("d/a", "a"), file("d/b", "b"), file("gone", "x"),
            directory("opq"), file("opq/old", "1"), symlink("l", "d"), file("h1", "h"), hard_link("h2", "h1"),
        ),
    )  # fmt: skip
    middle = graph.register(
        image(parent=base.id), layer(gone("gone"), directory("opq"), opaque("opq"), file("opq/new", "2"))
    )
    return graph.register(image(parent=middle.id), layer(file("d/c", "c"), gone("d/b"), file("top")))


@needs_root
class TestMounting:
    def test_everything(self, stack, any_driver, disk):
        """docker's TestMount, and what it did not look at."""
        root, rw = disk / "rootfs", disk / "rw"
        assert not mounted(root)
        done = stack.mount(root, rw, driver=any_driver)
        try:
            assert done.driver == any_driver
            assert mounted(root)
            assert_same(read_directory(done.root, hidden=["trusted.", "user."]), read_view(TreeView(stack.tree())))
            assert [str(change) for change in stack.changes(rw)] == []
            (done.root / "d/a").unlink()
            (done.root / "new").write_text("new")
            (done.root / "d/c").write_text("changed")
            (done.root / "opq/new").unlink()
            (done.root / "opq").rmdir()
            (done.root / "opq").mkdir()
            expected = ["C /d", "D /d/a", "C /d/c", "A /new", "C /opq", "D /opq/new"]
            assert [str(change) for change in stack.changes(rw)] == expected
            with pytest.raises(errors.FailedPrecondition, match=f"{root} is already mounted"):
                stack.mount(root, rw, driver=any_driver)
            before = read_directory(done.root, hidden=["trusted.", "user."])
            with pytest.raises(errors.FailedPrecondition):
                stack.mount(disk / "elsewhere", rw, driver=any_driver)
            assert_same(read_directory(done.root, hidden=["trusted.", "user."]), before)
        finally:
            unmount(root)
        assert not mounted(root)
        assert not root.exists()
        assert not (disk / ".rootfs.mount").exists()
        assert sorted(os.listdir(disk / ".rw.union")) == ["form"]
        assert [str(change) for change in stack.changes(rw)] == expected
        with pytest.raises(errors.FailedPrecondition, match=f"Umount: Failed to umount {root}"):
            unmount(root)

    def test_again_with_another_driver(self, stack, disk):
        """What was written stays the same, whatever it is mounted with next."""
        needs.driver("overlay", disk)
        root, rw = disk / "rootfs", disk / "rw"
        rw.mkdir()
        (rw / ".wh.top").touch()
        (rw / "d").mkdir()
        (rw / "d/.wh.a").touch()
        (rw / "d/x").write_text("x")
        (rw / "d").chmod(0o750)
        before = [str(change) for change in stack.changes(rw)]
        assert before == ["C /d", "D /d/a", "A /d/x", "D /top"]
        forms = []
        for driver in ("overlay", "copy", "overlay", "copy"):
            done = stack.mount(root, rw, driver=driver)
            try:
                assert sorted(os.listdir(done.root / "d")) == ["c", "x"]
                assert not (done.root / "top").exists()
            finally:
                unmount(root)
            assert [str(change) for change in stack.changes(rw)] == before
            forms.append(Branch(rw).form)
        assert forms == [Form.OVERLAY, Form.PLAIN] * 2

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("chain", [("overlay", "copy"), ("copy", "overlay")])
    def test_stopped_while_it_takes_another_form(self, stack, disk, monkeypatch, when, chain):
        """A branch whose form is being changed is in the old one or the new, and known to be in which."""
        root, rw = disk / "rootfs", disk / "rw"
        done = stack.mount(root, rw, driver=chain[0])
        (done.root / "top").unlink()
        (done.root / "new").write_text("new")
        unmount(root)
        before = [str(change) for change in stack.changes(rw)]
        assert before == ["A /new", "D /top"]

        def stopped(*arguments):
            if when == "after":
                exchange(*arguments)
            raise OSError(5, "Input/output error")

        exchange = branch.renameat2
        with monkeypatch.context() as patch:
            patch.setattr(branch, "renameat2", stopped)
            with pytest.raises(errors.Unavailable):
                stack.mount(root, rw, driver=chain[1])
        assert [str(change) for change in stack.changes(rw)] == before
        done = stack.mount(root, rw, driver=chain[1])
        assert (done.root / "new").read_text() == "new"
        assert not (done.root / "top").exists()
        unmount(root)
        assert [str(change) for change in stack.changes(rw)] == before

    def test_the_layers_of_the_graph_are_not_written_to(self, stack, disk):
        needs.driver("overlay", disk)
        before = [read_directory(path) for path in stack.layers()]
        done = stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        (done.root / "h1").write_text("changed")
        (done.root / "d/a").unlink()
        unmount(disk / "rootfs")
        assert [read_directory(path) for path in stack.layers()] == before

    def test_what_an_overlay_would_take_for_its_own_is_shown_as_it_is(self, disk):
        """A layer of AUFS may hold xattrs that mean something to an overlay, and to AUFS nothing."""
        needs.driver("overlay", disk)
        graph = Graph.open(disk / "graph")
        base = graph.register(image(), layer(directory("d"), file("d/below")))
        child = graph.register(image(parent=base.id), layer(directory("d"), file("d/above")))
        os.setxattr(child.layer() / "d", "trusted.overlay.opaque", b"y")
        done = child.mount(disk / "rootfs", disk / "rw", driver="overlay")
        try:
            assert sorted(os.listdir(done.root / "d")) == ["above", "below"]
        finally:
            unmount(disk / "rootfs")

    def test_marks_of_an_overlay_anywhere_in_a_layer(self, disk):
        """At its top; and a device that reads as a whiteout, which a union would list, and not find."""
        needs.driver("overlay", disk)
        below, opaque_top, device = disk / "below", disk / "top", disk / "device"
        for path in (below, opaque_top, device / "only"):
            path.mkdir(parents=True)
        (below / "a").touch()
        (opaque_top / "b").touch()
        os.setxattr(opaque_top, "trusted.overlay.opaque", b"y")
        os.mknod(device / "only/none", 0o020600, 0)
        done = union.mount([device, opaque_top, below], disk / "rootfs", disk / "rw", driver="overlay")
        try:
            assert sorted(os.listdir(done.root)) == ["a", "b", "only"]
            assert os.listdir(done.root / "only") == []
        finally:
            unmount(disk / "rootfs")

    def test_each_layer_is_read_once_when_layers_are_translated(self, disk, monkeypatch):
        needs.driver("overlay", disk)
        layers, read = [disk / f"layer{number}" for number in range(9)], []
        for path in layers:
            path.mkdir()
            (path / ".wh.x").touch()

        def noting(path, *arguments, **named):
            read.append(path)
            return scan(path, *arguments, **named)

        scan = stacks.scan
        monkeypatch.setattr(stacks, "scan", noting)
        union.mount(layers, disk / "rootfs", disk / "rw", driver="overlay")
        unmount(disk / "rootfs")
        assert read == layers[::-1]

    def test_another_process_unmounts(self, stack, disk):
        needs.driver("overlay", disk)
        stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        script = (
            "import sys; from pathlib import Path; from lamella.formats.docker_graph.union import unmount;"
            "unmount(Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", script, disk / "rootfs"], check=True)
        assert not mounted(disk / "rootfs")

    def test_unmounting_takes_the_copy_from_another_namespace_too(self, stack, disk):
        needs.driver("overlay", disk)
        stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as elsewhere:
            elsewhere.stdout.readline()
            places = Path(f"/proc/{elsewhere.pid}/mountinfo")
            try:
                assert str(disk / "rootfs") in places.read_text()
                unmount(disk / "rootfs")
                assert str(disk / "rootfs") not in places.read_text()
            finally:
                elsewhere.kill()
        assert os.listdir(disk / ".rw.union") == ["form"]

    def test_a_record_unmounts_nothing_else(self, stack, disk):
        needs.driver("overlay", disk)
        stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        (disk / "other").mkdir()
        (disk / ".other.mount").write_bytes((disk / ".rootfs.mount").read_bytes())
        assert not mounted(disk / "other")
        with pytest.raises(errors.FailedPrecondition):
            unmount(disk / "other")
        assert mounted(disk / "rootfs")
        (disk / ".mine.union/lowers").mkdir(parents=True)
        record = json.loads((disk / ".rootfs.mount").read_bytes())
        (disk / ".rootfs.mount").write_text(json.dumps(record | {"rw": str(disk / "mine")}))
        unmount(disk / "rootfs")
        assert (disk / ".mine.union/lowers").exists()

    def test_a_mount_of_somebody_else_can_be_unmounted(self, disk):
        root = disk / "rootfs"
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", root], check=True)
        assert mounted(root)
        unmount(root)
        assert not root.exists()

    def test_what_another_command_unmounted_is_mounted_no_more(self, stack, disk):
        needs.driver("overlay", disk)
        root = disk / "rootfs"
        stack.mount(root, disk / "rw", driver="overlay")
        subprocess.run(["umount", root], check=True)
        assert not mounted(root)
        with pytest.raises(errors.FailedPrecondition, match="not mounted"):
            unmount(root)
        stack.mount(root, disk / "rw", driver="overlay")
        unmount(root)

    def test_a_mount_that_cannot_be_recorded_is_undone(self, stack, disk):
        needs.driver("overlay", disk)
        (disk / ".rootfs.mount" / "in the way").mkdir(parents=True)
        with pytest.raises(errors.LamellaError):
            stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        assert not os.path.ismount(disk / "rootfs")

    @pytest.mark.parametrize(("root", "rw"), [("x", "x"), ("x/rootfs", "x"), ("x", "x/rw"), ("link", "x")])
    def test_mount_point_and_branch_are_two_places(self, stack, disk, root, rw):
        (disk / "x").mkdir()
        (disk / "link").symlink_to("x")
        before = sorted(os.listdir(disk))
        with pytest.raises(errors.InvalidInput) as caught:
            stack.mount(disk / root, disk / rw, driver="copy")
        assert caught.value.code == "graph-mount-places"
        assert (sorted(os.listdir(disk)), os.listdir(disk / "x")) == (before, [])

    def test_a_mount_point_with_something_in_it_is_left_as_it_was(self, stack, disk):
        needs.driver("overlay", disk)
        (disk / "rootfs").mkdir()
        (disk / "rootfs/mine").touch()
        done = stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        assert not (done.root / "mine").exists()
        unmount(disk / "rootfs")
        assert not mounted(disk / "rootfs")
        assert os.listdir(disk / "rootfs") == ["mine"]

    def test_a_busy_mount_stays(self, stack, disk):
        needs.driver("overlay", disk)
        done = stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        with open(done.root / "d/a"), pytest.raises(errors.Conflict):
            unmount(disk / "rootfs")
        assert mounted(disk / "rootfs")
        unmount(disk / "rootfs")

    @pytest.mark.parametrize("driver", ["overlay", "copy"])
    def test_the_mode_of_the_root_stays(self, stack, disk, driver):
        needs.driver(driver, disk)
        for mode in (0o755, 0o700):
            done = stack.mount(disk / "rootfs", disk / "rw", driver=driver)
            assert done.root.stat().st_mode & 0o7777 == mode
            done.root.chmod(0o700)
            unmount(disk / "rootfs")

    def test_all_that_was_deleted_stays_deleted(self, stack, disk):
        """Also from a whole tree, in which nothing is left then; a branch that is made anew has all of it again."""
        needs.driver("overlay", disk)
        names = sorted(f"D /{os.fsdecode(name)}" for name in stack.tree().root.children)
        for driver in ("copy", "overlay", "copy"):
            done = stack.mount(disk / "rootfs", disk / "rw", driver=driver)
            subprocess.run(["find", done.root, "-mindepth", "1", "-delete"], check=True)
            unmount(disk / "rootfs")
            assert [str(change) for change in stack.changes(disk / "rw")] == names
            done = stack.mount(disk / "rootfs", disk / "rw", driver=driver)
            assert os.listdir(done.root) == []
            unmount(disk / "rootfs")
        shutil.rmtree(disk / "rw")
        done = stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        assert len(os.listdir(done.root)) == len(names)
        unmount(disk / "rootfs")

    @pytest.mark.parametrize("shared", ["rootfs", "rw"])
    def test_of_many_at_once_one_mounts_and_nothing_is_lost(self, stack, disk, shared):
        needs.driver("overlay", disk)

        def work(number):
            """Mount, write and unmount some times; what was written, or None for a refusal."""
            own = {name: name if name == shared else f"{name}{number}" for name in ("rootfs", "rw")}
            written = []
            for turn in range(5):
                driver = ("overlay", "copy")[(number + turn) % 2]
                try:
                    done = stack.mount(disk / own["rootfs"], disk / own["rw"], driver=driver)
                except errors.FailedPrecondition:
                    continue
                (done.root / f"{number}-{turn}").touch()
                assert (done.root / "d/a").read_text() == "a"
                unmount(disk / own["rootfs"])
                written.append((own["rw"], f"A /{number}-{turn}"))
            return written

        with ThreadPoolExecutor(4) as pool:
            written = [item for result in pool.map(work, range(4)) for item in result]
        assert written
        for rw in {name for name, _ in written}:
            told = [str(change) for change in stack.changes(disk / rw)]
            assert sorted(told) == sorted(text for name, text in written if name == rw)
        assert sorted(name for name in os.listdir(disk) if "rootfs" in name) == []

    def test_unmounting_leaves_nothing_beside_a_branch_that_lies_elsewhere(self, stack, disk):
        needs.driver("overlay", disk)
        (disk / "other").mkdir()
        stack.mount(disk / "rootfs", disk / "other/rw", driver="overlay")
        unmount(disk / "rootfs")
        assert os.listdir(disk / "other/.rw.union") == ["form"]

    def test_a_failure_leaves_nothing_mounted_and_no_mount_point(self, stack, disk):
        needs.driver("overlay", disk)
        (disk / "plain").mkdir()
        (disk / "marked").mkdir()
        (disk / "marked/.wh.x").touch()
        with pytest.raises(errors.InvalidInput):
            union.mount([disk / "marked", disk / "plain"], disk / "rootfs", disk / "plain/rw", driver="overlay")
        assert not [name for name in os.listdir(disk) if "rootfs" in name]
        assert os.listdir(disk / "plain/.rw.union") == ["form"]

    @pytest.mark.parametrize("driver", ["overlay", "erofs", "fuse", "userns", "fuse-overlayfs", "copy"])
    def test_killed_before_it_noted_the_mount(self, stack, disk, driver):
        """The mount is known all the same, and unmounting leaves nothing."""
        needs.driver(driver, disk)
        place = [disk / "graph", stack.id, disk / "rootfs", disk / "rw", driver]
        assert subprocess.run([sys.executable, "-c", KILLED, *place], check=False).returncode == -9
        assert mounted(disk / "rootfs")
        with pytest.raises(errors.FailedPrecondition, match="is already mounted"):
            stack.mount(disk / "rootfs", disk / "rw", driver=driver)
        unmount(disk / "rootfs")
        assert not mounted(disk / "rootfs")
        assert not [name for name in os.listdir(disk) if "rootfs" in name]
        assert os.listdir(disk / ".rw.union") == ["form"]
        assert mounting.upper_in_use(disk / "rw") is None

    def test_killed_while_it_tried_the_driver_out(self, stack, disk):
        needs.driver("overlay", disk)
        place = [disk / "graph", stack.id, disk / "rootfs", disk / "rw", "overlay"]
        script = KILLED.replace("union.mounting.perform", "trial._try_at")
        assert subprocess.run([sys.executable, "-c", script, *place], check=False).returncode == -9
        assert not mounted(disk / "rootfs")
        stack.mount(disk / "rootfs", disk / "rw", driver="overlay")
        unmount(disk / "rootfs")
        assert os.listdir(disk / ".rw.union") == ["form"]
        assert not [name for name in os.listdir(disk) if "probe" in name]

    def test_nothing_to_mount(self, disk):
        from lamella.formats.docker_graph.union import mount

        with pytest.raises(errors.NotFound, match="No layer found"):
            mount([], disk / "rootfs", disk / "rw")


def _as_a_user(place):
    graph = Graph.open(place / "graph")
    base = graph.create(layer(directory("d"), file("d/a", "a", owner=(7, 8)), file("gone")))
    child = graph.create(layer(gone("gone"), file("b", "b")), parent=base.id)
    owner = TreeView(child.tree()).stat("d/a")
    done = child.mount(place / "rootfs", place / "rw")
    names = sorted(os.listdir(done.root))
    (done.root / "d/a").unlink()
    (done.root / "c").touch()
    told = [str(change) for change in child.changes(place / "rw")]
    unmount(place / "rootfs")
    return names, told, (owner.uid, owner.gid), [str(change) for change in child.changes(place / "rw")]


def test_without_root(place):
    names, told, owner, after = run_as_nobody(_as_a_user, place)
    assert names == ["b", "d"]
    assert told == after == ["A /c", "C /d", "D /d/a"]
    assert owner == (7, 8)


KILLED = """
import os, sys
from pathlib import Path
from lamella.formats.docker_graph import Graph, union
from lamella.mounts import trial
perform = union.mounting.perform
union.mounting.perform = lambda *arguments: (perform(*arguments), os.kill(os.getpid(), 9))
graph, id, root, rw, driver = sys.argv[1:]
Graph.open(Path(graph)).get(id).mount(Path(root), Path(rw), driver=driver)
"""


SCRIPT = """
import sys
from pathlib import Path
from lamella.formats.docker_graph import Graph
place, id = Path(sys.argv[1]), sys.argv[2]
(place / "rw").mkdir()
print(Graph.open(place / "graph").get(id).mount(place / "rootfs", place / "rw").driver)
"""


def stub_chain(graph, count):
    """A chain of images with empty layers, put there without care; the id of the topmost."""
    parent = ""
    for number in range(count):
        id = f"{number:064x}"
        (graph.root / id / "layer").mkdir(parents=True)
        (graph.root / id / "json").write_bytes(Record(id=id, parent=parent).render())
        parent = id
    return parent


@needs_root
@needs_tool("strace")
class TestTheCallsOfAufs:
    """strace lets the calls succeed; the driver's probe is told that AUFS works, which is then taken unasked."""

    PRETEND = """
from lamella.mounts import aufs, trial
from lamella.mounts.model import Probe
aufs.AufsDriver.probe = lambda self, at: Probe(ok=True)
"""

    @pytest.mark.parametrize("count", [1, 42, 80, 126])
    def test_child_first(self, disk, count):
        done, calls, layers = self.run(disk, count)
        assert done.stdout == "aufs\n", done.stderr
        place = os.fsencode(disk).decode()
        fitting = self.fitting(disk, layers)
        first = "".join(f"{path}=ro+wh:" for path in layers[:fitting])
        assert calls == [
            f'mount("none", "{place}/rootfs", "aufs", 0, "br:{place}/rw=rw:{first}") = 0',
            *(
                f'mount("none", "{place}/rootfs", TYPE, MS_REMOUNT, "append:{path}=ro+wh") = 0'
                for path in layers[fitting:]
            ),
        ]

    def test_127_layers_are_one_branch_too_many(self, disk):
        done, calls, _ = self.run(disk, 127)
        assert "128 branches, and AUFS takes 127" in done.stderr
        assert calls == []

    @staticmethod
    def fitting(disk, layers):
        """How many layers go into the first call: 42 as in 2013, fewer where the page of options is full before."""
        size, count = len(f"br:{disk}/rw=rw:") + 1, 0
        for path in layers[:42]:
            size += len(f"{path}=ro+wh:")
            if size > 4096:
                break
            count += 1
        return count

    def run(self, disk, count):
        graph = Graph.open(disk / "graph")
        top = graph.get(stub_chain(graph, count))
        layers = [str(path) for path in top.layers()]
        trace = disk / "trace"
        command = ["strace", "-f", "-qq", "-s", "9999", "-e", "trace=mount", "-e", "signal=none", "-o", trace]
        command += ["-e", "inject=mount:retval=0", sys.executable, "-c", self.PRETEND + SCRIPT, disk, top.id]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        calls = []
        for line in trace.read_text().splitlines():
            call = re.sub(r"\) += (-?\d+).*$", r") = \1", line.partition(" ")[2].strip())
            calls.append(re.sub(r", 0x[0-9a-f]+, (MS_.*REMOUNT)", r", TYPE, \1", call))
        return done, calls, layers
