"""What every driver checks before it mounts, how it records a mount, and what a refusal of the kernel means."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from lamella._sys import mountinfo, processes, syscalls
from lamella._sys.files import map_os_error
from lamella._sys.mountinfo import MountPoint
from lamella.errors import AccessDenied, Conflict, InvalidInput, LamellaError, NotFound, ResourceExhausted, Unsupported
from lamella.mounts.model import Mount, Mounted

_PATIENCE = 0.5
"""Seconds to wait for a mount that is in use."""


def checked(mount: Mount, target: Path, *, needs_work: bool) -> tuple[Mount, Path]:
    """The mount and its target with resolved paths, every one of them a directory that is there."""
    if mount.upper is None and not mount.lowers:
        raise InvalidInput("nothing to mount: no lower and no upper", code="mount-empty", subject=str(target))
    lowers = tuple(_directory(path, "lower") for path in mount.lowers)
    upper = None if mount.upper is None else _directory(mount.upper, "upper")
    work = None
    if upper is not None and needs_work:
        if mount.work is None:
            text = "a writable mount needs a work directory"
            raise InvalidInput(text, code="mount-work", subject=str(upper))
        work = _directory(mount.work, "work")
        _check_pair(upper, work)
    return Mount(mount.driver, lowers, upper, work), _directory(target, "target")


def _check_pair(upper: Path, work: Path) -> None:
    if upper.is_relative_to(work) or work.is_relative_to(upper):
        text = f"the work directory {work} and the upper lie within each other"
        raise InvalidInput(text, code="mount-work", subject=str(upper))
    if upper.stat().st_dev != work.stat().st_dev:
        text = f"the work directory {work} is on another file system"
        raise InvalidInput(text, code="mount-work", subject=str(upper))


def _directory(path: Path, role: str) -> Path:
    try:
        resolved = path.resolve(strict=True)
    except FileNotFoundError as error:
        raise NotFound(f"the {role} directory is missing", code="mount-directory", subject=str(path)) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidInput(f"the {role} directory: {error}", code="mount-path", subject=str(path)) from error
    if not resolved.is_dir():
        raise InvalidInput(f"the {role} is not a directory", code="mount-not-directory", subject=str(path))
    return resolved


def record(driver: str, target: Path, *, root: Path | None = None, holder: int = 0) -> Mounted:
    """The record of a mount that was made just now, by this process or by ``holder``."""
    return Mounted(
        driver=driver,
        target=target,
        root=root or target,
        holder=holder,
        boot_id=processes.boot_id(),
        mount_ns=processes.mount_namespace(),
        holder_start=processes.start_time(holder) if holder else 0,
    )


def mount_error(error: OSError, target: Path) -> LamellaError:
    """What a refused mount means; the reason is the kernel's."""
    reason = f"cannot mount: {error.strerror or error}"
    subject = str(target)
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return AccessDenied(reason, code="mount-denied", subject=subject)
        case errno.E2BIG:
            return Unsupported(reason, code="mount-options-long", subject=subject)
        case errno.EINVAL | errno.ENODEV | errno.ENOSYS | errno.EOPNOTSUPP | errno.EOVERFLOW:
            return Unsupported(reason, code="mount-refused", subject=subject)
        case errno.ELOOP:
            return InvalidInput(reason, code="mount-overlap", subject=subject)
        case errno.EBUSY:
            return Conflict(reason, code="mount-target-busy", subject=subject)
        case errno.ENOSPC | errno.ENOMEM:
            return ResourceExhausted(reason, code="mount-limit", subject=subject)
        case _:
            return map_os_error(error, subject)


def unmount_error(error: OSError, mounted: Mounted) -> LamellaError:
    """What a refused unmount means."""
    subject = str(mounted.target)
    if error.errno == errno.EBUSY:
        hint = f"end the processes that use it: fuser -vm {mounted.root}"
        return Conflict("still in use, not unmounted", code="mount-busy", subject=subject, hint=hint)
    if error.errno in (errno.EPERM, errno.EACCES):
        return AccessDenied(f"cannot unmount: {error.strerror}", code="unmount-denied", subject=subject)
    return map_os_error(error, subject)


def detach(mounted: Mounted, how: Callable[[], None], is_mounted: Callable[[], bool]) -> None:
    """Unmount by ``how``; fine when it is gone already, Conflict (``mount-busy``) when it stays in use.

    A moment's use is waited for: a process that was just forked, by any thread here, has all our files open until it
    becomes another program, and so keeps the mount busy.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            how()
            return
        except OSError as error:
            if not is_mounted():
                return
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise unmount_error(error, mounted) from error
        time.sleep(0.01)


def detach_here(mounted: Mounted, is_mounted: Callable[[], bool]) -> None:
    """``detach`` by the system call, of a mount in this process' namespace."""
    refuse_elsewhere(mounted)
    target = os.fsencode(mounted.target)
    detach(mounted, lambda: syscalls.umount2(target, syscalls.UMOUNT_NOFOLLOW), is_mounted)


def process_in_namespace(mounted: Mounted) -> int | None:
    """A process in the namespace where the mount was made (this one first); None when nobody is there any more."""
    for pid in mountinfo.namespaces():
        try:
            if processes.mount_namespace(pid) == mounted.mount_ns:
                return pid
        except OSError:
            continue
    return None


def mount_point(mounted: Mounted) -> MountPoint | None:
    """What is mounted at the recorded target, in the recorded namespace of this boot; None when nothing is."""
    if mounted.boot_id != processes.boot_id():
        return None
    pid = process_in_namespace(mounted)
    try:
        return None if pid is None else mountinfo.mount_at(mounted.target, pid)
    except OSError:
        return None


def is_at_target(mounted: Mounted, *fs_types: str) -> bool:
    """Whether a file system (of one of these types) is mounted at the recorded target, in the recorded namespace."""
    found = mount_point(mounted)
    return found is not None and (not fs_types or found.fs_type in fs_types)


def refuse_elsewhere(mounted: Mounted) -> None:
    """Raise Conflict (``mount-elsewhere``) when the mount lies in another mount namespace than this process."""
    if mounted.mount_ns != processes.mount_namespace():
        raise Conflict(
            "mounted in another mount namespace",
            code="mount-elsewhere",
            subject=str(mounted.target),
            hint=f"unmount it where it was mounted: nsenter -m -t {process_in_namespace(mounted) or '<pid>'}",
        )
