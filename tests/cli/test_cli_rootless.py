"""The command in the hands of a user without root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import BASE, Cli, special, tar_of

from _machine import NOBODY, interpreter_for_all
from support import needs


@pytest.fixture
def user() -> Iterator[Cli]:
    """The command run by the user nobody, where we are root, on a store with an image of files of several owners."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="lamella-user-") as name:
        place = Path(name)
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        as_root = os.geteuid() == 0
        python = (interpreter_for_all() if as_root else None) or sys.executable
        run = Cli(place / "store", place, {"HOME": name}, user=NOBODY if as_root else None, python=python)
        if not run.works():
            needs.missing(f"a Python that every user may run, which {sys.executable} is not")
        mine = special(tarfile.REGTYPE, uid=1000, gid=50, mode=0o6755)
        run("import", "-", "base:1", stdin=tar_of({**BASE, "mine": mine, "dir": special(tarfile.DIRTYPE, uid=7)}))
        yield run
        run("umount", "--all")
        for key in run("ps", "-q").lines:
            run("rm", key)


def drivers(cli: Cli) -> list[str]:
    return [item["name"] for item in cli("info", "--json").json["drivers"] if item["works"]]


def test_the_whole_life_without_root(user: Cli) -> None:
    (user.cwd / "f").write_text("x")
    for driver in drivers(user):
        user("create", "base:1", "--name", driver, "--driver", driver)
        assert user("diff", driver).lines == []
        user("cp", "f", f"{driver}:/etc/f")
        path = Path(user("mount", driver).text.strip())
        subprocess.run(["rm", path / "etc/motd"], check=True, **user.identity())
        user("umount", driver)
        lines = user("diff", driver).lines
        assert "A /etc/f" in lines
        assert "D /etc/motd" in lines
        assert {line[2:] for line in lines} <= {"/etc", "/etc/f", "/etc/motd"}
        user("commit", driver, f"child:{driver}")
        owners = {item["path"]: (item["uid"], item["mode"]) for item in user("ls", f"child:{driver}", "--json").json}
        assert owners["/mine"] == (1000, "6755")
        assert owners["/dir"][0] == 7


def test_copying_out_gives_files_to_the_user_and_drops_setuid(user: Cli) -> None:
    user("cp", "base:1:/.", "out")
    status = (user.cwd / "out/mine").stat()
    assert status.st_uid == user.cwd.stat().st_uid
    assert stat.S_IMODE(status.st_mode) == 0o755


def test_the_store_is_in_the_home_directory(user: Cli) -> None:
    command = [word for word in user.command("info", "--json") if word not in ("--root", str(user.root))]
    for variables, where in (
        ({}, ".local/share/lamella"),
        ({"XDG_DATA_HOME": "relative"}, ".local/share/lamella"),
        ({"XDG_DATA_HOME": str(user.cwd / "data")}, "data/lamella"),
        ({"LAMELLA_ROOT": str(user.cwd / "named")}, "named"),
    ):
        environment = {**user.environment(), **variables}
        done = subprocess.run(command, env=environment, capture_output=True, check=True, cwd="/", **user.identity())
        assert f'"root": "{user.cwd}/{where}"' in done.stdout.decode()
    shutil.rmtree(user.cwd / "data")


def test_what_a_user_may_not_do_is_denied(user: Cli) -> None:
    locked = user.cwd / "locked"
    locked.mkdir(mode=0o555)
    line = user.fails(16, "export", "base:1", "-o", locked / "x.tar")
    assert line == f"export: {locked}: Permission denied"
    assert user.fails(16, "cp", "base:1:/etc", locked).endswith("Permission denied (entry 'etc')")
