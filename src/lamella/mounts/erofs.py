"""The driver ``erofs``: images mounted in place, without extracting them, and an overlay above for what is written.

An image is mounted once in a mount namespace, at a directory of its own, and every overlay over it stands on that: they
share what the kernel has cached of it. It is unmounted with the last of them. An overlay holds on to what it stands on,
so whoever takes the image's own mount away does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.mounts import _erofs, _tiny_image, image_mounts, trial
from lamella.mounts.checks import mount_error, mount_point
from lamella.mounts.model import Driver, ErofsImage, Mount, Mounted, Probe
from lamella.mounts.overlay import OverlayDriver


class ErofsDriver(OverlayDriver):
    """Takes an image instead of the trees of its layers; more trees may lie between it and the upper.

    A mount without an image is one of the driver ``overlay``, and recorded as such.
    """

    name = "erofs"
    in_place = True

    def __init__(self, *, loops: bool = False, volatile: bool = False) -> None:
        """``loops``: through loop devices only; ``volatile``: as ``_overlayfs.attach``."""
        super().__init__(volatile=volatile)
        self._loops = loops

    def probe(self, at: Path) -> Probe:
        """As Driver.probe."""
        name = f"{self.name}-loop" if self._loops else self.name
        driver = ErofsDriver(loops=self._loops, volatile=True)
        return trial.remembered(name, at, lambda place: trial.try_out(driver, place, try_image))

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """As Driver.mount."""
        if mount.image is None:
            return replace(super().mount(mount, target), driver=OverlayDriver.name)
        with self._shown(mount.image) as at:
            return super().mount(replace(mount, lowers=(*mount.lowers, at), image=None), target)

    @contextmanager
    def _shown(self, image: ErofsImage) -> Iterator[Path]:
        """The image mounted at its directory, by this or by an earlier mount."""
        with os_errors(str(image.at)):
            at = image.at.resolve(strict=True)
        with image_mounts.locked(at):
            try:
                if image_mounts.attached(at) is None:
                    devices = [os.fsencode(device) for device in image.devices]
                    _erofs.attach(os.fsencode(at), os.fsencode(image.metadata), devices, loops=self._loops)
            except OSError as error:
                raise mount_error(error, image.metadata) from error
            try:
                yield at
            except BaseException:
                image_mounts.detach_unused(at)
                raise

    def unmount(self, mounted: Mounted) -> None:
        """As Driver.unmount; with the last mount of an image, the image is unmounted too."""
        point = mount_point(mounted)
        images = [] if point is None else image_mounts.images_below(point)
        super().unmount(mounted)
        image_mounts.release_all(images)


def try_image(driver: Driver, place: Path) -> Probe:
    """Mount the smallest image with a driver in the empty directory ``place``, change it through the mount."""
    at, upper, work, target = (place / name for name in ("image", "upper", "work", "root"))
    for directory in (at, upper, work, target):
        directory.mkdir()
    (place / "metadata").write_bytes(_tiny_image.metadata())
    (place / "device").write_bytes(_tiny_image.device())
    image = ErofsImage(place / "metadata", (place / "device",), at)
    mounted = driver.mount(Mount(driver.name, (), upper, work, image), target)
    try:
        if (mounted.root / "file").read_bytes() != _tiny_image.CONTENT:
            return Probe(ok=False, reason="mounted, but the content of files is not right")
        (mounted.root / "new").write_bytes(b"new")
        (mounted.root / "file").unlink()
        if not (upper / "new").is_file():
            return Probe(ok=False, reason="mounted, but changes do not go to the upper directory")
    finally:
        driver.unmount(mounted)
    return Probe(ok=True)
