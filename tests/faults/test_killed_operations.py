"""Killed at any system call, a store opens, is whole, and has all of the operation or nothing of it."""

from __future__ import annotations

from pathlib import Path

import operations
import pytest
from experiments import Experiment, choose, needs_driver

from lamella.errors import LamellaError
from lamella.testing.supervised import Fault

MOST = 20
"""Calls that are tried of each operation; all of them with LAMELLA_FULL_SWEEP=1."""

pytestmark = pytest.mark.usefixtures("supervision")


@pytest.mark.parametrize("name", operations.names())
@pytest.mark.timeout(3600)
def test_killed_at_a_system_call(name: str, template: Path, inputs: Path, scratch: Path):
    needs_driver(name, scratch)
    experiment = Experiment(name, template, inputs, scratch)
    expected = experiment.expect()
    failures = []
    for number in choose(expected.calls, MOST):
        with experiment.fresh() as root:
            run = experiment.run(root, Fault(number))
            assert run.status == -9 or not run.was_hit
            try:
                experiment.assert_recovers(root, run, expected)
            except (AssertionError, LamellaError) as error:
                failures.append(f"killed at {run.hit}, printed {run.output!r}: {error}")
    assert not failures, "\n\n".join(failures).replace(str(scratch), "")
