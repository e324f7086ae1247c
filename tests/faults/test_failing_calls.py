"""When a system call fails, the operation fails with a typed error and leaves nothing; or it succeeds all the same."""

from __future__ import annotations

import errno
from pathlib import Path

import operations
import pytest
from experiments import Experiment, choose, needs_driver

from lamella.errors import LamellaError
from lamella.testing.supervised import CALLS, Fault

MOST = 8
"""Calls that are tried of each operation and each way to fail; all of them with LAMELLA_FULL_SWEEP=1."""

TAKE_SPACE = frozenset(
    name for name in CALLS if name.startswith(("write", "pwrite", "open", "mkdir", "copy", "symlink"))
)
FAULTS = {
    "an I/O error": (errno.EIO, CALLS, False),
    "a full disk": (errno.ENOSPC, TAKE_SPACE, False),
    "a disk that stays full": (errno.ENOSPC, TAKE_SPACE, True),
}

pytestmark = pytest.mark.usefixtures("supervision")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", operations.names())
@pytest.mark.timeout(3600)
def test_a_system_call_fails(name: str, fault: str, template: Path, inputs: Path, scratch: Path):
    needs_driver(name, scratch)
    error, names, lasting = FAULTS[fault]
    experiment = Experiment(name, template, inputs, scratch)
    expected = experiment.expect()
    counted = [call for call in expected.calls if call.name in names]
    failures = []
    for number in choose(counted, MOST):
        with experiment.fresh() as root:
            run = experiment.run(root, Fault(number, error, calls=names, lasting=lasting))
            try:
                assert run.status in (0, 3), run.errors
                assert run.status == 3 or run.output == "done\n"
                experiment.assert_recovers(root, run, expected)
            except (AssertionError, LamellaError) as problem:
                failures.append(f"failed at {run.hit} ({number}), printed {run.output!r}, {run.errors!r}: {problem}")
    assert not failures, "\n\n".join(failures).replace(str(scratch), "")
