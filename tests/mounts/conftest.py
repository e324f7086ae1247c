from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from _machine import no_leaks


@pytest.fixture(autouse=True)
def _nothing_leaks(tmp_path):
    with no_leaks(tmp_path):
        yield


@pytest.fixture
def place(tmp_path):
    """A directory that every user can reach and write."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.name.startswith("pytest-") and directory.stat().st_mode & 0o011 != 0o011:
            directory.chmod(0o755)
    tmp_path.chmod(0o777)
    return tmp_path
