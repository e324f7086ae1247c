"""What the tests of faults start from: inputs, and a store that holds something, made once a run."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import operations

from lamella.testing import supervised
from support import needs


@pytest.fixture(scope="session")
def fast_disk(real_disk: Path) -> Iterator[Path]:
    """A directory in memory if overlay works there: what is killed and not cut off needs no disk that is waited for."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or operations.drivers(memory) != operations.drivers(real_disk):
        yield real_disk
        return
    with tempfile.TemporaryDirectory(prefix="lamella-test-", dir=memory) as place:
        yield Path(place)


@pytest.fixture(scope="session")
def inputs(fast_disk: Path) -> Path:
    """Archives to import and to load."""
    place = fast_disk / "fault-inputs"
    operations.write_inputs(place)
    return place


@pytest.fixture(scope="session")
def template(fast_disk: Path, inputs: Path) -> Path:
    """A store with images, names, snapshots and some garbage; to be copied, not to be changed."""
    root = fast_disk / "fault-template"
    operations.fill(root, inputs)
    return root


@pytest.fixture
def scratch(fast_disk: Path) -> Iterator[Path]:
    """An empty directory beside the template."""
    with tempfile.TemporaryDirectory(dir=fast_disk) as place:
        yield Path(place)


@pytest.fixture
def supervision() -> None:
    """System calls can be made to wait here."""
    if reason := supervised.missing():
        needs.missing(f"seccomp user notifications: {reason}")
