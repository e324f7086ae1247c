"""Layers made of tars, and images of them mounted by two ways: in place, and as extracted trees."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, ingest_layer
from lamella.layers.rootfs import RootfsStore
from lamella.layers.store import LayerStore
from lamella.layers.trees import TreeStore
from lamella.mounts import mount as mounts
from lamella.mounts.model import Mount
from lamella.spec.digest import Digest
from support import needs

_GNU = ("tar", "--create", "--numeric-owner", "--sort=name", "--format=posix", "--sparse", "--xattrs")


class Layers:
    """A place with layers, and what is made of them. Nothing rebuilds a layer that is lost."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.layers = LayerStore(place / "layers")
        self.rootfs = RootfsStore(place / "rootfs", self.layers)
        self.trees = TreeStore(place / "trees", self.layers)
        self._count = 0

    def directory(self) -> Path:
        """A new empty directory."""
        self._count += 1
        made = self.place / f"d{self._count}"
        made.mkdir()
        return made

    def of_tar(self, tar: Path) -> Digest:
        """Take an uncompressed tar in as a layer."""
        staging = self.directory()
        with tar.open("rb", buffering=0) as reader:
            layer = ingest_layer(reader, staging, lambda data: None)
        self.layers.publish(staging, layer.diff_id, LayerIndex.load(staging / INDEX_NAME))
        return layer.diff_id

    def of_tree(self, tree: Path) -> Digest:
        """Take a directory in as a layer, through GNU tar."""
        needs.tool("tar")
        tar = self.directory() / "tar"
        subprocess.run([*_GNU, "--xattrs-include=*", "-f", tar, "-C", tree, "."], check=True, capture_output=True)
        return self.of_tar(tar)

    def of_members(self, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Digest:
        """Take members, some with content, in as a layer."""
        import io

        tar = self.directory() / "tar"
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
            for member in members:
                info, data = member if isinstance(member, tuple) else (member, b"")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return self.of_tar(tar)

    @contextmanager
    def mounted(self, diff_ids: Sequence[Digest], *, writable: bool = False, driver: str = "erofs") -> Iterator[Path]:
        """The image of these layers, mounted in place."""
        place = self.directory()
        for name in ("staging", "upper", "work", "root"):
            (place / name).mkdir()
        image = self.rootfs.ensure(diff_ids, place / "staging").image
        branch = (place / "upper", place / "work") if writable else (None, None)
        mounted = mounts.perform(Mount(driver, (), *branch, image), place / "root")
        try:
            yield mounted.root
        finally:
            mounts.unmount(mounted)

    @contextmanager
    def stacked(self, diff_ids: Sequence[Digest], *, driver: str = "overlay") -> Iterator[Path]:
        """The image of these layers, extracted and mounted layer on layer."""
        place = self.directory()
        for name in ("staging", "root"):
            (place / name).mkdir()
        trees = self.trees.ensure(mounts.driver(driver).form, diff_ids, place / "staging")
        mounted = mounts.perform(Mount(driver, tuple(reversed(trees))), place / "root")
        try:
            yield mounted.root
        finally:
            mounts.unmount(mounted)

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.place)


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    """A tar member; ``xattrs`` is a dictionary, and a time may have a fraction."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        if key == "xattrs":
            assert isinstance(value, dict)
            info.pax_headers = {
                f"SCHILY.xattr.{name}": data.decode("utf-8", "surrogateescape") for name, data in value.items()
            }
        else:
            setattr(info, key, value)
    return info
