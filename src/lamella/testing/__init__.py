"""Conformance suites and fault injection, for the tests of Lamella and of whoever implements its interfaces.

A suite is a class of test methods. Subclass it under a name that the test runner collects, and provide the fixture that
its methods ask for. Nothing here imports a test runner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lamella.errors import LamellaError


@contextmanager
def refuses(kind: type[LamellaError], code: str = "", *, naming: str = "") -> Iterator[None]:
    """Expect the block to raise exactly this kind, with this code, and with ``naming`` in its message."""
    raised: LamellaError | None = None
    try:
        yield
    except LamellaError as error:
        raised = error
    assert raised is not None, f"{kind.__name__} was expected, nothing was raised"
    assert type(raised) is kind, f"{kind.__name__} was expected, not {type(raised).__name__}: {raised}"
    assert not code or raised.code == code, f"the code {code} was expected, not {raised.code}: {raised}"
    assert naming in str(raised), f"{naming!r} is not named in: {raised}"
