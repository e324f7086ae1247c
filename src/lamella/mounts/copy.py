"""The driver ``copy``: no union at all, for where nothing can be mounted. The upper is the whole tree."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lamella._sys import processes
from lamella.errors import InvalidInput
from lamella.mounts import trial
from lamella.mounts._bind import bind
from lamella.mounts.checks import checked, detach_here, is_at_target, mount_error, record
from lamella.mounts.in_use import claimed
from lamella.mounts.model import Form, Mount, Mounted, Probe


class CopyDriver:
    """Shows one directory as it is: ``upper`` without lowers, or, read-only, a single lower without upper.

    A caller who may mount gets a bind mount at the target. Others get the directory itself as ``root``; nothing
    keeps them from writing to a read-only one.
    """

    name = "copy"
    form = Form.PLAIN
    in_place = False

    def probe(self, at: Path) -> Probe:
        """As Driver.probe; all it takes is a directory that can be written."""
        return trial.remembered(self.name, at, self._attempt)

    @staticmethod
    def _attempt(at: Path) -> Probe:
        if os.access(at, os.W_OK | os.X_OK):
            return Probe(ok=True)
        return Probe(ok=False, reason=f"{at} cannot be written")

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount; InvalidInput when there is more than one tree."""
        mount, target = checked(mount, target, needs_work=False)
        trees = mount.lowers if mount.upper is None else (*mount.lowers, mount.upper)
        if len(trees) != 1:
            text = f"the driver copy shows one whole tree, not {len(trees)} stacked ones"
            raise InvalidInput(text, code="mount-copy-layers", subject=str(target))
        with claimed(mount.upper):
            try:
                bind(os.fsencode(trees[0]), os.fsencode(target), read_only=mount.upper is None)
            except PermissionError:
                return replace(record(self.name, target, root=trees[0]), mount_ns=0)
            except OSError as error:
                raise mount_error(error, target) from error
        return record(self.name, target)

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount."""
        if not mounted.mount_ns or not self.is_mounted(mounted):
            return
        detach_here(mounted, lambda: self.is_mounted(mounted))

    def is_mounted(self, mounted: Mounted) -> bool:
        """As Driver.is_mounted; where nothing was mounted: whether the tree is there, in the boot of the record."""
        if not mounted.mount_ns:
            return mounted.boot_id == processes.boot_id() and mounted.root.is_dir()
        return is_at_target(mounted)
