"""Killed, or failed, at any system call: a function runs in a child process whose calls wait for a verdict.

    run = supervised(lambda: store.load("image.tar"), below=root, fault=Fault(at=17))
    assert run.was_hit and store_is_consistent(root)

Only calls that change something and that concern a directory count, over all threads of the child, in the order in
which they are made; strace's injection counts each thread for itself and cannot tell a directory. ``missing()`` says
why a machine cannot do this.
"""

from __future__ import annotations

import functools
import os
import re
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lamella.testing import seccomp

GO_ON = 0
KILL = -signal.SIGKILL

_CREATING = os.O_CREAT | os.O_TRUNC
_AT_FDCWD = -100
_STRING = 4096
_PROC_FD = re.compile(r"^/proc/(?:self|thread-self|\d+)/fd/(\d+)")

_FD = ((0, None),)
_PATH = ((None, 0),)
_AT = ((0, 1),)
_SHAPES: dict[str, tuple[tuple[int | None, int | None], ...]] = {
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "sendfile", "ftruncate", "fallocate"), _FD),
    **dict.fromkeys(("fchmod", "fchown", "fsetxattr", "fremovexattr", "fsync", "fdatasync", "syncfs"), _FD),
    **dict.fromkeys(("open", "truncate", "mkdir", "rmdir", "unlink", "mknod", "chmod", "chown", "lchown"), _PATH),
    **dict.fromkeys(("setxattr", "lsetxattr", "removexattr", "lremovexattr", "umount2"), _PATH),
    **dict.fromkeys(("openat", "openat2", "mkdirat", "unlinkat", "mknodat", "fchmodat", "fchmodat2"), _AT),
    **dict.fromkeys(("fchownat", "utimensat"), _AT),
    **dict.fromkeys(("rename", "link"), ((None, 0), (None, 1))),
    **dict.fromkeys(("renameat", "renameat2", "linkat", "move_mount"), ((0, 1), (2, 3))),
    "symlink": ((None, 1),),
    "symlinkat": ((1, 2),),
    "copy_file_range": ((2, None),),
    "mount": ((None, 1),),
}
"""Of each call: the arguments (a descriptor, a string relative to it) that name what it changes."""

CALLS = frozenset(_SHAPES)
"""The names of the calls that can be counted; an ``openat`` counts only if it may create or truncate."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: its name, what it is about (absolute paths), and which thread makes it (the first has 0)."""

    name: str
    paths: tuple[str, ...]
    thread: int

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.paths)})"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the ``at``-th call (from 1) among those of the names ``calls`` (all, if None).

    With ``error`` (an errno) the call fails, and with ``lasting`` all later ones do too; with ``signal`` it happens,
    and the process gets the signal; else the process is killed before the call happens.
    """

    at: int
    error: int = 0
    signal: int = 0
    calls: frozenset[str] | None = None
    lasting: bool = False


@dataclass(slots=True)
class Run:
    """What a run made: its calls up to its end, its exit status (negative: the signal), what it printed."""

    calls: list[Call] = field(default_factory=list)
    status: int = 0
    output: str = ""
    errors: str = ""
    hit: Call | None = None

    @property
    def was_hit(self) -> bool:
        """Whether the run came as far as the fault."""
        return self.hit is not None


@functools.cache
def missing() -> str:
    """Why functions cannot be supervised here; empty if they can."""
    try:
        run = supervised(lambda: os.close(os.open("/dev/null", os.O_WRONLY | os.O_CREAT)), below=Path("/dev"))
    except (OSError, KeyError) as error:
        return f"system calls cannot be supervised here: {error}"
    return "" if run.calls else f"system calls cannot be supervised here: {run.errors.strip() or 'none arrived'}"


def supervised(
    act: Callable[[], object],
    *,
    below: Path,
    fault: Fault | None = None,
    decide: Callable[[int, Call], int] | None = None,
) -> Run:
    """Run ``act`` in a fork of this process, which should have no other threads; its exit status is 0 if it returns.

    ``decide`` is asked at each call that concerns something below the directory, with its number from 1, before it
    happens: GO_ON, KILL, an errno to fail with, or the negative number of a signal to send. ``fault`` is the decision
    in its usual form.
    """
    plan = _Plan(fault)
    ours, theirs = socket.socketpair()
    output, errors = os.memfd_create("output"), os.memfd_create("errors")
    try:
        child = os.fork()
        if child == 0:
            ours.close()
            _child(act, theirs, output, errors)
        theirs.close()
        run = _Supervisor(child, ours, os.path.realpath(below), decide or plan.decide).serve()
        run.output, run.errors = _text(output), _text(errors)
    finally:
        ours.close()
        theirs.close()
        os.close(output)
        os.close(errors)
    return run


class _Plan:
    """Counts towards a fault."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._count = 0

    def decide(self, number: int, call: Call) -> int:
        fault = self._fault
        if fault is None or (fault.calls is not None and call.name not in fault.calls):
            return GO_ON
        self._count += 1
        if self._count == fault.at or (fault.lasting and self._count > fault.at):
            return fault.error or -fault.signal or KILL
        return GO_ON


def _child(act: Callable[[], object], supervisor: socket.socket, output: int, errors: int) -> None:
    """What the child does; never returns."""
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        listener = seccomp.install(seccomp.numbers(CALLS))
        socket.send_fds(supervisor, [b"."], [listener])
        os.close(listener)
        supervisor.close()
        act()
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1
    except BaseException:  # noqa: BLE001 - the process ends here, and this is its message
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _text(fd: int) -> str:
    return os.pread(fd, 1 << 20, 0).decode("utf-8", "replace")


class _Supervisor:
    """Serves the calls of one child until it has ended."""

    def __init__(self, child: int, link: socket.socket, below: str, decide: Callable[[int, Call], int]) -> None:
        self._child, self._link, self._decide = child, link, decide
        self._below, self._inside = below, below.rstrip("/") + "/"
        self._names = seccomp.numbers(CALLS)
        self._threads: dict[int, int] = {}
        self._run = Run()

    def serve(self) -> Run:
        handle = os.pidfd_open(self._child)
        try:
            _, descriptors, _, _ = socket.recv_fds(self._link, 1, 1)
            for listener in descriptors:  # none, if the child could not install the filter
                try:
                    self._loop(listener, handle)
                finally:
                    os.close(listener)
        except BaseException:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            raise
        finally:
            os.close(handle)
            _, status = os.waitpid(self._child, 0)
        self._run.status = os.waitstatus_to_exitcode(status)
        return self._run

    def _loop(self, listener: int, handle: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(handle, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if ready.get(listener, 0) & select.POLLIN:
                notification = seccomp.receive(listener)
                if notification is not None and not self._answer(listener, notification, handle):
                    return
            elif handle in ready:
                return

    def _answer(self, listener: int, notification: seccomp.Notification, handle: int) -> bool:
        """Decide on one call; False once the child was killed."""
        call = self._look(notification)
        verdict = GO_ON
        if call is not None:
            self._run.calls.append(call)
            verdict = self._decide(len(self._run.calls), call)
            if verdict != GO_ON and self._run.hit is None:
                self._run.hit = call
        if verdict == KILL:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return False
        seccomp.answer(listener, notification, max(verdict, GO_ON))
        if verdict < GO_ON:
            # After the answer: a call that is interrupted while it waits for one is made, and counted, again.
            signal.pidfd_send_signal(handle, -verdict)
        return True

    def _look(self, notification: seccomp.Notification) -> Call | None:
        """The call, if it changes something below the directory."""
        name, arguments = self._names[notification.number], notification.arguments
        try:
            if name.startswith("open") and not self._creates(name, notification):
                return None
            thread = notification.thread
            paths = tuple(_path(thread, arguments, *shape) for shape in _SHAPES[name])
        except OSError:
            return None  # a descriptor or an address that is none: the call will fail by itself
        if not any(path == self._below or path.startswith(self._inside) for path in paths):
            return None
        return Call(name, paths, self._threads.setdefault(thread, len(self._threads)))

    @staticmethod
    def _creates(name: str, notification: seccomp.Notification) -> bool:
        arguments = notification.arguments
        if name == "openat2":
            flags = int.from_bytes(_memory(notification.thread, arguments[2], 8), sys.byteorder)
        else:
            flags = arguments[1] if name == "open" else arguments[2]
        return bool(flags & _CREATING)


def _path(thread: int, arguments: Collection[int], at: int | None, string: int | None) -> str:
    """What a descriptor, or a string relative to one, leads to; links in it are not followed."""
    values = list(arguments)
    name = ""
    if string is not None:
        name = os.fsdecode(_memory(thread, values[string], _STRING).split(b"\0", 1)[0])
        found = _PROC_FD.match(name)
        if found:
            return os.readlink(f"/proc/{thread}/fd/{found[1]}") + name[found.end() :]
        if name.startswith("/"):
            return os.path.normpath(name)
    fd = _AT_FDCWD if at is None else values[at] & 0xFFFFFFFF
    where = "cwd" if fd in (_AT_FDCWD, _AT_FDCWD & 0xFFFFFFFF) else f"fd/{fd}"
    directory = os.readlink(f"/proc/{thread}/{where}")
    return os.path.normpath(os.path.join(directory, name)) if name else directory


def _memory(process: int, address: int, size: int) -> bytes:
    """Up to ``size`` bytes of another process' memory, at least up to the end of the page."""
    with closing(open(f"/proc/{process}/mem", "rb", buffering=0)) as memory:
        try:
            return os.pread(memory.fileno(), size, address)
        except OSError:
            return os.pread(memory.fileno(), min(size, 4096 - address % 4096), address)
