"""Interrupted (Ctrl-C) at any system call, an operation has been done or has not; what it leaves, gc clears away."""

from __future__ import annotations

import signal
from pathlib import Path

import operations
import pytest
from experiments import FULL, Experiment, choose, needs_driver

from lamella.errors import LamellaError
from lamella.testing.supervised import Fault

MOST = 4
"""Calls that are tried of each operation; all of them, of all operations, with LAMELLA_FULL_SWEEP=1."""
NAMES = operations.names() if FULL else ["import", "load", "rmi", "gc", "commit-copy", "prepare-overlay", "mount-erofs"]

pytestmark = pytest.mark.usefixtures("supervision")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_interrupted_at_a_system_call(name: str, template: Path, inputs: Path, scratch: Path):
    needs_driver(name, scratch)
    experiment = Experiment(name, template, inputs, scratch)
    expected = experiment.expect()
    failures = []
    for number in choose(expected.calls, MOST):
        with experiment.fresh() as root:
            run = experiment.run(root, Fault(number, signal=signal.SIGINT))
            try:
                assert run.status in (0, 1), run.errors
                assert run.status == 0 or "KeyboardInterrupt" in run.errors, run.errors
                experiment.assert_recovers(root, run, expected)
            except (AssertionError, LamellaError) as error:
                failures.append(f"interrupted at {run.hit}, printed {run.output!r}: {error}")
    assert not failures, "\n\n".join(failures).replace(str(scratch), "")
