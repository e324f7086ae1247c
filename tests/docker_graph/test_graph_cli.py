"""``lamella graph``, ``import-graph`` and ``export-graph`` as users run them, on a docker's directory of 2013."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import pytest
from graph_support import chain, container_of, image, layer

from lamella.cli import graph as graph_verb
from lamella.cli import graph_drawing, graph_words
from lamella.cli.output import write_table
from lamella.formats.docker_graph import Config, Graph, GraphForm, Moment, Record
from support.building import file, gone


class Command:
    """``lamella graph --root DIR``."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lamella", "graph", "--root", str(self.place), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def __call__(self, *words: object) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, code: int, *words: object) -> str:
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (code, ""), done
        return done.stderr.strip()


@pytest.fixture
def family(disk):
    """A base, two children of it, and a grandchild of the first; the base and the leaves are named."""
    graph = Graph.open(disk / "docker" / "graph")
    command = Config.of(Cmd=["/bin/sh", "-c", "echo hi"])
    base = graph.register(
        image(created=Moment.of_epoch(1_370_000_000), comment="base", container_config=command),
        layer(file("a", "one"), file("b", "x" * 1500)),
        keep_archive=True,
    )
    child = graph.register(
        image(parent=base.id, created=Moment.of_epoch(1_370_000_100)), layer(gone("b"), file("c", "two"))
    )
    other = graph.register(image(parent=base.id, created=Moment.of_epoch(1_370_000_200)), layer(file("d", "3")))
    leaf = graph.register(image(parent=child.id, created=Moment.of_epoch(1_370_000_300)), layer(file("e", "4")))
    for name, tag, found in (("base", "latest", base), ("me/app", "1", leaf), ("host:5000/x", "t", other)):
        graph.tags.set(name, tag, found.id)
    return graph, base, child, other, leaf


@pytest.fixture
def docker(disk, family):
    return Command(disk / "docker")


def test_every_verb_has_help_that_begins_with_its_summary():
    context = click.Context(graph_verb.command, info_name="graph")
    for name, (_, summary) in graph_verb.SUBVERBS.items():
        command = graph_verb.command.get_command(context, name)
        assert (command.help or "").splitlines()[0] == summary
        assert command.name == name
        assert all(isinstance(found, click.Argument) or found.help for found in command.params)


def test_without_a_verb_there_is_help():
    shown = [
        subprocess.run([sys.executable, "-m", "lamella", "graph", *words], capture_output=True, text=True, check=True)
        for words in ((), ("--help",))
    ]
    assert shown[0].stdout == shown[1].stdout
    assert (shown[0].stderr, "Verbs:" in shown[0].stdout) == ("", True)


class TestWords:
    """docker's HumanDuration, HumanSize and tabwriter."""

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (-5, "Less than a second"), (0, "Less than a second"), (1, "1 seconds"), (59, "59 seconds"),
            (60, "About a minute"), (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"),
            (3600, "About an hour"), (7199, "About an hour"), (7200, "2 hours"), (48 * 3600 - 1, "47 hours"),
            (48 * 3600, "2 days"), (14 * 86400 - 1, "13 days"), (14 * 86400, "2 weeks"), (90 * 86400 - 1, "12 weeks"),
            (90 * 86400, "3 months"), (730 * 86400 - 1, "24 months"), (730 * 86400, "2 years"),
        ],
    )  # fmt: skip
    def test_durations(self, seconds, text):
        assert graph_words.duration(seconds) == text

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1024, "1.024 kB"), (1_000_000, "1 MB"),
            (1_048_576, "1.049 MB"), (3_420_000_000, "3.42 GB"), (5_372_000_000_000, "5.372 TB"),
            (999_999, "1000 kB"), (None, "N/A"),
        ],
    )  # fmt: skip
    def test_sizes(self, count, text):
        assert graph_words.size(count) == text

    def test_tables(self, capsys):
        write_table(("A", "B", "C"), [("x" * 18, "é", "last")], cell=graph_words.CELL)
        assert capsys.readouterr().out == f"A{' ' * 20}B{' ' * 19}C\n{'x' * 18}   é{' ' * 19}last\n"


class TestListing:
    def test_images(self, docker, family):
        _, base, child, other, leaf = family
        lines = docker("images").splitlines()
        assert lines[0].split() == ["REPOSITORY", "TAG", "ID", "CREATED"]
        assert [line.split()[:3] for line in lines[1:]] == [
            ["me/app", "1", leaf.short_id],
            ["host:5000/x", "t", other.short_id],
            ["base", "latest", base.short_id],
        ]
        assert lines[1].startswith(f"me/app{' ' * 14}1{' ' * 19}{leaf.short_id}")
        assert re.search(r" \d\d years ago$", lines[1])
        assert [line.split()[0] for line in docker("images", "-a").splitlines()[1:]].count("<none>") == 1
        assert docker("images", "-aq", "--no-trunc").split() == [leaf.id, other.id, child.id, base.id]

    @pytest.mark.parametrize(
        ("pattern", "count"), [("base", 1), ("b*", 1), ("*/*", 2), ("me/*", 1), ("*5000*/*", 1), ("nope", 0), ("*", 1)]
    )
    def test_a_pattern_stands_for_repositories(self, docker, pattern, count):
        assert len(docker("images", pattern).splitlines()) == 1 + count

    def test_sizes_count_hard_links_once_and_all_below(self, docker):
        line = next(line for line in docker("images", "-s").splitlines() if line.startswith("me/app"))
        assert line.endswith("   1 B (virtual 1.507 kB)")

    @pytest.mark.parametrize(
        ("form", "heading", "shown"),
        [(GraphForm.V0_6, "SIZE", "2.5 kB (virtual 2.5 kB)"), (GraphForm.AUFS, "VIRTUAL SIZE", "2.5 kB")],
    )
    def test_the_size_of_later_releases(self, disk, form, heading, shown):
        Graph.open(disk / "graph", form=form).create(layer(file("f", "x" * 2500)))
        lines = Command(disk)("images").splitlines()
        at = lines[0].index(heading)
        assert (lines[0][at:], lines[1][at:].strip()) == (heading, shown)
        assert re.fullmatch(r"(Less than a second|\d+ seconds|About a minute) ago", lines[1][60:at].rstrip())

    def test_as_json(self, docker, family):
        _, _, _, _, leaf = family
        first = json.loads(docker("images", "--json"))[0]
        assert (first["id"], first["repository"], first["tag"]) == (leaf.id, "me/app", "1")
        assert first["created"] == "2013-05-31T11:38:20Z"

    def test_a_dangling_name_is_told_and_passed_over(self, docker, family):
        graph, *_ = family
        (graph.layout.tags).write_text(json.dumps({"Repositories": {"gone": {"x": "0" * 64}}}))
        done = docker.run("images")
        assert done.returncode == 0
        warning = f"lamella: note: Warning: couldn't load {'0' * 64} from gone/x: No such id: {'0' * 64}\n"
        assert done.stderr == warning
        assert "gone" not in done.stdout
        assert docker.run("images", "base").stderr == ""

    def test_damage_is_told_and_the_rest_is_shown(self, docker, family):
        graph, base, child, _, leaf = family
        (graph.root / child.id / "json").write_bytes(b"{")
        for words in (["images", "-s"], ["tree"], ["viz"], ["images", "-a", "--json"]):
            done = docker.run(*words)
            assert done.returncode == 0
            assert child.short_id in done.stderr
            assert leaf.short_id in done.stdout
        assert f"{leaf.short_id} Virtual Size: N/A Tags: me/app:1" in docker("tree")
        assert docker.fails(14, "history", "me/app:1")
        (graph.root / base.id / "json").unlink()
        assert "base" not in docker("images")

    def test_a_circle_of_ancestors_is_drawn_once_and_told(self, docker, family):
        graph, base, child, other, leaf = family
        (graph.root / base.id / "json").write_bytes(Record(id=base.id, parent=leaf.id).render())
        for words, first in (((), base), (("base",), base), ((leaf.id,), leaf)):
            for verb, node in (("tree", r"─(\w{12}) "), ("viz", r'-> "(\w{12})"')):
                done = docker.run(verb, *words)
                assert done.returncode == 0
                drawn = re.findall(node, done.stdout)
                assert drawn[0] == first.short_id
                assert sorted(drawn) == sorted(found.short_id for found in (base, child, other, leaf))
                ring = f"image {first.id}: its ancestors lead back to it: {first.short_id} -> "
                assert done.stderr.startswith(f"lamella: note: {ring}")
                assert len(done.stderr.splitlines()) == 1

    def test_an_image_without_its_parent_is_drawn_and_told(self, docker, family):
        graph, base, _, _, leaf = family
        (graph.root / leaf.id / "json").write_bytes(Record(id=leaf.id, parent="0" * 64).render())
        for verb in ("tree", "viz"):
            done = docker.run(verb)
            assert (done.returncode, leaf.short_id in done.stdout, base.short_id in done.stdout) == (0, True, True)
            told = f"image {leaf.id}: Error while getting parent image: No such id: {'0' * 64}"
            assert done.stderr == f"lamella: note: {told}\n"

    def test_history_of_an_image_whose_size_cannot_be_told(self, disk):
        graph = Graph.open(disk / "graph", form=GraphForm.V0_6)
        made = graph.create(None)
        (made.root() / "layersize").unlink()
        (made.layer() / ".wh..").touch()
        assert Command(disk)("history", made.id).splitlines()[1].endswith("N/A")
        assert json.loads(Command(disk)("history", "--json", made.id))[0]["size"] is None

    def test_the_size_of_a_layer_is_looked_for_once(self, family):
        _, base, child, _, leaf = family
        sizes = graph_drawing.Sizes()
        assert sizes.whole(leaf) == 1507
        shutil.rmtree(base.layer())
        assert (sizes.whole(child), sizes.own(base), sizes.whole(leaf)) == (1506, 1503, 1507)
        assert graph_drawing.Sizes().whole(leaf) is None

    def test_tree(self, docker, family):
        _, base, child, other, leaf = family
        assert docker("tree").splitlines() == docker("images", "--tree").splitlines()
        lines = docker("tree").splitlines()
        assert lines == [
            f"└─{base.short_id} Virtual Size: 1.503 kB Tags: base:latest",
            f"  ├─{child.short_id} Virtual Size: 1.506 kB",
            f"  │ └─{leaf.short_id} Virtual Size: 1.507 kB Tags: me/app:1",
            f"  └─{other.short_id} Virtual Size: 1.504 kB Tags: host:5000/x:t",
        ]
        assert len(docker("tree", child.short_id).splitlines()) == 2

    def test_viz(self, docker, family):
        _, base, child, _, leaf = family
        lines = docker("viz").splitlines()
        style = 'shape=box,fillcolor="paleturquoise",style="filled,rounded"'
        assert lines[0] == "digraph docker {"
        assert lines[-2:] == [" base [style=invisible]", "}"]
        assert f' base -> "{base.short_id}" [style=invis]' in lines
        assert f' "{child.short_id}" -> "{leaf.short_id}"' in lines
        assert f' "{leaf.short_id}" [label="{leaf.short_id}\\nme/app:1",{style}];' in lines

    def test_what_others_wrote_never_steers_a_terminal(self, docker, family):
        graph, base, _, _, leaf = family
        raw = b'{"id":"%s","comment":"\xc2\x9b1m","container_config":{"Cmd":["\\u001b[1m"]}}' % base.id.encode()
        (base.root() / "json").write_bytes(raw)
        tags = {'a\x1b[1m"b': {"t\x9b": base.id}, "gone\x1b": {"x": "\x1b[2m"}}
        graph.layout.tags.write_text(json.dumps({"Repositories": tags}))
        listings = (["images"], ["images", "--json"], ["tree"], ["viz"], ["inspect", base.id], ["rmi", "-f", base.id])
        histories = (["history", base.id], ["history", "--json", base.id], ["history", "--no-trunc", leaf.id])
        for words in (*histories, *listings):
            done = docker.run(*words)
            assert done.returncode == 0, done.stderr
            shown = done.stdout + done.stderr
            assert shown.replace("\n", "").isprintable(), words
            if words == ["viz"]:
                assert f'[label="{base.short_id}\\na\\x1b[1mb:t\\x9b",' in shown

    def test_forms_of_output_that_exclude_each_other(self, docker):
        assert "exclude each other" in docker.fails(2, "images", "-q", "--json")

    def test_history(self, docker, family):
        _, base, child, _, leaf = family
        lines = docker("history", "me/app:1").splitlines()
        assert [line.split()[0] for line in lines] == ["ID", "me/app:1", child.short_id, "base:latest"]
        assert docker("history", "-q", "--no-trunc", leaf.id[:6]).split() == [leaf.id, child.id, base.id]
        steps = json.loads(docker("history", "--json", "me/app:1"))
        assert [step["id"] for step in steps] == [leaf.id, child.id, base.id]
        assert steps[-1]["created_by"] == "/bin/sh -c echo hi"
        assert "/bin/sh -c echo hi" in lines[-1]
        assert lines[0].split() == ["ID", "CREATED", "CREATED", "BY", "SIZE"]

    def test_history_cuts_the_command(self, disk):
        graph = Graph.open(disk / "graph")
        made = graph.create(None, container_config=Config.of(Cmd=["x" * 44, "yz"]))
        assert Command(disk)("history", made.id).splitlines()[1].endswith(f" {'x' * 44}    0 B")
        assert f" {'x' * 44} yz   0 B" in Command(disk)("history", "--no-trunc", made.id)

    def test_inspect_prints_the_record(self, docker, family):
        _, base, *_ = family
        text = docker("inspect", "base")
        assert json.loads(text) == [json.loads(base.record.json)]
        assert text.startswith('[\n    {\n        "id": ')
        assert list(json.loads(text)[0])[:2] == ["id", "comment"]

    def test_inspect_prints_whatever_a_record_may_hold_as_it_is(self, docker, family):
        graph, base, *_ = family
        odd = b'{"id":"%s","comment":"a\\u003cb\xff","x":1.50,"x":%s,"y":[],"z":{"":[1,{}]}}'
        (graph.root / base.id / "json").write_bytes(odd % (base.id.encode(), b"9" * 5000))
        assert docker("inspect", "base") == (
            f'[\n    {{\n        "id": "{base.id}",\n        "comment": "a\\u003cb\ufffd",\n        "x": 1.50,\n'
            f'        "x": {"9" * 5000},\n        "y": [],\n        "z": {{\n            "": [\n                1,\n'
            "                {}\n            ]\n        }\n    }\n]\n"
        )

    def test_checksums(self, docker, family):
        graph, base, *_ = family
        expected = hashlib.sha256(base.record.json + b"\n" + base.layer_archive().read_bytes()).hexdigest()
        assert docker("checksum", "base") == f"sha256:{expected}\n"
        assert graph.checksums() == {base.id: f"sha256:{expected}"}
        assert docker("checksum", "--tarsum", "1", "base") == base.tarsum(version="1") + "\n"
        (document,) = json.loads(docker("checksum", "--json", "base"))
        assert (document["checksum"], document["tarsum"]) == (f"sha256:{expected}", base.tarsum())

    def test_what_is_not_there(self, docker, disk):
        assert docker.fails(10, "history", "nope") == "lamella: graph history: Image does not exist: nope"
        assert Command(disk / "nothing").fails(10, "images").endswith("there is no image graph here")
        assert not (disk / "nothing").exists()


class TestNames:
    def test_tag(self, docker, family):
        graph, base, _, _, leaf = family
        docker("tag", "base", "new")
        docker("tag", "base", "new:2")
        docker("tag", leaf.id[:10], "new", "3")
        assert graph.tags.repositories["new"] == {"latest": base.id, "2": base.id, "3": leaf.id}
        error = docker.fails(15, "tag", "base", "new:3")
        assert f"Conflict: Tag 3 is already set to image {leaf.id}, if you want to replace it, please use -f" in error
        docker("tag", "-f", "base", "new:3")
        assert graph.tags.repositories["new"]["3"] == base.id
        assert "Illegal" in docker.fails(12, "tag", "base", "a b")

    def test_rmi_of_a_name_removes_what_nothing_needs_any_more(self, docker, family):
        graph, base, child, other, leaf = family
        assert docker("rmi", "me/app:1").splitlines() == [
            "Untagged: me/app:1", f"Deleted: {leaf.id}", f"Deleted: {child.id}"]  # fmt: skip
        assert set(graph.ids()) == {base.id, other.id}

    def test_rmi_keeps_ancestors_when_asked(self, docker, family):
        graph, *_, leaf = family
        docker("rmi", "--no-prune", "me/app:1")
        assert len(graph.ids()) == 3
        assert leaf.id not in graph.ids()

    def test_rmi_of_one_name_of_several_only_untags(self, docker, family):
        graph, base, *_ = family
        graph.tags.set("also", "1", base.id)
        assert docker("rmi", "base") == "Untagged: base:latest\n"
        assert base.id in graph.ids()

    def test_rmi_by_id(self, docker, family):
        graph, base, child, other, leaf = family
        graph.tags.set("also", "1", other.id)
        error = docker.fails(15, "rmi", other.id)
        assert "tagged in multiple repositories, use -f to force" in error
        lines = docker("rmi", "-f", other.short_id).splitlines()
        assert lines == ["Untagged: also:1", "Untagged: host:5000/x:t", f"Deleted: {other.id}"]
        assert docker.fails(15, "rmi", child.id).startswith(f"lamella: graph rmi: Conflict, {child.id} wasn't deleted")
        assert docker("rmi", "base") == "Untagged: base:latest\n"
        assert {base.id, child.id, leaf.id} == set(graph.ids())

    def test_rmi_keeps_what_a_container_was_made_of(self, docker, family):
        graph, base, child, other, leaf = family
        container = container_of(graph, leaf.id)
        error = docker.fails(15, "rmi", leaf.id)
        assert f"cannot delete {leaf.short_id} because the container {container[:12]} is using it, use -f" in error
        assert graph.tags.names(leaf.id) == ["me/app:1"]
        assert docker("rmi", "me/app:1") == "Untagged: me/app:1\n"
        assert leaf.id in graph.ids()
        container_of(graph, child.id, "d" * 64)
        assert docker("rmi", "-f", leaf.id) == f"Deleted: {leaf.id}\n"
        assert sorted(graph.ids()) == sorted([base.id, child.id, other.id])

    def test_rmi_of_a_dangling_name(self, docker, family):
        graph, *_ = family
        graph.layout.tags.write_text(json.dumps({"Repositories": {"gone": {"x": "0" * 64}}}))
        assert docker("rmi", "gone:x") == "Untagged: gone:x\n"

    def test_rmi_of_nothing(self, docker):
        assert docker.fails(10, "rmi", "nope") == "lamella: graph rmi: No such image: nope"
        assert docker.fails(10, "rmi", "me/app") == "lamella: graph rmi: No such image: me/app:latest"

    def test_rmi_of_many_removes_those_that_it_can(self, docker, family):
        _, _, child, other, _ = family
        done = docker.run("rmi", "nope", child.id, "host:5000/x:t", "base")
        assert done.returncode == 10
        assert done.stdout.splitlines() == [
            "Untagged: host:5000/x:t", f"Deleted: {other.id}", "Untagged: base:latest"]  # fmt: skip
        told = [f"note: Conflict, {child.id} wasn't deleted", "graph rmi: No such image: nope"]
        assert done.stderr.splitlines() == [f"lamella: {text}" for text in told]

    def test_rmi_of_what_is_damaged(self, docker, family):
        graph, base, child, other, leaf = family
        for found in (other, leaf):
            (found.root() / "json").write_bytes(b"{")
        assert docker("rmi", other.id).splitlines() == ["Untagged: host:5000/x:t", f"Deleted: {other.id}"]
        assert docker("rmi", "me/app:1").splitlines() == ["Untagged: me/app:1", f"Deleted: {leaf.id}"]
        assert graph.ids() == sorted([base.id, child.id])


class TestFiles:
    def test_changes_of_an_image(self, docker, family):
        _, _, child, _, _ = family
        assert docker("changes", child.id).splitlines() == ["D /b", "A /c"]
        assert docker("changes", "-0", child.id) == "D /b\0A /c\0"
        assert json.loads(docker("changes", "--json", "base"))[0] == {"kind": "A", "path": "/a"}

    def test_tar(self, docker, family, disk):
        _, base, child, *_ = family
        docker("tar", child.id, "-o", disk / "layer.tar")
        with tarfile.open(disk / "layer.tar") as tar:
            assert {".wh.b", "c"} <= {name.removeprefix("./") for name in tar.getnames()}
        docker("tar", "base", "--stored", "-o", disk / "stored")
        assert (disk / "stored").read_bytes() == base.layer_archive().read_bytes()
        docker("tar", "base", "--compression", "gzip", "-o", disk / "packed")
        assert (disk / "packed").read_bytes()[:2] == b"\x1f\x8b"

    def test_a_tar_that_fails_leaves_the_file_as_it_was(self, docker, family, disk):
        graph, base, child, *_ = family
        (graph.root / base.id / "json").write_bytes(b"{")
        (disk / "out").mkdir()
        (disk / "out" / "layer.tar").write_bytes(b"before")
        docker.fails(14, "tar", child.id, "-o", disk / "out" / "layer.tar")
        assert (disk / "out" / "layer.tar").read_bytes() == b"before"
        assert os.listdir(disk / "out") == ["layer.tar"]
        assert "it is a directory" in docker.fails(13, "tar", child.id, "-o", disk / "out")

    @pytest.mark.needs_root
    def test_mount_changes_and_umount(self, docker, family, disk):
        root = Path(docker("mount", "me/app:1", disk / "rootfs", disk / "rw").strip())
        try:
            assert (root / "a").read_text() == "one"
            assert not (root / "b").exists()
            (root / "a").unlink()
            (root / "new").write_text("new")
            assert "already mounted" in docker.fails(13, "mount", "me/app:1", disk / "rootfs", disk / "rw")
            error = docker.fails(12, "mount", "--driver", "nope", "me/app:1", disk / "other", disk / "rw2")
            assert "no driver is called that" in error
        finally:
            docker("umount", disk / "rootfs")
        assert docker("changes", "me/app:1", disk / "rw").splitlines() == ["D /a", "A /new"]
        assert not (disk / "rootfs").exists()
        assert "not mounted" in docker.fails(13, "umount", disk / "rootfs")


def test_import_and_export(docker, family, disk):
    graph, *_, leaf = family

    def run(*words: object) -> str:
        command = [sys.executable, "-m", "lamella", "--root", str(disk / "store"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("import-graph", "-q", disk / "docker").splitlines()
    assert {"Loaded image: base:latest", "Loaded image: me/app:1", "Loaded image: host:5000/x:t"} < set(shown)
    (document,) = json.loads(run("inspect", "me/app:1"))
    assert document["annotations"] == {"lamella.v1.id": leaf.id}
    assert [found["v1_id"] for found in document["layers"]] == [found.id for found in leaf.history()[::-1]]
    run("export-graph", "-q", "base", "me/app:1", "host:5000/x:t", disk / "out")
    copied = Graph.open(disk / "out", create=False)
    assert copied.ids() == graph.ids()
    assert [found.record.json for found in copied.all()] == [found.record.json for found in graph.all()]
    assert copied.tags.repositories == graph.tags.repositories
    assert sorted(os.listdir(disk / "out")) == ["graph", "repositories"]


def test_a_long_line_of_images(disk):
    graph = Graph.open(disk / "docker" / "graph")
    last = chain(graph, 45)[-1]
    docker = Command(disk / "docker")
    assert len(docker("history", "-q", last.id).split()) == 45
    assert len(docker("tree").splitlines()) == 45
