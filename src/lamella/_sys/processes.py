"""Naming a process, a boot and a namespace so that the name cannot come to mean another one later."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from pathlib import Path


def boot_id() -> str:
    """The random id of the running boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def mount_namespace(pid: int | None = None) -> int:
    """The number of a process' mount namespace, None for this process. OSError: gone, or not for us to know."""
    return os.stat(f"/proc/{'self' if pid is None else pid}/ns/mnt").st_ino


def start_time(pid: int) -> int:
    """When a live process was started, in clock ticks since the boot; 0 when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_running(pid: int, started: int) -> bool:
    """Whether exactly this process (``start_time`` told ``started``) still runs."""
    return started > 0 and start_time(pid) == started


def wait_until_gone(pid: int, started: int, *, patience: float) -> bool:
    """Wait up to ``patience`` seconds for exactly this process to end by itself; whether it has."""
    deadline = time.monotonic() + patience
    pause = 0.001
    while is_running(pid, started):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


def terminate(pid: int, started: int, *, patience: float = 10.0) -> bool:
    """End exactly this process, by SIGTERM and after ``patience`` seconds by SIGKILL, and wait until it is gone.

    A process that took over the number meanwhile is never touched. True when the process was there and is gone now,
    False when it was gone before. OSError (EPERM) when it is not ours to end.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return _terminate_by_number(pid, started, patience)
        raise
    try:
        if not is_running(pid, started):
            return False
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                return True
            if poll.poll(patience * 1000):
                return True
        return False
    finally:
        os.close(handle)


def _terminate_by_number(pid: int, started: int, patience: float) -> bool:
    """For kernels before 5.3. The number could change hands between the check and the signal, in theory."""
    if not is_running(pid, started):
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(pid, number)
        if wait_until_gone(pid, started, patience=patience):
            return True
    return False
