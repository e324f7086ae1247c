from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from _machine import file_system, no_leaks, place_for_all


@pytest.fixture(autouse=True)
def _nothing_leaks(tmp_path):
    with no_leaks(tmp_path):
        yield


@pytest.fixture
def place():
    """A directory that every user can reach and write."""
    with place_for_all() as directory:
        yield directory


@pytest.fixture(params=["xfs", "btrfs"])
def reflinking(request, tmp_path):
    """A directory on a file system that shares blocks between files."""
    import os

    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    with file_system(request.param, tmp_path) as directory:
        yield directory
