"""Images on the command line: import, list, inspect, tag, remove."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import BASE, EPOCH, Cli, tar_of

from support import needs

ID = re.compile(r"sha256:[0-9a-f]{64}")


def test_import_prints_the_id_and_nothing_else(cli: Cli) -> None:
    (cli.cwd / "base.tar").write_bytes(tar_of(BASE))
    done = cli("import", "-q", "base.tar", "base:1", quiet=True)
    assert ID.fullmatch(done.text.strip())
    assert cli("images", "-q", "--no-trunc").text == done.text


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bytes])
def test_import_reads_standard_input_in_any_compression(cli: Cli, pack: Callable[[bytes], bytes]) -> None:
    cli("import", "-", "base", stdin=pack(tar_of(BASE)))
    assert cli("cat", "base", "/etc/os-release").out == b"ID=base\n"


def test_import_takes_what_docker_takes(cli: Cli) -> None:
    changes = ["-c", 'CMD ["sh"]', "--change", "ENV A=1", "-c", "LABEL who=me"]
    cli("import", *changes, "-m", "from nowhere", "-a", "me", "--platform", "linux/arm64", "-", "x", stdin=tar_of(BASE))
    [found] = cli("inspect", "x").json
    assert found["config"] == {"Cmd": ["sh"], "Env": ["A=1"], "Labels": {"who": "me"}}
    assert found["labels"] == {"who": "me"}
    assert (found["platform"], found["author"]) == ("linux/arm64", "me")
    assert found["history"][0]["comment"] == "from nowhere"


def test_import_with_an_epoch_gives_the_same_id_twice(cli: Cli, disk: Path) -> None:
    cli.env["SOURCE_DATE_EPOCH"] = str(EPOCH)
    other = Cli(disk / "other", cli.cwd, cli.env)
    first, second = (run("import", "-", "x", stdin=tar_of(BASE)).text for run in (cli, other))
    assert first == second
    assert cli("inspect", "x").json[0]["created"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize("text", ["yesterday", "1e9", "9" * 30])
def test_an_epoch_that_is_none_is_refused(cli: Cli, text: str) -> None:
    cli.env["SOURCE_DATE_EPOCH"] = text
    assert "SOURCE_DATE_EPOCH" in cli.fails(12, "import", "-", "x", stdin=tar_of(BASE))
    assert cli("images", "-q").out == b""


def test_images_is_the_table_that_docker_prints(base: Cli) -> None:
    base("tag", "base:1", "registry.example:5000/team/app:v2")
    header, *rows = base("images", quiet=True).lines
    assert re.split(r"\s{2,}", header) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "PLATFORM"]
    cells = sorted(re.split(r"\s{2,}", row) for row in rows)
    assert [cell[:2] for cell in cells] == [["base", "1"], ["registry.example:5000/team/app", "v2"]]
    assert cells[0][2] == base("images", "-q", "base").text.strip()
    assert len(cells[0][2]) == 12


def test_images_with_all_shows_what_others_were_made_from(dev: Cli) -> None:
    dev("commit", "dev", "-m", "one")
    unnamed = dev("images", "-q", "-f", "dangling=true").lines
    assert len(unnamed) == 1
    dev("rm", "dev")
    dev("create", unnamed[0], "--name", "dev")
    dev("commit", "dev", "child", "-m", "two")
    assert unnamed[0] not in dev("images", "-q").lines
    assert unnamed[0] in dev("images", "-q", "-a").lines
    assert "<none>" in dev("images", "-a").text


def test_images_are_chosen_by_name_and_filter(base: Cli) -> None:
    base("import", "-c", "LABEL kind=other", "-", "other:2", stdin=tar_of({"a": b"1"}))

    def names(*arguments: str) -> list[str]:
        return sorted(name for item in base("images", "--json", *arguments).json for name in item["names"])

    assert names() == ["base:1", "other:2"]
    assert names("base") == names("bas*") == names("base:1") == names("docker.io/library/base") == ["base:1"]
    assert names("base:2") == []
    assert names("-f", "label=kind=other") == names("-f", "label=kind") == ["other:2"]
    assert names("-f", "label=kind=base") == names("-f", "dangling=true") == []
    assert names("-f", "reference=oth*") == ["other:2"]
    assert "is no filter" in base.fails(2, "images", "-f", "size=3")


def test_tree_and_dot_draw_who_was_made_from_whom(dev: Cli) -> None:
    dev("commit", "dev", "child:1", "-m", "x")
    parent, child = (dev("images", "-q", name).text.strip() for name in ("base", "child"))
    first, second = dev("images", "--tree").lines
    assert first.startswith(f"└─{parent} Virtual Size: ")
    assert first.endswith("Tags: base:1")
    assert second.startswith(f"  └─{child} Virtual Size: ")
    dot = dev("images", "--dot").lines
    assert (dot[0], dot[-2:]) == ("digraph docker {", [" base [style=invisible]", "}"])
    assert f' base -> "{parent}" [style=invis]' in dot
    assert f' "{parent}" -> "{child}"' in dot
    style = 'shape=box,fillcolor="paleturquoise",style="filled,rounded"];'
    assert f' "{child}" [label="{child}\\nchild:1",{style}' in dot


def test_history_is_newest_first(dev: Cli) -> None:
    dev("commit", "dev", "child:1", "-m", "second", "-c", "ENV A=1")
    rows = dev("history", "child:1").lines
    assert re.split(r"\s{2,}", rows[0]) == ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]
    assert rows[1].endswith("second")
    assert "Imported from -" in rows[2]
    ids = [dev("images", "-q", name).text.strip() for name in ("child", "base")]
    assert dev("history", "-q", "child:1").lines == ids
    assert [step["comment"] for step in dev("history", "--json", "child:1").json] == ["second", "Imported from -"]


def test_inspect_tells_all(dev: Cli) -> None:
    dev("commit", "dev", "child:1", "-m", "x")
    image, child, snapshot = dev("inspect", "base:1", "child:1", "dev").json
    assert image["children"] == [child["id"]]
    assert (child["parent"], child["names"], child["kind"]) == (image["id"], ["child:1"], "image")
    [layer] = image["layers"]
    assert layer["diff_id"] == layer["chain_id"] == f"sha256:{hashlib.sha256(tar_of(BASE)).hexdigest()}"
    assert layer["tar_size"] == len(tar_of(BASE))
    assert (snapshot["kind"], snapshot["image"]["id"], snapshot["mounted"]) == ("snapshot", image["id"], None)
    assert dev("inspect", image["id"][7:20], image["digest"]).json == [image, image]


def test_inspect_of_something_missing_prints_nothing(base: Cli) -> None:
    assert base.fails(10, "inspect", "base:1", "nope").startswith("inspect: nope: no such image or snapshot; ")


def test_exists_answers_by_its_exit_code(dev: Cli) -> None:
    for found in (["base:1"], ["dev"], ["base:1", "/etc/motd"], ["dev", "home/log"]):
        assert dev("exists", *found, quiet=True).out == b""
    for missing in (["base:2"], ["BASE"], ["base:1", "/etc/nope"], ["nope", "/etc"]):
        assert dev("exists", *missing, code=1, quiet=True).out == b""


def test_tag_moves_a_name(base: Cli) -> None:
    other = base("import", "-", stdin=tar_of({"a": b"1"})).text.strip()
    base("tag", other, "base:1")
    assert base("images", "-q", "--no-trunc", "base:1").text.strip() == other


def test_rmi_says_what_it_removed(base: Cli) -> None:
    base("tag", "base:1", "again")
    id = base("images", "-q", "--no-trunc", "base:1").text.strip()
    assert base("rmi", "again").lines == ["Untagged: again:latest"]
    lines = base("rmi", "base:1").lines
    assert lines[0] == "Untagged: base:1"
    assert f"Deleted: {id}" in lines
    assert len(set(lines)) == len(lines)
    assert base("images", "-a", "-q").out == b""
    assert not [path for path in (base.root / "blobs").rglob("*") if path.is_file()]


def test_rmi_refuses_what_is_needed_and_names_it(dev: Cli) -> None:
    line = dev.fails(13, "rmi", "base:1")
    assert line == (
        "rmi: base:1: the image is needed by snapshot dev; "
        "remove those first, or --force to drop the name and keep what they need"
    )
    assert dev("rmi", "-f", "base:1").lines == ["Untagged: base:1"]
    assert dev("cat", "dev", "/etc/motd").out == b"welcome\n"


def test_layers_are_listed_written_and_blamed(dev: Cli) -> None:
    (dev.cwd / "motd").write_text("new\n")
    dev("cp", "-q", "motd", "dev:/etc/motd")
    dev("commit", "-q", "dev", "child:1")
    listed = dev("layer", "child:1", "--json").json
    assert [item["layer"] for item in listed] == [0, 1]
    assert len(dev("layer", "child:1").lines) == 3
    for chosen in (0, listed[0]["diff_id"], listed[0]["diff_id"][7:15], listed[0]["digest"]):
        assert dev("layer", "child:1", chosen).out == tar_of(BASE)
    dev("layer", "child:1", 1, "-o", "one.tar")
    assert f"sha256:{hashlib.sha256((dev.cwd / 'one.tar').read_bytes()).hexdigest()}" == listed[1]["diff_id"]
    packed = dev("layer", "child:1", 1, "--compression", "gzip").out
    assert gzip.decompress(packed) == (dev.cwd / "one.tar").read_bytes()
    steps = dev("layer", "child:1", "--which", "/etc/motd", "--json").json
    assert [(step["layer"], step["action"]) for step in steps] == [(0, "added"), (1, "modified")]
    assert dev("layer", "child:1", "--which", "etc/hostname").lines[1].split()[:2] == ["0", "added"]
    assert "no layer has it" in dev.fails(10, "layer", "child:1", "--which", "/nope")
    assert "there are layers 0 to 1" in dev.fails(10, "layer", "child:1", "7")
    assert "say which layer" in dev.fails(2, "layer", "child:1", "-o", "x.tar")


@pytest.fixture
def hello(cli: Cli) -> Cli:
    """The command on a store with an image for ten platforms, as ``hello:1``."""
    cli("load", "-q", needs.images() / "hello-world-10-platforms", "--name", "hello:1")
    return cli


def test_a_multi_platform_image_is_one_row_with_its_platforms(hello: Cli) -> None:
    _, row = hello("images").lines
    assert row.split()[:2] == ["hello", "1"]
    assert "linux/arm/v5" in row
    assert row.endswith("and 7 more")
    assert len(hello("images", "-q", "-a").lines) == 11
    assert len(hello("images", "--tree").lines) == 11
    [item] = hello("images", "--json").json
    assert (item["kind"], len(item["platforms"])) == ("index", 10)


def test_a_multi_platform_image_is_resolved_by_platform(hello: Cli) -> None:
    [arm] = hello("inspect", "--platform", "linux/arm64", "hello:1").json
    assert arm["platform"].startswith("linux/arm64")
    assert len(arm["index"]["manifests"]) == 10
    assert hello("cat", "--platform", "arm64", "hello:1", "/hello").out[:4] == b"\x7fELF"
    assert "there is one for: " in hello.fails(10, "inspect", "--platform", "plan9/386", "hello:1")
    assert "is not a platform" in hello.fails(12, "history", "--platform", "a/b/c/d", "hello:1")


def test_a_failed_import_leaves_nothing(cli: Cli) -> None:
    broken = tar_of(BASE)[:3000]
    line = cli.fails(14, "import", "-", "base:1", stdin=broken)
    assert line.startswith("import: ")
    assert cli("images", "-a", "-q").out == b""
    assert cli("gc", "--dry-run", "--json").json["items"] == []


def test_json_is_one_document_for_every_table(dev: Cli) -> None:
    for words in (["images"], ["history", "base:1"], ["ps"], ["mount"], ["diff", "dev"], ["layer", "base:1"], ["df"],
                  ["df", "-v"], ["gc", "-n"], ["info"], ["ls", "base:1"], ["inspect", "dev"]):  # fmt: skip
        flag = [] if words[0] == "inspect" else ["--json"]
        done = dev("--progress", "none", *words, *flag, quiet=True)
        assert isinstance(json.loads(done.out), (list, dict)), words


def test_texts_from_images_cannot_steer_the_terminal(cli: Cli) -> None:
    cli("import", "-m", "\x1b]0;title\x07\nsecond line", "-a", "\x9b1m", "-", "x", stdin=tar_of(BASE))
    for words in (["history", "x"], ["history", "--no-trunc", "x"], ["images"], ["inspect", "x"]):
        out = cli(*words).text
        assert not any(c in out for c in "\x1b\x07\x9b")
    assert cli("inspect", "x").json[0]["history"][0]["comment"] == "\x1b]0;title\x07\nsecond line"
    assert cli("inspect", "x").json[0]["author"] == "\x9b1m"


def test_names_from_outside_cannot_steer_the_terminal_in_errors(cli: Cli) -> None:
    line = cli.fails(10, "inspect", "\x1b[31mred")
    assert "\x1b" not in line
    assert os.linesep not in line
