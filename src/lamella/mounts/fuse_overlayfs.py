"""The driver ``fuse-overlayfs``: the program of that name, for where the kernel's overlayfs is not to be had."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lamella._sys import processes, syscalls
from lamella._sys.files import os_errors
from lamella.errors import AccessDenied, LamellaError, ResourceExhausted, Unsupported
from lamella.mounts import trial
from lamella.mounts.checks import checked, detach, is_at_target, record, refuse_elsewhere
from lamella.mounts.in_use import claimed, fuse_overlayfs_processes
from lamella.mounts.model import Form, Mount, Mounted, Probe

_FS_TYPE = "fuse.fuse-overlayfs"
_PROGRAM = "fuse-overlayfs"
_PATIENCE = 30.0


class FuseOverlayfsDriver:
    """A process of the program serves the tree for as long as it is mounted, and is its ``holder``.

    What it writes into the upper differs in two ways from the kernel's: opaque directories are marked with
    ``user.fuseoverlayfs.opaque`` (``trusted.overlay.opaque`` for root), and also hold an empty ``.wh..wh..opq`` and a
    0/0 device ``.wh..opq``.
    """

    name = "fuse-overlayfs"
    form = Form.OVERLAY_USER
    in_place = False

    def probe(self, at: Path) -> Probe:
        """As Driver.probe."""
        return trial.remembered(self.name, at, self._attempt)

    def _attempt(self, at: Path) -> Probe:
        if shutil.which(_PROGRAM) is None:
            return Probe(ok=False, reason="the program fuse-overlayfs is not installed")
        if not os.path.exists("/dev/fuse"):
            return Probe(ok=False, reason="there is no /dev/fuse")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return Probe(ok=False, reason="this user may not open /dev/fuse")
        return trial.try_out(self, at)

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount."""
        mount, target = checked(mount, target, needs_work=True)
        program = shutil.which(_PROGRAM)
        if program is None:
            text = "the program fuse-overlayfs is not installed"
            raise Unsupported(text, code="fuse-overlayfs-missing", subject=str(target))
        with claimed(mount.upper):
            _start(program, mount, target)
        return record(self.name, target, holder=_process_of(target))

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount. Returns when the process has written everything and ended."""
        if not self.is_mounted(mounted):
            return
        refuse_elsewhere(mounted)
        detach(mounted, lambda: _detach(mounted.target), lambda: self.is_mounted(mounted))
        if mounted.holder:
            processes.wait_until_gone(mounted.holder, mounted.holder_start, patience=_PATIENCE)

    def is_mounted(self, mounted: Mounted) -> bool:
        """As Driver.is_mounted. A mount whose process died is one still, and wants to be unmounted."""
        return is_at_target(mounted, _FS_TYPE)


def _start(program: str, mount: Mount, target: Path) -> None:
    import subprocess

    opened: list[int] = []
    try:
        with os_errors(str(target)):
            options = _options(mount, opened)
        command = [os.fsencode(program), b"-o", options, os.fsencode(target)]
        try:
            done = subprocess.run(command, pass_fds=opened, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        except OSError as error:
            text = f"cannot run {program}: {error.strerror}"
            raise Unsupported(text, code="fuse-overlayfs-missing", subject=str(target)) from error
    finally:
        for fd in opened:
            os.close(fd)
    if done.returncode != 0:
        raise _refusal(done.stderr.decode("utf-8", "backslashreplace"), target)


def _process_of(target: Path) -> int:
    wanted = os.fsencode(target)
    return next((pid for pid, words in fuse_overlayfs_processes() if words[-1] == wanted), 0)


def _options(mount: Mount, opened: list[int]) -> bytes:
    """The option text. Descriptors that the program is to inherit are added to ``opened``."""
    lowers = [_place(lower, opened) for lower in mount.lowers]
    if not lowers and mount.work is not None:
        # It insists on one; an empty directory shows nothing.
        empty = mount.work / "empty"
        empty.mkdir(exist_ok=True)
        lowers.append(_place(empty, opened))
    options = [b"lowerdir=" + b":".join(lowers)]
    if mount.upper is not None and mount.work is not None:
        if ":" in str(mount.upper):
            # By descriptor would not do: of this path it takes the real name first, and then splits that.
            text = "fuse-overlayfs takes no writable branch with a colon in its path"
            raise Unsupported(text, code="mount-colon", subject=str(mount.upper))
        options.append(b"upperdir=" + _place(mount.upper, opened))
        options.append(b"workdir=" + _place(mount.work, opened))
    return b",".join(options)


def _place(directory: Path, opened: list[int]) -> bytes:
    """A directory as the program can read it. It splits at every colon: such a path goes in by descriptor."""
    path = os.fsencode(directory)
    if b":" not in path:
        return path.replace(b"\\", b"\\\\").replace(b",", b"\\,")
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.append(fd)
    return b"/proc/self/fd/%d" % fd


def _refusal(complaint: str, target: Path) -> LamellaError:
    lines = [line for line in complaint.splitlines() if line and not line.startswith("unknown argument ignored")]
    reason = f"fuse-overlayfs: {'; '.join(lines) or 'failed without a word'}"
    if "Permission denied" in reason or "Operation not permitted" in reason:
        return AccessDenied(reason, code="mount-denied", subject=str(target))
    if "No space left" in reason or "Cannot allocate" in reason:
        return ResourceExhausted(reason, code="mount-limit", subject=str(target))
    return Unsupported(reason, code="mount-refused", subject=str(target))


def _detach(target: Path) -> None:
    """Unmount: as root by the system call, as a user by the helper of libfuse. OSError."""
    try:
        syscalls.umount2(os.fsencode(target), syscalls.UMOUNT_NOFOLLOW)
        return
    except PermissionError:
        helper = shutil.which("fusermount3") or shutil.which("fusermount")
        if helper is None:
            raise
    import errno
    import subprocess

    done = subprocess.run([helper, "-u", target], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        text = done.stderr.decode("utf-8", "backslashreplace").strip()
        raise OSError(errno.EBUSY if "busy" in text else errno.EPERM, text)
