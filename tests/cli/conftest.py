"""A command on an empty store, and one on a store with a small image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cli_support import BASE, Cli, tar_of


@pytest.fixture
def cli(disk: Path) -> Iterator[Cli]:
    """The command on a store that is not there yet; every mount that a test leaves is taken away."""
    work = disk / "work"
    work.mkdir()
    run = Cli(disk / "store", work)
    yield run
    if run.root.is_dir():
        run("umount", "--all")
        assert sorted(path.name for path in (run.root / "ingest").iterdir() if path.name != "layout.lock") == []


@pytest.fixture
def base(cli: Cli) -> Cli:
    """The command on a store with the image ``base:1``."""
    cli("import", "-q", "-", "base:1", stdin=tar_of(BASE), quiet=True)
    return cli


@pytest.fixture
def dev(base: Cli) -> Cli:
    """The same with a snapshot ``dev`` on it, of the driver that this machine allows."""
    base("create", "-q", "base:1", "--name", "dev")
    return base
