"""The driver ``userns``: the kernel's overlayfs in a user namespace, for callers without root."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from lamella._sys import mountinfo, processes
from lamella.errors import LamellaError, Unavailable, Unsupported
from lamella.mounts import trial
from lamella.mounts.checks import checked, detach, mount_error, record, unmount_error
from lamella.mounts.in_use import claimed
from lamella.mounts.model import Form, Mount, Mounted, Probe

_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from lamella.mounts.holder import main; main()"
_HINT = (
    "the system must let users make user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone"
    " or kernel.apparmor_restrict_unprivileged_userns"
)


class UserNamespaceDriver:
    """The tree is reached through /proc/<holder>/root, by the same user.

    The holder is a small process that lives as long as the mount, beyond the end of the command that made it. Inside
    the mount the caller's user and group are root and no others exist: files of the layers belong to the caller.
    """

    name = "userns"
    form = Form.OVERLAY_USER
    in_place = False

    def __init__(self, *, volatile: bool = False) -> None:
        """``volatile``: as ``_overlayfs.attach``."""
        self._volatile = volatile

    def probe(self, at: Path) -> Probe:
        """As Driver.probe."""
        return trial.remembered(self.name, at, lambda place: trial.try_out(UserNamespaceDriver(volatile=True), place))

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount."""
        mount, target = checked(mount, target, needs_work=True)
        volatile = b"volatile" if self._volatile and mount.upper is not None else b""
        places = [b"" if path is None else os.fsencode(path) for path in (mount.upper, mount.work, *mount.lowers)]
        with claimed(mount.upper):
            answer = _run(["mount", str(target)], b"\0".join([volatile, *places]))
            if answer[0] != b"ok":
                raise _refusal(answer, target)
        holder = int(answer[1])
        return record(self.name, target, root=Path(f"/proc/{holder}/root{target}"), holder=holder)

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount. The holder ends; no other process is ever touched, should its number be used again."""
        if not self._holder_runs(mounted):
            return
        if self.is_mounted(mounted):
            detach(mounted, lambda: _detach(mounted), lambda: self.is_mounted(mounted))
        try:
            processes.terminate(mounted.holder, mounted.holder_start)
        except OSError as error:
            raise unmount_error(error, mounted) from error

    def is_mounted(self, mounted: Mounted) -> bool:
        """As Driver.is_mounted."""
        if not self._holder_runs(mounted):
            return False
        try:
            found = mountinfo.mount_at(mounted.target, mounted.holder)
        except OSError:
            return False
        return found is not None and found.fs_type == "overlay"

    @staticmethod
    def _holder_runs(mounted: Mounted) -> bool:
        return mounted.boot_id == processes.boot_id() and processes.is_running(mounted.holder, mounted.holder_start)


def _detach(mounted: Mounted) -> None:
    """Unmount inside the holder's namespaces, as only a process that enters them can. OSError."""
    answer = _run(["unmount", str(mounted.target), str(mounted.holder), str(mounted.holder_start)], b"")
    if answer[0] != b"ok":
        raise OSError(int(answer[0]), os.fsdecode(answer[2]))


def _run(arguments: list[str], orders: bytes) -> list[bytes]:
    """Start the holder's program and return what it answers, a list that begins with ``ok`` or an error number."""
    import subprocess

    if not sys.executable:
        raise Unsupported("there is no Python interpreter to run", code="holder-interpreter", subject="driver userns")
    source = str(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-c", _START, source, *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        text = f"cannot run {sys.executable}: {error.strerror}"
        raise Unsupported(text, code="holder-interpreter", subject="driver userns") from error
    with process:
        answer, complaint = process.communicate(orders)
    if not answer:
        lines = complaint.decode("utf-8", "backslashreplace").strip().splitlines() or ["it said nothing"]
        raise Unavailable(f"the process that was to hold the mount ended: {lines[-1]}", code="holder-failed")
    return answer.split(b"\0")


def _refusal(answer: list[bytes], target: Path) -> LamellaError:
    error = OSError(int(answer[0]), os.fsdecode(answer[2]))
    if answer[1] == b"namespace":
        text = f"no user namespace for this user: {error.strerror}"
        return Unsupported(text, code="userns-refused", subject=str(target), hint=_HINT)
    typed = mount_error(error, target)
    if error.errno in (errno.EPERM, errno.EACCES):
        typed.hint = _HINT
    return typed
