"""``prune`` and ``df`` as users run them, and what is made again without being asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import Cli

from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from support import building
from support.needs import needs_driver, needs_tool
from support.registries import docker_registry

LAYER = building.tar(building.directory("d"), building.file("d/x", "text " * 20_000), building.file("y", "y"))


@pytest.fixture
def ours(cli: Cli) -> Cli:
    """A store with an image whose layer this Lamella compressed."""
    cli("import", "--compression", "zstd", "-", "ours", stdin=LAYER)
    return cli


@pytest.fixture
def foreign(cli: Cli, disk: Path) -> Cli:
    """A store with an image whose layer came compressed."""
    cli("load", "-q", building.layout(disk / "layout", [LAYER], tag="foreign"))
    return cli


def items(cli: Cli, *words: str) -> list[str]:
    return sorted(item["kind"] for item in cli("prune", "--json", *words).json["items"])


def blobs(cli: Cli) -> set[str]:
    return {path.name for path in (cli.root / "blobs/sha256").iterdir()}


def test_a_dropped_blob_is_had_again_by_who_needs_it(ours: Cli, disk: Path) -> None:
    before = blobs(ours)
    ours("save", "-o", disk / "before.tar", "ours")
    told = ours("prune", "--compressed", "-n", "-q").lines
    assert told[0].split() == ["KIND", "SIZE", "NAME"]
    assert told[-1].startswith("Total reclaimable space: ")
    assert blobs(ours) == before
    done = ours("prune", "--compressed", "-q").lines
    assert done[-1].startswith("Total reclaimed space: ")
    (gone,) = before - blobs(ours)
    assert gone in done[1]
    ours("save", "-o", disk / "after.tar", "ours")
    assert (disk / "after.tar").read_bytes() == (disk / "before.tar").read_bytes()
    assert ours("cat", "ours", "y").out == b"y"
    assert ours("df").lines[-1].startswith("Dropped and made again when needed: 1 blobs of ")
    assert ours("df", "--json").json["dropped"]["count"] == 1
    assert items(ours, "--restore") == ["blob"]
    assert blobs(ours) == before
    assert ours("df", "--json").json["dropped"] == {"count": 0, "size": 0}


@needs_tool("docker-registry")
def test_a_blob_of_a_registry_is_fetched_again(cli: Cli, disk: Path) -> None:
    with docker_registry(disk / "registry") as registry:
        cli("load", "-q", building.layout(disk / "layout", [LAYER], tag="foreign"))
        cli("push", "-q", "foreign", f"{registry.host}/team/foreign")
        before = blobs(cli)
        assert items(cli, "--compressed") == ["blob"]
        assert len(before - blobs(cli)) == 1
        cli("save", "-q", "-o", disk / "after.tar", "foreign")
        assert items(cli, "--restore") == ["blob"]
        assert blobs(cli) == before
        assert items(cli, "--compressed") == ["blob"]
    assert "Traceback" not in cli("save", "-o", disk / "never.tar", "foreign", code=18).err
    assert not (disk / "never.tar").exists()
    cli("cat", "foreign", "y")


def test_trees_go_and_come(foreign: Cli) -> None:
    foreign("create", "-q", "foreign", "--name", "s")
    assert "tar" in items(foreign, "--trees")
    assert items(foreign, "--trees") == []
    assert foreign("cat", "foreign", "y").out == b"y"
    assert foreign("diff", "s").out == b""


def test_what_to_prune_must_be_said(cli: Cli) -> None:
    for words in ([], ["-n"], ["--restore", "--trees"], ["--restore", "-n"]):
        cli("prune", *words, code=2)
    assert cli("prune", "--trees").lines == ["Total reclaimed space: 0B"]


def test_df_tells_kinds_and_images(foreign: Cli, disk: Path) -> None:
    foreign("load", "-q", building.layout(disk / "two", [LAYER, building.tar(building.file("z", "z"))], tag="two"))
    document = foreign("df", "-v", "--json").json
    assert [row["kind"] for row in document["usage"]] == [
        "blob", "tar", "index", "rootfs", "tree", "snapshot", "ingest", "catalog",
    ]  # fmt: skip
    assert document["size"] == sum(row["size"] for row in document["usage"])
    images = {image["name"]: image for image in document["images"]}
    assert images["foreign:latest"]["shared"] == images["two:latest"]["shared"] > len(LAYER)
    assert all(image["size"] == image["shared"] + image["unique"] for image in images.values())
    text = foreign("df", "-v")
    assert text.lines[0].split() == ["TYPE", "COUNT", "SIZE", "RECLAIMABLE", "PRUNABLE"]
    assert any(line.split() == ["IMAGE", "IMAGE", "ID", "SIZE", "UNIQUE", "SHARED"] for line in text.lines)


@pytest.mark.parametrize("name", [TAR_NAME, INDEX_NAME, "."])
@pytest.mark.parametrize("how", ["gone", "empty", "cut"])
def test_parts_of_a_layer_are_made_again(foreign: Cli, name: str, how: str) -> None:
    (directory,) = (foreign.root / "layers").iterdir()
    path = directory / name
    if name == ".":
        shutil.rmtree(directory)
    elif how == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(b"" if how == "empty" else data[: len(data) // 2])
    assert foreign("cat", "foreign", "d/x").out == b"text " * 20_000
    assert foreign("export", "foreign").out == LAYER or foreign("ls", "-R", "foreign").lines
    assert foreign("layer", "foreign", "0").out == LAYER


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@needs_driver("erofs")
@pytest.mark.parametrize("name", ["metadata", "record", "side"])
@pytest.mark.parametrize("damage", [Path.unlink, _cut, _turned])
def test_what_is_mounted_in_place_is_made_again(
    cli: Cli, disk: Path, name: str, damage: Callable[[Path], object]
) -> None:
    odd = building.tar(building.file("odd", "o" * 5_000), building.file("d/x", "text " * 20_000))
    cli("load", "-q", building.layout(disk / "layout", [odd], tag="it"))
    cli("--driver", "erofs", "create", "-q", "it", "--name", "s")
    for path in cli.root.glob(f"rootfs/*/{name}"):
        damage(path)
    place = cli("mount", "s").text.strip()
    try:
        assert Path(place, "odd").read_text() == "o" * 5_000
        assert Path(place, "d/x").read_text() == "text " * 20_000
    finally:
        cli("umount", "s")


def test_a_wrong_byte_in_a_tar_is_told_and_mended(foreign: Cli) -> None:
    (tar,) = foreign.root.glob("layers/*/layer.tar")
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    assert "made anew" in foreign("layer", "foreign", "0", "-o", "/dev/null", code=14).err
    assert foreign("layer", "foreign", "0").out == LAYER


def test_the_blob_of_an_uncompressed_layer_is_had_from_its_tar(cli: Cli, disk: Path) -> None:
    cli("import", "-", "plain", stdin=LAYER)
    digest = building.digest_of(LAYER).removeprefix("sha256:")
    path = cli.root / "blobs/sha256" / digest
    path.unlink()
    cli("save", "-q", "--format", "oci-dir", "-o", disk / "saved", "plain")
    assert (disk / "saved/blobs/sha256" / digest).read_bytes() == LAYER
    assert items(cli, "--restore") == ["blob"]
    assert path.samefile(cli.root / "layers" / digest / TAR_NAME)


def test_the_tar_of_an_uncompressed_layer_is_its_blob_again(cli: Cli) -> None:
    cli("import", "-", "plain", stdin=LAYER)
    digest = building.digest_of(LAYER).removeprefix("sha256:")
    shutil.rmtree(cli.root / "layers" / digest)
    assert cli("cat", "plain", "y").out == b"y"
    assert (cli.root / "layers" / digest / TAR_NAME).samefile(cli.root / "blobs/sha256" / digest)


def test_files_are_found_by_path_and_by_content(foreign: Cli, disk: Path) -> None:
    other = building.tar(building.file("z/x", "text " * 20_000), building.file("\x1bsteering", "y"))
    foreign("load", "-q", building.layout(disk / "two", [other], tag="two"))
    assert [line.split() for line in foreign("find", "x").lines] == [
        ["IMAGE", "PATH"],
        ["foreign:latest", "/d/x"],
        ["two:latest", "/z/x"],
    ]
    digest = building.digest_of(b"text " * 20_000)
    found = foreign("find", digest, "--json", "-q").json
    assert [(item["image"]["names"], item["path"]) for item in found] == [
        (["foreign:latest"], "/d/x"),
        (["two:latest"], "/z/x"),
    ]
    assert {item["digest"] for item in found} == {digest}
    assert foreign("find", "d/x", "two", code=1).out == b""
    assert "\x1b" not in foreign("find", "*steering").text
    assert foreign("ls", "foreign", "/d/x", "--json").json[0]["digest"] == digest


def test_df_tells_what_is_in_equal_files(foreign: Cli, disk: Path) -> None:
    foreign(
        "load", "-q", building.layout(disk / "two", [building.tar(building.file("copy", "text " * 20_000))], tag="t")
    )
    equal = foreign("df", "--duplicates", "--json", quiet=False).json["duplicates"]
    assert (equal["files"], equal["equal_files"], equal["equal_size"]) == (3, 1, 100_000)
    assert equal["largest"][0]["copies"] == 2
    assert any(
        "1 of 3 files are copies of others, 100kB of 200kB" in line for line in foreign("df", "--duplicates").lines
    )


def test_files_are_hashed_while_loading(cli: Cli, disk: Path) -> None:
    layout = building.layout(disk / "layout", [LAYER], tag="it")
    cli("load", "-q", "--file-digests", layout)
    digest = building.digest_of(b"y")
    assert cli("ls", "it", "/y", "--json").json[0]["digest"] == digest
    assert cli("find", digest).err == ""  # nothing is left to be hashed
