"""The driver ``aufs``: layers mounted as the image system of 2013 mounted them, on the kernels that can.

The first call is that system's, to the letter: ``mount("none", target, "aufs", 0, "br:RW=rw:L1=ro+wh:L2=ro+wh:")``,
the topmost layer first, and when it fails, once more after ``modprobe aufs``.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lamella._sys import syscalls
from lamella.errors import LamellaError, Unsupported
from lamella.mounts import trial
from lamella.mounts.checks import checked, detach_here, is_at_target, mount_error, record, refuse_elsewhere
from lamella.mounts.in_use import claimed
from lamella.mounts.model import Form, Mount, Mounted, Probe

MAX_BRANCHES = 127
"""What AUFS takes, the writable branch included."""

_FIRST_CALL = 43
"""Branches in the first call: the writable one and the 42 layers that the system of 2013 had room for. More than about
80 overrun the page in which the kernel keeps what it parsed."""

_PAGE = 4096
_SBIN = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))


class AufsDriver:
    """Up to 127 branches; layers beyond what one call takes are appended one at a time."""

    name = "aufs"
    form = Form.AUFS
    in_place = False

    def probe(self, at: Path) -> Probe:
        """As Driver.probe."""
        return trial.remembered(self.name, at, lambda place: trial.try_out(self, place))

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount; Unsupported (``aufs-branches``) for more layers than AUFS takes."""
        mount, target = checked(mount, target, needs_work=False)
        branches = list(dict.fromkeys(mount.lowers))  # AUFS refuses a branch twice; the topmost hides its equals
        count = len(branches) + (mount.upper is not None)
        if count > MAX_BRANCHES:
            text = f"{count} branches, and AUFS takes {MAX_BRANCHES}"
            raise Unsupported(text, code="aufs-branches", subject=str(target))
        opened: list[int] = []
        try:
            specs = [] if mount.upper is None else [_branch(os.fsencode(mount.upper), b"rw", opened)]
            specs += [_branch(os.fsencode(lower), b"ro+wh", opened) for lower in branches]
            with claimed(mount.upper):
                _mount_all(specs, os.fsencode(target), read_only=mount.upper is None)
        except OSError as error:
            raise mount_error(error, target) from error
        finally:
            for fd in opened:
                os.close(fd)
        return record(self.name, target)

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount; pseudo links are flushed before by ``auplink``, where that is installed."""
        if not self.is_mounted(mounted):
            return
        refuse_elsewhere(mounted)
        _flush_pseudo_links(mounted.target)
        detach_here(mounted, lambda: self.is_mounted(mounted))

    def is_mounted(self, mounted: Mounted) -> bool:
        """As Driver.is_mounted."""
        return is_at_target(mounted, "aufs")


def _branch(path: bytes, permission: bytes, opened: list[int]) -> bytes:
    """One branch of the option text. AUFS knows no escapes: an odd path goes in by descriptor."""
    if any(c in path for c in b":,=\\"):
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(fd)
        path = b"/proc/self/fd/%d" % fd
    return path + b"=" + permission


def _mount_all(specs: Sequence[bytes], target: bytes, *, read_only: bool) -> None:
    count = _that_fit(specs)
    data = b"br:" + b"".join(spec + b":" for spec in specs[:count])
    flags = syscalls.MS_RDONLY if read_only else 0
    _first_call(target, flags, data)
    try:
        for spec in specs[count:]:
            syscalls.mount(b"none", target, b"aufs", flags | syscalls.MS_REMOUNT, b"append:" + spec)
    except OSError:
        with suppress(OSError):
            syscalls.umount2(target, syscalls.MNT_DETACH)
        raise


def _that_fit(specs: Sequence[bytes]) -> int:
    """How many branches the first call takes: what the kernel reads of the options is one page, cut off silently."""
    size = len(b"br:") + 1
    for count, spec in enumerate(specs[:_FIRST_CALL]):
        size += len(spec) + 1
        if size > _PAGE:
            if count == 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            return count
    return min(len(specs), _FIRST_CALL)


def _first_call(target: bytes, flags: int, data: bytes) -> None:
    try:
        syscalls.mount(b"none", target, b"aufs", flags, data)
        return
    except OSError as error:
        refused = error
    if refused.errno in (errno.EPERM, errno.EACCES):
        raise refused
    problem = _load_module()
    if problem is not None:
        raise problem.about(subject=os.fsdecode(target)) from refused
    syscalls.mount(b"none", target, b"aufs", flags, data)


def _load_module() -> LamellaError | None:
    """``modprobe aufs``; what went wrong with it, if anything."""
    import subprocess

    program = shutil.which("modprobe", path=os.environ.get("PATH", "") + os.pathsep + _SBIN)
    if program is None:
        return Unsupported("the kernel has no AUFS, and there is no modprobe to load it", code="aufs-missing")
    done = subprocess.run([program, "aufs"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        text = f"the kernel has no AUFS, and the module cannot be loaded: {done.stderr.strip()}"
        return Unsupported(text, code="aufs-missing")
    return None


def _flush_pseudo_links(target: Path) -> None:
    """Give files with several names all their names in the writable branch. A failure loses nothing that was there."""
    import subprocess

    program = shutil.which("auplink", path=os.environ.get("PATH", "") + os.pathsep + _SBIN)
    if program is not None:
        subprocess.run([program, target, "flush"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
