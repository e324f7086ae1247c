"""The driver ``fuse``: images mounted without extracting them where the kernel will not mount EROFS for the caller.

A process serves the image from the same metadata and tars that the kernel would read. Above it lies what the caller may
mount: for root the kernel's overlay, for anybody else that in a user namespace, or else fuse-overlayfs. An image is
served once in a mount namespace, at a place of its own, and every overlay over it stands on that; with the last of them
it is unmounted, and its server ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lamella._sys import mountinfo
from lamella._sys.files import os_errors
from lamella._sys.mountinfo import MountPoint
from lamella.errors import AccessDenied, LamellaError, Unavailable, Unsupported
from lamella.mounts import _fuse, image_mounts, trial
from lamella.mounts.checks import mount_error, mount_point
from lamella.mounts.erofs import try_image
from lamella.mounts.fuse_overlayfs import FuseOverlayfsDriver
from lamella.mounts.in_use import fuse_overlayfs_images, fuse_overlayfs_processes
from lamella.mounts.model import Driver, ErofsImage, Form, Mount, Mounted, Probe
from lamella.mounts.overlay import OverlayDriver
from lamella.mounts.userns import UserNamespaceDriver


class FuseDriver:
    """Takes an image instead of the trees of its layers; more trees may lie between it and the upper.

    A mount without an image is one of the driver that would be above it, and recorded as such.
    """

    name = "fuse"
    in_place = True

    def __init__(self, *, above: str | None = None, volatile: bool = False) -> None:
        """``above``: the one driver to put above the image; ``volatile``: as ``_overlayfs.attach``."""
        self._above = above
        self._volatile = volatile

    @property
    def form(self) -> Form:
        """As Driver.form."""
        return Form.OVERLAY if os.geteuid() == 0 else Form.OVERLAY_USER

    def probe(self, at: Path) -> Probe:
        """As Driver.probe. What the machine lacks is said, with how to get it."""
        name = self.name if self._above is None else f"{self.name}-{self._above}"
        return trial.remembered(name, at, self._attempt)

    def _attempt(self, at: Path) -> Probe:
        missing = _fuse.missing()
        if missing:
            return Probe(ok=False, reason=missing)
        if os.geteuid() == 0 and not (above := OverlayDriver().probe(at)).ok:
            return above
        return trial.try_out(FuseDriver(above=self._above, volatile=True), at, try_image)

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount."""
        if mount.image is None:
            return self._mount_above(mount, target)
        with self._shown(mount.image) as at:
            return replace(
                self._mount_above(replace(mount, lowers=(*mount.lowers, at), image=None), target), driver=self.name
            )

    def _mount_above(self, mount: Mount, target: Path) -> Mounted:
        """Mount with the first of the drivers above that can."""
        first, *others = self._drivers()
        try:
            return first.mount(replace(mount, driver=first.name), target)
        except (Unsupported, AccessDenied, Unavailable) as refusal:
            for other in others:
                try:
                    return other.mount(replace(mount, driver=other.name), target)
                except LamellaError:
                    continue
            raise refusal

    def _drivers(self) -> list[Driver]:
        if os.geteuid() == 0:
            return [OverlayDriver(volatile=self._volatile)]
        found: list[Driver] = [UserNamespaceDriver(volatile=self._volatile), FuseOverlayfsDriver()]
        return [driver for driver in found if self._above in (None, driver.name)]

    @contextmanager
    def _shown(self, image: ErofsImage) -> Iterator[Path]:
        """The image mounted at its directory, by this or by an earlier mount."""
        with os_errors(str(image.at)):
            at = image_mounts.fuse_place(image.at.resolve(strict=True))
            at.mkdir(mode=0o700, exist_ok=True)
        with image_mounts.locked(at):
            try:
                if image_mounts.attached(at) is not None and not _fuse.is_served(at):
                    image_mounts.drop_place(at)  # its server was killed; whoever stands on it cannot be helped
                if image_mounts.attached(at) is None:
                    if missing := _fuse.missing():
                        raise Unsupported(missing, code="fuse-missing", subject=str(image.metadata))
                    _fuse.attach(at, image.metadata, image.devices)
            except OSError as error:
                raise mount_error(error, image.metadata) from error
            try:
                yield at
            except BaseException:
                image_mounts.detach_unused(at)
                raise

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount; with the last mount of an image, the image is unmounted too."""
        images = _images_of(mounted)
        above = _above(mounted)
        above.unmount(replace(mounted, driver=above.name))
        image_mounts.release_all(images)

    def is_mounted(self, mounted: Mounted) -> bool:
        """As Driver.is_mounted. A mount whose server died is one still, and wants to be unmounted."""
        return _above(mounted).is_mounted(mounted)


def _above(mounted: Mounted) -> Driver:
    """The driver whose mount it is that lies over the image."""
    if mounted.root != mounted.target:
        return UserNamespaceDriver()
    return FuseOverlayfsDriver() if mounted.holder else OverlayDriver()


def _images_of(mounted: Mounted) -> list[MountPoint]:
    """The mounted images that a mount stands on; where that cannot be told any more, all of ours."""
    above = _above(mounted)
    try:
        if above.is_mounted(mounted):
            if isinstance(above, FuseOverlayfsDriver):
                words = next((words for pid, words in fuse_overlayfs_processes() if pid == mounted.holder), None)
                return [] if words is None else fuse_overlayfs_images(words, mounted.holder)
            holder = mounted.holder or None
            point = mount_point(mounted) if holder is None else mountinfo.mount_at(mounted.target, holder)
            return [] if point is None else image_mounts.images_below(point, holder)
    except OSError:
        pass
    return [point for point in image_mounts.mounted_images() if point.fs_type == _fuse.FS_TYPE]
