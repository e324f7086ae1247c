"""The driver ``overlay``: the kernel's overlayfs, for callers who may mount."""

from __future__ import annotations

import os
from pathlib import Path

from lamella.mounts import _overlayfs, trial
from lamella.mounts.checks import checked, detach_here, mount_error, mount_point, record
from lamella.mounts.in_use import claimed
from lamella.mounts.model import Form, Mount, Mounted, Probe


class OverlayDriver:
    """Any number of layers with any names (500 on today's kernels); on old ones, what fits a page of options."""

    name = "overlay"
    form = Form.OVERLAY
    in_place = False

    def __init__(self, *, interface: str | None = None, volatile: bool = False) -> None:
        """``interface``: as ``_overlayfs.interface``, None for the best; ``volatile``: as ``_overlayfs.attach``."""
        self._interface = interface
        self._volatile = volatile

    def probe(self, at: Path) -> Probe:
        """As Driver.probe."""
        return trial.remembered(self.name, at, lambda place: trial.try_out(OverlayDriver(volatile=True), place))

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount. The view of a read-only mount of one layer is exact too: its whiteouts do not show."""
        mount, target = checked(mount, target, needs_work=True)
        with claimed(mount.upper):
            try:
                _overlayfs.attach(
                    os.fsencode(target),
                    [os.fsencode(lower) for lower in mount.lowers],
                    None if mount.upper is None else os.fsencode(mount.upper),
                    None if mount.work is None else os.fsencode(mount.work),
                    volatile=self._volatile and mount.upper is not None,
                    how=self._interface,
                )
            except OSError as error:
                raise mount_error(error, target) from error
        return record(self.name, target)

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount."""
        if not self.is_mounted(mounted):
            return
        detach_here(mounted, lambda: self.is_mounted(mounted))

    def is_mounted(self, mounted: Mounted) -> bool:
        """As Driver.is_mounted."""
        found = mount_point(mounted)
        if found is None:
            return False
        # On kernels before 5.2, a single layer is shown by a read-only bind mount.
        return found.fs_type == "overlay" or (b"ro" in found.options and found.root != Path("/"))
