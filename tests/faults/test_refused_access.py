"""Where the system refuses to write, every operation says so, and nothing changes."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

import operations
import pytest
from experiments import Experiment, needs_driver

from _machine import run_as_nobody
from lamella import Store
from lamella.errors import AccessDenied
from lamella.testing import disks
from support import needs

OPERATIONS = [name for name in operations.names() if not name.startswith("mount")]


def attempt(name: str, root: Path, inputs: Path) -> str:
    """The kind of the error that an operation ends with."""
    try:
        with Store.open(root) as store:
            operations.run(name, store, inputs)
    except AccessDenied as error:
        return f"{error.kind} {error}"
    return "no error"


def everything(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of a directory: mode, size, time."""
    found = {}
    for directory, subdirectories, files in os.walk(root):
        for name in (*subdirectories, *files):
            info = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (info.st_mode, info.st_size, info.st_mtime_ns)
    return found


@pytest.mark.needs_root
@pytest.mark.parametrize("name", OPERATIONS)
class TestEveryOperation:
    def test_on_a_disk_that_is_read_only(self, name: str, template: Path, inputs: Path, scratch: Path):
        if reason := disks.missing():
            needs.missing(reason.removeprefix("needs "))
        needs_driver(name, scratch)
        with disks.small_disk(scratch / "disk", kib=64 << 10) as disk:
            root = disk / "new" if name == "create" else operations.copy_store(template, disk / "store")
            before = everything(disk)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            assert attempt(name, root, inputs).startswith("access-denied")
            assert everything(disk) == before

    def test_on_a_store_of_somebody_else(self, name: str, template: Path, inputs: Path, scratch: Path):
        needs_driver(name, scratch)
        experiment = Experiment(name, template, inputs, scratch)
        with experiment.fresh() as root:
            before = everything(root)
            for directory in (scratch, *scratch.parents):
                if directory.stat().st_uid == os.geteuid() and directory.is_relative_to(inputs.parent):
                    directory.chmod(0o755)
            answer = run_as_nobody(partial(attempt, name, root, inputs))
            assert answer.startswith("access-denied"), answer
            assert everything(root) == before


@pytest.mark.needs_root
def test_what_is_to_be_imported_may_not_be_read(tmp_path: Path, inputs: Path):
    secret = tmp_path / "secret.tar"
    secret.write_bytes((inputs / "other.tar").read_bytes())
    secret.chmod(0o600)
    store = tmp_path / "store"
    store.mkdir()
    os.chown(store, 65534, 65534)
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)

    def act() -> tuple[str, str, int]:
        with Store.open(store) as opened:
            with pytest.raises(AccessDenied) as raised:
                opened.import_rootfs(secret, "secret:1")
            return raised.value.code, raised.value.subject, len(opened.images())

    assert run_as_nobody(act) == ("access-denied", str(secret), 0)
