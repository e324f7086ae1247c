"""What a program asks of the kernel, in which order, and what is left when it is killed at one of those calls.

Built on strace(1). ``missing()`` says why a machine cannot do this.
"""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"^(?:\d+\s+)?<\.\.\. \w+ resumed>(.*)$")
_LINE = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)\)\s+= (-?\d+|\?)")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its name, its arguments as strace prints them (descriptors with their path), its result."""

    name: str
    arguments: str
    result: int | None


@functools.cache
def missing() -> str:
    """Why programs cannot be traced here; empty if they can."""
    if shutil.which("strace") is None:
        return "needs strace"
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if probe.returncode == 0 else f"strace does not work here: {probe.stderr.strip()}"


def trace(program: Sequence[str], calls: Iterable[str], *, below: Path) -> list[Call]:
    """Run ``program`` to its end and return the ``calls`` that it made on paths below a directory, as they ended.

    A name with ``?`` before it may be unknown on this machine. Raises CalledProcessError if the program fails.
    """
    with tempfile.NamedTemporaryFile("r") as log:
        options = ["-f", "-y", "-s", "512", "-e", f"trace={','.join(calls)}", "-o", log.name]
        subprocess.run(["strace", *options, *program], check=True, capture_output=True)
        return list(_parse(log, str(below)))


def _parse(lines: Iterable[str], below: str) -> Iterator[Call]:
    begun: dict[str, str] = {}
    for line in lines:
        process = line.split(None, 1)[0]
        if line.rstrip().endswith(_UNFINISHED):
            begun[process] = line.rstrip().removesuffix(_UNFINISHED)
            continue
        resumed = _RESUMED.match(line)
        if resumed:
            line = begun.pop(process, "") + resumed[1]
        found = _LINE.match(line)
        if found and below in line:
            name, arguments, result = found.groups()
            yield Call(name, arguments, None if result == "?" else int(result))


def killed_at(program: Sequence[str], call: str, number: int, *, paths: Iterable[Path]) -> bool:
    """Run ``program``, killed as it makes its ``number``-th ``call`` on one of ``paths``; False if it makes fewer.

    ``call`` is one system call's name, perhaps with ``?`` before it. Raises CalledProcessError if the program fails
    otherwise.
    """
    options = ["-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    for path in paths:
        options += ["-P", str(path)]
    done = subprocess.run(["strace", *options, *program], capture_output=True, check=False)
    if done.returncode not in (0, -signal.SIGKILL, 128 + signal.SIGKILL):
        raise subprocess.CalledProcessError(done.returncode, program, done.stdout, done.stderr)
    return done.returncode != 0
