"""Performing mounts: the ladder of drivers, and the one place that goes from a driver's name to the driver."""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path
from typing import cast

from lamella._sys import mountinfo
from lamella._sys.files import remove_tree
from lamella._sys.locks import DirectoryLock
from lamella.errors import InvalidInput, ResourceExhausted, Unsupported
from lamella.mounts import _fuse, trial
from lamella.mounts.in_use import live_mount, upper_in_use
from lamella.mounts.model import Driver, Form, Mount, Mounted, Probe

__all__ = [
    "DRIVERS",
    "Driver",
    "Form",
    "Mount",
    "Mounted",
    "Probe",
    "choose",
    "clear_probes",
    "driver",
    "is_mounted",
    "ladder",
    "live_mount",
    "perform",
    "unmount",
    "upper_in_use",
]

_IMPLEMENTATIONS = {
    "erofs": "lamella.mounts.erofs:ErofsDriver",
    "overlay": "lamella.mounts.overlay:OverlayDriver",
    "fuse": "lamella.mounts.fuse:FuseDriver",
    "userns": "lamella.mounts.userns:UserNamespaceDriver",
    "fuse-overlayfs": "lamella.mounts.fuse_overlayfs:FuseOverlayfsDriver",
    "aufs": "lamella.mounts.aufs:AufsDriver",
    "copy": "lamella.mounts.copy:CopyDriver",
}

DRIVERS: tuple[str, ...] = tuple(_IMPLEMENTATIONS)
"""The names of the drivers, the one to be preferred first."""


def driver(name: str) -> Driver:
    """The driver of a name; InvalidInput for a name that none has."""
    if name not in _IMPLEMENTATIONS:
        text = f"no driver is called that; there are {', '.join(DRIVERS)}"
        raise InvalidInput(text, code="driver-unknown", subject=name)
    module, _, attribute = _IMPLEMENTATIONS[name].partition(":")
    return cast(Driver, getattr(importlib.import_module(module), attribute)())


def ladder() -> list[Driver]:
    """Every driver, the one to be preferred first."""
    return [driver(name) for name in DRIVERS]


def choose(at: Path, forced: str | None = None, *, in_place: bool = True) -> Driver:
    """The first driver that works under the directory ``at``, or exactly the ``forced`` one.

    Without ``in_place``, those that mount images are passed over: EROFS cannot hold every image that there can be.
    Unsupported (``driver-unusable``, ``driver-none``) says why each that was asked does not work there;
    ResourceExhausted (``driver-exhausted``) that one could not even be tried, for lack of space or the like.
    """
    if forced is not None:
        wanted = driver(forced)
        probe = _probed(wanted, at)
        if not probe.ok:
            text = f"does not work at {at}: {probe.reason}"
            raise Unsupported(text, code="driver-unusable", subject=f"driver {forced}")
        return wanted
    refusals = []
    for candidate in ladder():
        if candidate.in_place and not in_place:
            continue
        probe = _probed(candidate, at)
        if probe.ok:
            return candidate
        refusals.append(f"{candidate.name}: {probe.reason}")
    text = f"no driver works here: {'; '.join(refusals)}"
    raise Unsupported(text, code="driver-none", subject=str(at))


def _probed(candidate: Driver, at: Path) -> Probe:
    probe = candidate.probe(at)
    if probe.exhausted:  # with the next driver everything would be done in another way, for no reason that lasts
        raise ResourceExhausted(
            f"driver {candidate.name} cannot be tried: {probe.reason}", code="driver-exhausted", subject=str(at)
        )
    return probe


def perform(mount: Mount, target: Path) -> Mounted:
    """Mount with the driver that the mount names; contract and errors as Driver.mount."""
    return driver(mount.driver).mount(mount, target)


def clear_probes(at: Path) -> None:
    """Clear away what probes under the directory ``at`` left when their process was killed, their mounts too."""
    for place in sorted(at.glob(f"{trial.PREFIX}*")):
        lock = DirectoryLock(place)
        if lock.acquire(blocking=False):
            try:
                _unmount_below(place)
                remove_tree(place)
            finally:
                lock.release()


def _unmount_below(place: Path) -> None:
    left = live_mount(place / "upper") if (place / "upper").is_dir() else None
    if left is not None:
        unmount(left)
    resolved = place.resolve()
    for point in reversed(mountinfo.mount_points()):
        if point.target.is_relative_to(resolved):
            with suppress(OSError):
                _fuse.detach(point.target, lazy=True)  # by the helper of FUSE, should this be no root


def unmount(mounted: Mounted) -> None:
    """Undo ``perform``, in any process; contract and errors as Driver.unmount."""
    driver(mounted.driver).unmount(mounted)


def is_mounted(mounted: Mounted) -> bool:
    """Whether exactly this mount is still there."""
    return driver(mounted.driver).is_mounted(mounted)
