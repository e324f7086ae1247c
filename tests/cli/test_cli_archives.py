"""Images as files on the command line: save, load, export."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from cli_support import EPOCH, Cli

from support import needs


@pytest.fixture
def other(cli: Cli, disk: Path) -> Cli:
    """The command on a second, empty store."""
    return Cli(disk / "other", cli.cwd, cli.env)


@pytest.mark.parametrize("words", [["-o", "a.tar"], ["-o", "a/"], ["--format", "docker-archive", "-o", "d.tar"]])
def test_what_is_saved_loads_with_the_same_ids(dev: Cli, other: Cli, words: list[str]) -> None:
    (dev.cwd / "f").write_text("x")
    dev("cp", "f", "dev:/f")
    dev("commit", "dev", "child:1")
    dev("save", "-q", "base:1", "child:1", *words, quiet=True)
    loaded = other("load", "-q", "-i", words[-1], quiet=True).lines
    assert sorted(loaded) == ["Loaded image: base:1", "Loaded image: child:1"]
    for name in ("base:1", "child:1"):
        assert other("inspect", name).json[0]["id"] == dev("inspect", name).json[0]["id"]
    assert other("diff", "base:1", "child:1").lines == ["A /f"]


def test_save_and_load_stream_through_pipes(base: Cli, other: Cli) -> None:
    saved = base("save", "-q", "base:1", quiet=True).out
    assert other("load", "-q", stdin=saved).text == "Loaded image: base:1\n"
    again = base("save", "-q", "base:1", "-o", "-").out
    assert again == saved
    assert other("load", "-q", "-", stdin=gzip.compress(saved)).text == "Loaded image: base:1\n"


def test_load_says_what_it_got_as_json(base: Cli, other: Cli) -> None:
    saved = base("save", "base:1").out
    [item] = other("load", "-q", "--json", "--name", "mine:2", stdin=saved).json
    assert (item["kind"], item["names"]) == ("image", ["mine:2"])
    assert item["id"] == base("inspect", "base:1").json[0]["id"]


def test_save_into_a_directory_adds_what_is_missing(base: Cli) -> None:
    (base.cwd / "layout").mkdir()
    base("save", "base:1", "-o", "layout")
    stamps = {path: path.stat().st_ino for path in (base.cwd / "layout/blobs/sha256").iterdir()}
    base("tag", "base:1", "again:1")
    base("save", "again:1", "-o", "layout")
    assert {path: path.stat().st_ino for path in (base.cwd / "layout/blobs/sha256").iterdir()} == stamps
    index = json.loads((base.cwd / "layout/index.json").read_text())
    assert len(index["manifests"]) == 2


def test_a_docker_archive_has_what_old_docker_reads_when_asked(base: Cli) -> None:
    base("save", "--legacy", "base:1", "-o", "d.tar")
    with tarfile.open(base.cwd / "d.tar") as tar:
        names = tar.getnames()
        assert json.load(tar.extractfile("repositories"))["base"].keys() == {"1"}  # type: ignore[arg-type]
    assert any(name.endswith("/VERSION") for name in names)


@pytest.mark.needs_tool("skopeo")
def test_skopeo_reads_the_store_in_place_and_what_is_saved(base: Cli) -> None:
    base("save", "base:1", "-o", "a.tar")
    id = base("inspect", "base:1").json[0]["id"]
    for place in (f"oci:{base.root}:base:1", f"oci-archive:{base.cwd}/a.tar:base:1"):
        done = subprocess.run(["skopeo", "inspect", "--raw", place], capture_output=True, check=True)
        assert json.loads(done.stdout)["config"]["digest"] == id


def test_export_is_the_merged_tree_and_the_same_each_time(dev: Cli) -> None:
    (dev.cwd / "f").write_text("x")
    dev("cp", "f", "dev:/etc/motd")
    first = dev("export", "-q", "dev", quiet=True).out
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.extractfile("etc/motd").read() == b"x"  # type: ignore[union-attr]
        assert tar.getmember("bin/alias").linkname == "tool"
        assert tar.getmember("tmp").mode == 0o1777
    dev("export", "dev", "-o", "x.tar.zst", "--compression", "zstd")
    id = dev("import", "x.tar.zst", "again").text
    assert dev("export", "again").out == first
    assert ("sha256:" in id, dev("diff", "dev", "again").lines) == (True, [])


def test_export_clamps_times_to_the_epoch(base: Cli) -> None:
    base.env["SOURCE_DATE_EPOCH"] = str(EPOCH - 10)
    with tarfile.open(fileobj=io.BytesIO(base("export", "base:1").out)) as tar:
        assert {member.mtime for member in tar if member.name != "."} == {EPOCH - 10}


def test_what_cannot_be_written_is_told_and_leaves_nothing(base: Cli) -> None:
    assert "No such file or directory" in base.fails(10, "save", "base:1", "-o", "no/where.tar")
    assert "it is a directory" in base.fails(13, "export", "base:1", "-o", ".")
    assert "a directory needs a name" in base.fails(2, "save", "base:1", "--format", "oci-dir")
    assert base.fails(10, "save", "nope", "-o", "x.tar").startswith("save: nope: no such image")
    assert sorted(path.name for path in base.cwd.iterdir()) == []


def test_load_tells_an_image_from_a_root_file_system(base: Cli) -> None:
    (base.cwd / "rootfs.tar").write_bytes(base("export", "base:1").out)
    assert "'lamella import' takes root file systems" in base.fails(12, "load", "-i", "rootfs.tar")
    assert "what to load is given twice" in base.fails(2, "load", "x", "-i", "y")
    assert base.fails(10, "load", "nowhere") == "load: nowhere: No such file or directory"


def test_real_images_load_and_read(cli: Cli) -> None:
    cli("load", "-q", "--name", "alpine:3", needs.images() / "alpine-3.20")
    cli("load", "-q", needs.images() / "alpine-docker-archive.tar")
    for name in ("alpine:3", "alpine:3.20.3"):
        assert cli("cat", name, "/etc/alpine-release").out == b"3.20.3\n"
    assert cli("diff", "alpine:3", "alpine:3.20.3").lines == []
    assert cli("ls", "alpine:3", "/usr/bin/env", "-l").text.rstrip().endswith("/usr/bin/env -> /bin/busybox")
