"""Snapshots on the command line: create, mount, change, diff, commit, fork, roll back, remove."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from cli_support import EPOCH, Cli


def change(cli: Cli, key: str) -> None:
    """Change, add and delete something in a snapshot through its mount."""
    root = Path(cli("mount", "-q", key).text.strip())
    (root / "etc/motd").write_text("changed\n")
    (root / "new").mkdir()
    (root / "new/file").write_bytes(b"1" * 1000)
    os.unlink(root / "var/log/old")
    (root / os.fsdecode(b"new/caf\xe9\n")).touch()
    # Drivers differ in what they do to the times of directories.
    for path in ("etc/motd", "new/file", "new", "etc", "var/log", "var"):
        os.utime(root / path, (EPOCH, EPOCH))
    cli("umount", key)


CHANGES = ["C /etc/motd", "A /new", "A /new/caf\\xe9\\n", "A /new/file", "D /var/log/old"]


@pytest.fixture
def changed(base: Cli, driver: str) -> Cli:
    """The command on a store with a snapshot ``dev`` of each driver in turn, which was changed."""
    base("create", "-q", "base:1", "--name", "dev", "--driver", driver, quiet=True)
    change(base, "dev")
    return base


def test_a_snapshot_lives_its_life(changed: Cli, driver: str) -> None:
    assert changed("diff", "dev").lines == CHANGES
    [row] = changed("ps", "--json").json
    assert (row["key"], row["driver"], row["mounted"], row["writable"]) == ("dev", driver, None, True)
    id = changed("commit", "-q", "dev", "child:1", "-a", "me", "-m", "hello", quiet=True).text.strip()
    assert changed("images", "-q", "--no-trunc", "child").text.strip() == id
    assert changed("diff", "child:1").lines == changed("diff", "base:1", "child:1").lines == CHANGES
    assert changed("diff", "child:1", "dev").lines == []
    assert changed("fork", "dev", "other").text == "other\n"
    assert changed("rollback", "-q", "dev").text == "dev\n"
    assert changed("diff", "dev").lines == []
    assert changed("diff", "other").lines == CHANGES
    assert changed("rm", "dev", "other").lines == ["dev", "other"]
    assert changed("ps", "-q").out == b""
    assert changed("cat", "child:1", "/etc/motd").out == b"changed\n"


def test_committing_twice_with_an_epoch_gives_the_same_id(changed: Cli) -> None:
    changed.env["SOURCE_DATE_EPOCH"] = str(EPOCH + 1)
    first = changed("commit", "dev", "one", "-m", "x").text
    second = changed("commit", "dev", "two", "-m", "x").text
    assert first == second
    digests = {item["digest"] for item in changed("images", "--json", "*:latest").json}
    assert len(digests) == 1
    assert changed("inspect", "one").json[0]["created"] == "2023-11-14T22:13:21Z"


def test_diff_as_json_and_as_bytes(changed: Cli) -> None:
    document = changed("diff", "--json", "dev").json
    assert [item["kind"] for item in document] == ["modified", "added", "added", "added", "deleted"]
    assert document[0] == {"kind": "modified", "path": "/etc/motd", "size": 8}
    assert document[2] == {
        "kind": "added",
        "path": "/new/caf\\xe9\n",
        "path_base64": "L25ldy9jYWbpCg==",
        "size": 0,
    }
    assert b"A /new/caf\xe9\n\0A /new/file\0" in changed("diff", "-0", "dev").out


def test_diff_tells_by_its_exit_code_when_asked(changed: Cli) -> None:
    changed("diff", "--exit-code", "dev", code=1)
    changed("diff", "--exit-code", "base:1", "base:1", code=0)


def test_diff_compares_an_image_with_a_directory(base: Cli) -> None:
    base("cp", "-q", "base:1:/", "rootfs")
    assert base("diff", "base:1", "./rootfs").lines == []
    (base.cwd / "rootfs/etc/motd").unlink()
    (base.cwd / "rootfs/etc/issue").write_text("x")
    os.utime(base.cwd / "rootfs/etc", (EPOCH, EPOCH))
    assert base("diff", "base:1", "./rootfs").lines == ["A /etc/issue", "D /etc/motd"]
    assert base("diff", "base:1", str(base.cwd / "rootfs")).lines == ["A /etc/issue", "D /etc/motd"]
    assert "for the directory write ./rootfs" in base.fails(10, "diff", "base:1", "rootfs")


def test_diff_of_an_image_without_parent_is_all_of_it(base: Cli) -> None:
    lines = base("diff", "base:1").lines
    assert "A /etc/motd" in lines
    assert {line[0] for line in lines} <= {"A", "C"}


def test_commit_without_changes_is_a_step_of_history(dev: Cli) -> None:
    dev("commit", "dev", "child:1", "-c", "USER nobody")
    [child] = dev("inspect", "child:1").json
    assert child["config"]["User"] == "nobody"
    assert len(child["layers"]) == 1
    assert [step["layer"] is None for step in child["history"]] == [False, True]


def test_commit_compresses_as_asked(base: Cli, driver: str) -> None:
    base("create", "-q", "base:1", "--name", "dev", "--driver", driver)
    change(base, "dev")
    for name, suffix in (("none", ""), ("gzip", "+gzip"), ("zstd", "+zstd")):
        base("commit", "-q", "dev", f"child:{name}", "--compression", name)
        layer = base("layer", "--json", f"child:{name}").json[1]
        assert layer["media_type"] == f"application/vnd.oci.image.layer.v1.tar{suffix}"
    assert "'bzip2' is not one of" in base.fails(2, "commit", "dev", "x", "--compression", "bzip2")


def test_mount_and_umount_tell_where(dev: Cli) -> None:
    path = dev("mount", "-q", "dev").text.strip()
    assert (Path(path) / "etc/motd").read_text() == "welcome\n"
    header, row = dev("mount").lines
    assert re.split(r"\s{2,}", header) == ["KEY", "DRIVER", "MOUNTED AT"]
    assert row.split()[0] == "dev"
    assert row.endswith(path)
    assert dev("ps").lines[1].endswith(path)
    assert dev("inspect", "dev").json[0]["mounted"]["root"] == path
    line = dev.fails(13, "mount", "dev")
    assert f"the snapshot is mounted at {path}; 'lamella umount dev' ends that" in line
    assert "cannot be removed" in dev.fails(13, "rm", "dev")
    assert "cannot be rolled back" in dev.fails(13, "rollback", "dev")
    assert dev("umount", "dev").text == "dev\n"
    assert dev.fails(13, "umount", "dev") == "umount: dev: the snapshot is not mounted"
    dev("mount", "-q", "dev")
    assert dev("rm", "-f", "dev").text == "dev\n"


@pytest.mark.needs_root
def test_mount_takes_a_directory(dev: Cli) -> None:
    target = dev.cwd / "here"
    target.mkdir()
    assert dev("mount", "-q", "dev", "here").text.strip() == str(target)
    assert (target / "etc/motd").read_text() == "welcome\n"
    dev("unmount", "dev")
    assert list(target.iterdir()) == []


def test_a_read_only_snapshot_stays_as_it_is(base: Cli) -> None:
    base("create", "-q", "base:1", "--name", "view", "--read-only")
    assert base("inspect", "view").json[0]["writable"] is False
    (base.cwd / "x").write_text("x")
    assert "the snapshot is read-only" in base.fails(13, "cp", "x", "view:/x")
    assert base("ps").lines[1].split()[3] == "(ro)"


def test_keys_are_made_up_or_checked(base: Cli) -> None:
    key = base("create", "-q", "base:1", quiet=True).text.strip()
    assert re.fullmatch(r"[0-9a-f]{12}", key)
    assert "there is a snapshot of this name" in base.fails(11, "create", "base:1", "--name", key)
    assert "cannot name a snapshot" in base.fails(12, "create", "base:1", "--name", "../x")
    assert base("ps", "-q").text == f"{key}\n"


def test_a_driver_can_be_forced(base: Cli) -> None:
    base("--driver", "copy", "create", "base:1", "--name", "a")
    base("create", "base:1", "--name", "b", "--driver", "copy")
    base.env["LAMELLA_DRIVER"] = "copy"
    base("create", "base:1", "--name", "c")
    assert {item["driver"] for item in base("ps", "--json").json} == {"copy"}
    assert "no driver is called that; there are " in base.fails(12, "create", "base:1", "--driver", "floppy")


def test_what_does_not_exist_is_not_found(base: Cli) -> None:
    for words in (["rm", "x"], ["umount", "x"], ["mount", "x"], ["commit", "x"], ["rollback", "x"], ["fork", "x"]):
        assert base.fails(10, *words) == f"{words[0]}: x: no such snapshot"
    assert base.fails(10, "create", "x").startswith("create: x: no such image; ")
    assert base.fails(10, "diff", "x").startswith("diff: x: no such image or snapshot; ")


def test_umount_wants_to_know_what(base: Cli) -> None:
    assert "name the snapshots to unmount" in base.fails(2, "umount")
    assert "name the snapshots to unmount" in base.fails(2, "umount", "--all", "x")


def test_another_process_keeps_a_snapshot_busy(dev: Cli) -> None:
    lock = dev.root / "snapshots" / "dev" / "lock"
    with subprocess.Popen(["flock", str(lock), "sh", "-c", "echo; read x"], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert "another process is working on the snapshot" in dev.fails(15, "mount", "dev")
        other.communicate(b"\n")
