"""Files on the command line: ls, cat, cp."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from cli_support import BASE, EPOCH, Cli, special, tar_of


def test_ls_lists_names_one_a_line(base: Cli) -> None:
    assert base("ls", "base:1", quiet=True).lines == ["bin", "etc", "home", "tmp", "var"]
    assert base("ls", "base:1", "/var").lines == base("ls", "base:1", "home/.").lines == ["caf\\xe9", "log"]
    assert base("ls", "base:1", "/etc/motd").lines == ["/etc/motd"]
    assert base("ls", "-d", "base:1", "/etc").lines == ["/etc"]
    assert base("ls", "-R", "base:1", "/etc").lines == ["/etc", "/etc/hostname", "/etc/motd", "/etc/os-release"]


def test_ls_long_tells_what_stat_tells(base: Cli) -> None:
    lines = base("ls", "-l", "base:1", "bin").lines
    assert lines == [
        "lrwxrwxrwx 1 0:0 0 2023-11-14 22:13 alias -> tool",
        "-rwxr-xr-x 2 0:0 0 2023-11-14 22:13 same",
        "-rwxr-xr-x 2 0:0 0 2023-11-14 22:13 tool",
    ]
    assert base("ls", "-ld", "base:1", "tmp").text.startswith("drwxrwxrwt 1 0:0 0 ")


def test_ls_as_json_tells_everything(base: Cli) -> None:
    found = {item["path"]: item for item in base("ls", "-R", "--json", "base:1").json}
    assert found["/etc/motd"] == {
        "path": "/etc/motd", "type": "regular", "mode": "0644", "uid": 0, "gid": 0, "size": 8,
        "mtime_ns": EPOCH * 10**9, "links": 1, "layer": 0,
    }  # fmt: skip
    assert found["/bin/alias"]["target"] == "tool"
    assert found["/bin/tool"]["links"] == 2


def test_names_that_are_not_utf8_come_through(base: Cli) -> None:
    assert b"/var/caf\xe9\0" in base("ls", "-0", "-R", "base:1").out
    [item] = [item for item in base("ls", "--json", "base:1", "var").json if "path_base64" in item]
    assert item["path"] == "/var/caf\\xe9"
    assert base("cat", "base:1", b"/var/caf\xe9").out == b"latin\n"
    base("cp", b"base:1:/var/caf\xe9", "out")
    assert (base.cwd / "out").read_bytes() == b"latin\n"
    assert "entry 'var/\\xff'" in base.fails(10, "cat", "base:1", b"/var/\xff")


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_paths_do_not_depend_on_the_locale(base: Cli, locale: str) -> None:
    base.env |= {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    base("import", "-", "x", stdin=tar_of({"\u4e16": b"1", b"caf\xe9": b"2"}))
    assert base("cat", "x", "\u4e16".encode(), b"caf\xe9").out == b"12"
    assert sorted(base("ls", "-0", "x").out.split(b"\0")) == [b"", b"caf\xe9", "\u4e16".encode()]
    assert base("ls", "x").code == 0


def test_a_link_that_leads_nowhere_is_listed(cli: Cli) -> None:
    cli("import", "-", "x", stdin=tar_of({"gone": special(tarfile.SYMTYPE, linkname="/nowhere")}))
    assert cli("ls", "x", "gone").lines == ["/gone"]
    assert "no such file" in cli.fails(10, "ls", "x", "nowhere")


def test_cat_prints_bytes_and_follows_links_inside_only(base: Cli) -> None:
    assert base("cat", "base:1", "etc/motd", "/etc/hostname").out == b"welcome\nbase\n"
    assert base("cat", "base:1", "/home/log/old").out == b"x" * 5000
    base("import", "-", "x", stdin=tar_of({"passwd": special(tarfile.SYMTYPE, linkname="/etc/passwd")}))
    line = base.fails(10, "cat", "x", "passwd")
    assert line == "cat: x: no such file or directory in the image (entry 'passwd')"
    assert base.fails(12, "cat", "base:1", "etc") == "cat: base:1: not a regular file (entry 'etc')"


# -- copying out


def test_copying_out_follows_the_rules_of_docker_cp(base: Cli) -> None:
    work = base.cwd
    base("cp", "base:1:/etc/motd", "name")
    assert (work / "name").read_text() == "welcome\n"
    (work / "dir").mkdir()
    base("cp", "base:1:etc/motd", "dir")
    base("cp", "base:1:/etc/motd", "dir/other")
    assert sorted(os.listdir(work / "dir")) == ["motd", "other"]
    base("cp", "base:1:/etc", "new")
    assert sorted(os.listdir(work / "new")) == ["hostname", "motd", "os-release"]
    base("cp", "base:1:/etc", "dir")
    assert sorted(os.listdir(work / "dir/etc")) == ["hostname", "motd", "os-release"]
    base("cp", "base:1:/etc/.", "dir")
    assert "os-release" in os.listdir(work / "dir")
    (work / "name").write_text("mine")
    base("cp", "base:1:/etc/motd", "name")
    assert (work / "name").read_text() == "welcome\n"
    assert "the directory is not there" in base.fails(10, "cp", "base:1:/etc/motd", "none/")
    assert "No such file or directory" in base.fails(10, "cp", "base:1:/etc/motd", "none/x")
    assert "it is no directory" in base.fails(12, "cp", "base:1:/etc", "name")
    assert "no such file or directory in the image" in base.fails(10, "cp", "base:1:/nope", "x")
    assert "not a directory" in base.fails(12, "cp", "base:1:/etc/motd/.", "x")


def test_copying_keeps_metadata_and_links(base: Cli) -> None:
    base("cp", "base:1:/", "out")
    out = base.cwd / "out"
    assert os.readlink(out / "bin/alias") == "tool"
    assert os.readlink(out / "home") == "/var"
    assert (out / "bin/tool").stat().st_ino == (out / "bin/same").stat().st_ino
    assert (out / "bin/tool").stat().st_mtime == (out / "etc").stat().st_mtime == EPOCH
    assert stat.S_IMODE((out / "bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "tmp").stat().st_mode) == 0o1777
    base("cp", "base:1:/bin/alias", "link")
    assert os.readlink(base.cwd / "link") == "tool"
    base("cp", "-L", "base:1:/bin/alias", "file")
    assert (base.cwd / "file").stat().st_mode == (out / "bin/tool").stat().st_mode


def test_what_is_in_an_existing_directory_stays(base: Cli) -> None:
    out = base.cwd / "out"
    out.mkdir(mode=0o700)
    (out / "etc").mkdir(mode=0o711)
    (out / "etc/mine").write_text("1")
    base("cp", "base:1:/.", "out")
    assert (out / "etc/mine").read_text() == "1"
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert stat.S_IMODE((out / "etc").stat().st_mode) == 0o711


def test_a_tar_comes_out_and_goes_in(dev: Cli) -> None:
    out = dev("cp", "base:1:/etc", "-").out
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert tar.getnames() == ["etc", "etc/hostname", "etc/motd", "etc/os-release"]
    with tarfile.open(fileobj=io.BytesIO(dev("cp", "base:1:/etc/.", "-").out)) as tar:
        assert tar.getnames() == ["hostname", "motd", "os-release"]
    dev("cp", "-", "dev:/var", stdin=out)
    assert dev("diff", "dev").lines[-4:] == [
        "A /var/etc", "A /var/etc/hostname", "A /var/etc/motd", "A /var/etc/os-release",
    ]  # fmt: skip
    assert "it is no directory" in dev.fails(12, "cp", "-", "dev:/etc/motd", stdin=out)


# -- copying in


def test_copying_in_works_with_every_driver_mounted_or_not(base: Cli, driver: str) -> None:
    base("create", "base:1", "--name", "dev", "--driver", driver)
    (base.cwd / "tree/sub").mkdir(parents=True)
    (base.cwd / "tree/sub/file").write_text("one\n")
    (base.cwd / "tree/link").symlink_to("sub/file")
    os.utime(base.cwd / "tree/sub/file", (EPOCH, EPOCH))
    base("cp", "tree", "dev:/opt")
    assert base("cat", "dev", "/opt/link").out == b"one\n"
    path = Path(base("mount", "dev").text.strip())
    base("cp", "tree/sub/file", "dev:/etc/motd")
    assert (path / "etc/motd").read_text() == "one\n"
    base("umount", "dev")
    assert base("cat", "dev", "/etc/motd").out == b"one\n"
    found = {item["path"]: item for item in base("ls", "-R", "--json", "dev", "opt").json}
    assert found["/opt/sub/file"]["mtime_ns"] == EPOCH * 10**9
    assert "C /etc/motd" in base("diff", "dev").lines


def test_copying_in_replaces_and_never_writes_through(dev: Cli) -> None:
    (dev.cwd / "x").write_text("x")
    dev("cp", "x", "dev:/bin/tool")
    assert dev("cat", "dev", "/bin/tool").out == b"x"
    assert dev("cat", "dev", "/bin/same").out == b""
    assert "it is no directory" in dev.fails(12, "cp", "x", "dev:/etc/motd/.")
    (dev.cwd / "tree/etc/motd").mkdir(parents=True)
    (dev.cwd / "tree/bin").write_text("a file")
    line = dev.fails(12, "cp", "tree/.", "dev:/")
    assert "a file cannot replace a directory (entry 'bin')" in line
    (dev.cwd / "tree/bin").unlink()
    assert "a directory cannot replace what is there: it is none" in dev.fails(12, "cp", "tree/.", "dev:/")


def test_copying_between_an_image_and_a_snapshot(dev: Cli) -> None:
    dev("import", "-", "other", stdin=tar_of({"data": None, "data/a": b"1"}))
    dev("cp", "other:/data", "dev:/var")
    dev("cp", "dev:/var/data/a", "dev:/etc")
    assert dev("cat", "dev", "/var/data/a", "/etc/a").out == b"11"


def test_cp_says_what_it_does_not_do(dev: Cli) -> None:
    (dev.cwd / "x").write_text("x")
    line = dev.fails(12, "cp", "x", "base:1:/x")
    assert line == "cp: base:1: an image cannot be changed; copy into a snapshot: 'lamella create base:1' makes one"
    assert "one side must be NAME:PATH" in dev.fails(2, "cp", "x", "y")
    assert "no such snapshot" in dev.fails(10, "cp", "x", "nope:/x")
    assert dev.fails(10, "cp", "nothere", "dev:/x") == "cp: nothere: No such file or directory"
    (dev.cwd / "dev:file").write_text("colon")
    dev("cp", "./dev:file", "dev:/")
    assert dev("cat", "dev", "/dev:file").out == b"colon"


def test_a_sparse_file_stays_sparse(dev: Cli) -> None:
    with open(dev.cwd / "sparse", "wb") as file:
        file.truncate(1 << 26)
        file.seek(1 << 25)
        file.write(b"middle")
    dev("cp", "sparse", "dev:/sparse")
    dev("commit", "dev", "child")
    dev("cp", "child:/sparse", "back")
    assert (dev.cwd / "back").read_bytes() == (dev.cwd / "sparse").read_bytes()
    assert (dev.cwd / "back").stat().st_blocks * 512 < 1 << 22


# -- hostile images, hostile snapshots


def hostile(cli: Cli, entries: dict[str | bytes, object], name: str = "evil") -> None:
    cli("import", "-q", "-", name, stdin=tar_of(entries))


def outside(cli: Cli) -> Path:
    """A directory beside the working directory with one file in it."""
    place = cli.cwd.parent / "outside"
    place.mkdir()
    (place / "victim").write_text("untouched")
    return place


def assert_untouched(place: Path) -> None:
    assert os.listdir(place) == ["victim"]
    assert (place / "victim").read_text() == "untouched"


@pytest.mark.parametrize("target", ["{outside}", "../outside", "../../outside", "/proc/self/cwd/../outside"])
def test_a_link_that_an_image_brings_is_not_written_through(cli: Cli, target: str) -> None:
    place = outside(cli)
    link = special(tarfile.SYMTYPE, linkname=target.format(outside=place))
    hostile(cli, {"first": None, "first/link": link}, "one")
    hostile(cli, {"first": None, "first/link": None, "first/link/victim": b"overwritten"}, "two")
    (cli.cwd / "out").mkdir()
    cli("cp", "one:/.", "out")
    line = cli.fails(12, "cp", "two:/.", "out")
    assert "a directory cannot replace what is there: it is none (entry 'first/link')" in line
    assert_untouched(place)


def test_a_link_in_the_way_of_a_file_is_replaced_and_not_written_through(cli: Cli) -> None:
    place = outside(cli)
    hostile(cli, {"victim": b"overwritten", "other": b"overwritten"})
    out = cli.cwd / "out"
    out.mkdir()
    (out / "victim").symlink_to(place / "victim")
    os.link(place / "victim", out / "other")
    cli("cp", "evil:/.", "out")
    assert (out / "victim").read_text() == (out / "other").read_text() == "overwritten"
    assert not (out / "victim").is_symlink()
    assert_untouched(place)


def test_links_on_the_way_to_the_source_lead_inside_the_image(cli: Cli) -> None:
    outside(cli)
    up = special(tarfile.SYMTYPE, linkname="../../../../../../..")
    hostile(cli, {"up": up, "abs": special(tarfile.SYMTYPE, linkname="/"), "etc": None, "etc/passwd": b"image's"})
    for path in ("up/etc/passwd", "abs/etc/passwd", "../../etc/passwd", "up/up/../abs/etc/passwd"):
        cli("cp", f"evil:/{path}", "got")
        assert (cli.cwd / "got").read_bytes() == b"image's"
        assert cli("cat", "evil", path).out == b"image's"
    cli("cp", "-L", "evil:/abs/up", "tree")
    assert (cli.cwd / "tree/etc/passwd").read_bytes() == b"image's"


@pytest.mark.parametrize("name", ["../victim", "a/../../outside/victim", "/outside/victim"])
def test_a_tar_with_names_that_lead_outside_is_refused_or_kept_inside(dev: Cli, name: str) -> None:
    place = outside(dev)
    data = tar_of({name: b"overwritten"})
    if ".." in name:
        assert "'..'" in dev.fails(12, "cp", "-", "dev:/var", stdin=data)
        assert dev("diff", "dev").lines == []
    else:
        dev("cp", "-", "dev:/var", stdin=data)
        assert "A /var/outside/victim" in dev("diff", "dev").lines
    assert_untouched(place)


def test_links_of_a_snapshot_lead_nowhere_on_the_host(base: Cli, driver: str) -> None:
    place = outside(base)
    deep = special(tarfile.SYMTYPE, linkname="../" * 30 + str(place).lstrip("/"))
    hostile(base, {
        "abs": special(tarfile.SYMTYPE, linkname=str(place)),
        "up": deep,
        "file": special(tarfile.SYMTYPE, linkname=str(place / "victim")),
        "dir": None,
        "dir/loop": special(tarfile.SYMTYPE, linkname="loop"),
    })  # fmt: skip
    base("create", "evil", "--name", "s", "--driver", driver)
    (base.cwd / "victim").write_text("overwritten")
    (base.cwd / "tree").mkdir()
    (base.cwd / "tree/abs").mkdir()
    (base.cwd / "tree/abs/victim").write_text("overwritten")
    for target in ("s:/abs/victim", "s:/up/victim", "s:/abs/", "s:/../../../outside/victim"):
        base.fails(10, "cp", "victim", target)
    # Where a last link leads is inside the snapshot too, and there is no such directory there.
    base.fails(10, "cp", "victim", "s:/file")
    base.fails(12, "cp", "victim", "s:/dir/loop")
    assert "a directory cannot replace what is there" in base.fails(12, "cp", "tree/.", "s:/")
    assert_untouched(place)
    assert base("diff", "s").lines == []


def test_special_files_of_the_host_are_not_replaced(base: Cli) -> None:
    os.mkfifo(base.cwd / "pipe")
    (base.cwd / "null").symlink_to("/dev/null")
    for name in ("pipe", "null", "/dev/null"):
        assert "is not replaced" in base.fails(13, "cp", "base:1:/etc/motd", name)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_the_host_can_be_copied_from_while_links_in_it_are_kept(dev: Cli) -> None:
    place = outside(dev)
    (dev.cwd / "tree").mkdir()
    (dev.cwd / "tree/link").symlink_to(place)
    dev("cp", "tree", "dev:/")
    assert dev("ls", "-l", "dev", "/tree").text.rstrip().endswith(f"link -> {place}")
    dev("cp", "-L", "tree/link", "dev:/followed")
    assert dev("cat", "dev", "/followed/victim").out == b"untouched"


@pytest.mark.needs_root
def test_devices_and_setuid_files_come_out_for_root(cli: Cli) -> None:
    hostile(cli, {
        "null": special(tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        "pipe": special(tarfile.FIFOTYPE, mode=0o600),
        "su": special(tarfile.REGTYPE, mode=0o4755, uid=12, gid=34),
    })  # fmt: skip
    cli("cp", "evil:/.", "out")
    assert (cli.cwd / "out/null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((cli.cwd / "out/pipe").stat().st_mode)
    status = (cli.cwd / "out/su").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o4755)


def test_base_is_what_the_tests_think(base: Cli) -> None:
    assert len(base("ls", "-R", "base:1").lines) == len(BASE) + 1
