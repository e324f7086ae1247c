"""Fault injection: a stand-in for any object, whose n-th call of a method fails.

    content = inject(LocalContent(root), Fault("open_ingest.write", 3, ResourceExhausted("disk full")))

``open_ingest.write`` is ``write`` of whatever ``open_ingest`` returned; the calls are counted over all of them. What is
not named works as before: the object underneath is the real one, and what it did before the fault, it did.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """The ``call``-th call (from 1) of ``method`` raises ``error``: instead of working, or ``after`` it has worked."""

    method: str
    call: int
    error: BaseException
    after: bool = False


def inject(target: T, *faults: Fault) -> T:
    """A stand-in for ``target`` that fails as told. Safe for use by several threads if ``target`` is."""
    return cast(T, _Faulty(target, _Plan(faults), ""))


def calls(stand_in: object) -> dict[str, int]:
    """How often each method was called so far, by the names that faults have."""
    return dict(cast(_Faulty, stand_in)._plan.counts)


class _Plan:
    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self._lock = threading.Lock()
        self._faults = {(fault.method, fault.call): fault for fault in faults}
        self.counts: Counter[str] = Counter()
        self.parents = {name[:n] for name, _ in self._faults for n, char in enumerate(name) if char == "."}

    def next(self, method: str) -> Fault | None:
        with self._lock:
            self.counts[method] += 1
            return self._faults.get((method, self.counts[method]))


class _Faulty:
    """Python looks up special methods on the class, so those of context managers and iterators are spelled out."""

    def __init__(self, target: Any, plan: _Plan, prefix: str) -> None:
        self._target = target
        self._plan = plan
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return self._watched(name, value) if callable(value) else value

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        path = self._prefix + name

        def call(*args: Any, **kwargs: Any) -> Any:
            fault = self._plan.next(path)
            if fault is not None and not fault.after:
                raise fault.error
            result = method(*args, **kwargs)
            if fault is not None:
                raise fault.error
            if result is self._target:
                return self
            return _Faulty(result, self._plan, f"{path}.") if path in self._plan.parents else result

        return call

    def __enter__(self) -> Any:
        return self._watched("__enter__", self._target.__enter__)()

    def __exit__(self, *details: Any) -> Any:
        return self._watched("__exit__", self._target.__exit__)(*details)

    def __iter__(self) -> Any:
        return self._watched("__iter__", self._target.__iter__)()

    def __next__(self) -> Any:
        return self._watched("__next__", self._target.__next__)()
