"""The act of mounting an image over FUSE: the connection, the mount, and the process that serves it.

Root mounts by the system call; anybody else through ``fusermount3``, the helper that belongs to every FUSE package.
Raises OSError with the words of whoever refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from lamella._sys import mountinfo, processes, syscalls
from lamella._sys.mountinfo import MountPoint

FS_TYPE = "fuse.lamella"
_DEVICE = "/dev/fuse"
_SOURCE = "lamella"
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from lamella.mounts.fuse_server import main; main()"
_MARK = b"from lamella.mounts.fuse_server import main"
_PATIENCE = 0.5
_BY_HELPER = "ro,default_permissions,fsname=lamella,subtype=lamella"


def missing() -> str:
    """What this machine lacks to mount over FUSE, and how to get it; empty when it is all there."""
    if not os.path.exists(_DEVICE):
        return f"there is no {_DEVICE}: load the kernel's module fuse (modprobe fuse), or give the container the device"
    if not os.access(sys.executable, os.X_OK):
        return f"there is no Python interpreter to run: {sys.executable or 'its place is not known'}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"this user may not open {_DEVICE}, which most systems let everybody (chmod 666 {_DEVICE})"
    if os.geteuid() != 0 and helper() is None:
        return "the program fusermount3 is not installed: install the package fuse3"
    return ""


def helper() -> str | None:
    """The program that mounts and unmounts FUSE for users."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def attach(target: Path, metadata: Path, devices: Sequence[Path]) -> None:
    """Mount an image at the directory ``target``, read-only, and start its server. All or nothing."""
    connection = _mount_as_root(target) if os.geteuid() == 0 else _mount_as_user(target)
    try:
        _serve(connection, target, [metadata, *devices])
    except BaseException:
        detach(target, lazy=True)
        raise
    finally:
        os.close(connection)


def _mount_as_root(target: Path) -> int:
    connection = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        data = b"fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other" % (connection, stat.S_IFDIR)
        syscalls.mount(_SOURCE.encode(), os.fsencode(target), FS_TYPE.encode(), syscalls.MS_RDONLY, data)
    except BaseException:
        os.close(connection)
        raise
    return connection


def _mount_as_user(target: Path) -> int:
    import socket
    import subprocess

    program = helper()
    if program is None:
        raise OSError(errno.ENOENT, missing())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [program, "-o", _BY_HELPER, "--", str(target)]
        done = subprocess.run(
            command,
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        theirs.close()
        if done.returncode != 0:
            raise OSError(errno.EPERM, _words(done.stderr, "it failed without a word"))
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise OSError(errno.EPERM, f"{program} gave no connection")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _serve(connection: int, target: Path, files: Sequence[Path]) -> None:
    """Start the server, and wait until it serves."""
    import subprocess

    point = mountinfo.mount_at(target)
    device = 0 if point is None else point.device
    source = str(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-c", _START, source, str(connection), str(target), str(device)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[connection],
        cwd="/",
        start_new_session=True,
    ) as process:
        answer, complaint = process.communicate(b"\0".join(map(os.fsencode, files)))
    first, _, reason = answer.partition(b"\0")
    if first == b"ok":
        return
    if first.isdigit():
        raise OSError(int(first), os.fsdecode(reason))
    raise OSError(
        errno.ECHILD, f"the process that was to serve the image ended: {_words(complaint, 'it said nothing')}"
    )


def _words(complaint: bytes, otherwise: str) -> str:
    lines = complaint.decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1] if lines else otherwise


def is_served(target: Path) -> bool:
    """Whether the server of the image that is mounted at ``target`` is there to answer."""
    try:
        os.statvfs(target)  # the one question whose answer is not remembered
    except OSError:
        return False
    return True


def detach(target: Path, *, lazy: bool = False) -> None:
    """Unmount; ``lazy``: whoever still uses it. OSError (EBUSY when it is in use)."""
    try:
        flags = syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazy else 0)
        syscalls.umount2(os.fsencode(target), flags)
        return
    except PermissionError:
        program = helper()
        if program is None:
            raise
    import subprocess

    command = [program, "-u", *(["-z"] if lazy else []), "--", str(target)]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        text = _words(done.stderr, "it failed without a word")
        raise OSError(errno.EBUSY if "busy" in text else errno.EPERM, text)


def server_of(point: MountPoint) -> int:
    """The process that serves a mounted image; 0 when none can be seen."""
    wanted = [os.fsencode(point.target), b"%d" % point.device]
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if words[-3:-1] == wanted and any(_MARK in word for word in words):
                return int(name)
    return 0


def end_server(pid: int, started: int) -> None:
    """See to it that the server of an image that is unmounted ends. Another namespace may still have a copy of the
    mount, which nobody uses, and which would keep it."""
    if pid and not processes.wait_until_gone(pid, started, patience=_PATIENCE):
        processes.terminate(pid, started)
