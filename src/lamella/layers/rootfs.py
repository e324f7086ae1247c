"""Whole images to be mounted in place, by chain_id: ``rootfs/<chain_id>/``.

    metadata   EROFS, as ``layers.erofs`` writes it: the tree, pointing into the layers' tars
    side       what is not contiguous in them; only where there is such
    record     a sha256, and what it is of, in MessagePack: the digests of the two, the tars and their sizes, the root
    mnt        where the kernel mounts it while a snapshot stands on it
    mnt-fuse   where it is mounted over FUSE, likewise

Without root, images look as files that the caller extracts do (``layers.override``), and lie in ``rootfs/user/``: what
root and a user make of a layer is never taken for each other's.

All of it can be made again from the layers, and is, when it is missing or damaged: nothing is mounted that was not
checked against the record since this process began.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamella._sys.files import fsync_dir, os_errors, remove_tree
from lamella._sys.locks import FileLock
from lamella._sys.mountinfo import MountPoint
from lamella._sys.syscalls import RENAME_EXCHANGE, renameat2
from lamella.layers.entry import Entry
from lamella.layers.erofs import VERSION, write_erofs
from lamella.layers.store import LayerStore
from lamella.layers.tree import MergedTree
from lamella.mounts import image_mounts
from lamella.mounts.model import ErofsImage, Form
from lamella.spec.digest import Digest, chain_ids
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_METADATA, _SIDE, _RECORD, _MOUNT = "metadata", "side", "record", "mnt"
_DIGEST_SIZE = 32
_DAMAGE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO})


class _Record(msgspec.Struct, array_like=True, frozen=True):
    version: int
    metadata: bytes
    side: bytes
    tars: tuple[tuple[str, int], ...]
    root: Entry


@dataclass(frozen=True, slots=True)
class Rootfs:
    """An image that is ready to be mounted, and what its root directory is to look like."""

    image: ErofsImage
    root: Entry


class RootfsStore:
    """The metadata of the caller's images. Thread-safe; of many processes that want one image's, one writes it."""

    def __init__(self, root: Path, layers: LayerStore, *, limits: Limits = DEFAULT_LIMITS) -> None:
        as_root = os.geteuid() == 0
        self._form = Form.OVERLAY if as_root else Form.OVERLAY_USER
        self._root = root if as_root else root / "user"
        self._layers = layers
        self._limits = limits
        self._lock = threading.Lock()
        self._checked: dict[Digest, tuple[tuple[int, ...], _Record]] = {}

    def path(self, chain_id: Digest) -> Path:
        """The directory of an image, there or not."""
        return self._root / chain_id.hex

    def ensure(self, diff_ids: Sequence[Digest], staging: Path, *, progress: Progress = NO_PROGRESS) -> Rootfs:
        """What to mount for a stack of layers, which are one at least. What is missing or damaged is made first.

        It is written below ``staging``, synced and renamed into place. Raises Unsupported (``erofs-*``), naming the
        entry, for an image that EROFS cannot hold.
        """
        chain_id = chain_ids(tuple(diff_ids))[-1]
        path = self.path(chain_id)
        with self._lock:
            known = self._checked.get(chain_id)
        if known is None or known[0] != _identity(path):
            with os_errors(str(self._root)):
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os_errors(str(path)), FileLock(path.with_name(f"{path.name}.lock")):
                record = check(path) or self._build(path, chain_id, tuple(diff_ids), staging, progress)
                known = (_identity(path), record)
            with self._lock:
                self._checked[chain_id] = known
        return self._ready(path, known[1])

    def _ready(self, path: Path, record: _Record) -> Rootfs:
        devices = [self._layers.tar(Digest.parse(diff_id), size=size) for diff_id, size in record.tars]
        if record.side:
            devices.append(path / _SIDE)
        with os_errors(str(path)):
            (path / _MOUNT).mkdir(mode=0o700, exist_ok=True)
        return Rootfs(ErofsImage(path / _METADATA, tuple(devices), path / _MOUNT), record.root)

    def _build(
        self, path: Path, chain_id: Digest, diff_ids: tuple[Digest, ...], staging: Path, progress: Progress
    ) -> _Record:
        fresh = staging / f"rootfs-{chain_id.hex}"
        tree = self._layers.tree(diff_ids, limits=self._limits)
        with os_errors(str(path)):
            fresh.mkdir(mode=0o700)
            try:
                record = self._write(fresh, tree, chain_id, diff_ids, progress)
                (fresh / _MOUNT).mkdir(mode=0o700)
                _put_in_place(fresh, path)
                fsync_dir(self._root)
            except BaseException:
                remove_tree(fresh)
                raise
        return record

    def _write(
        self, fresh: Path, tree: MergedTree, chain_id: Digest, diff_ids: tuple[Digest, ...], progress: Progress
    ) -> _Record:
        # Overlay notes in its upper what it copied up by this and the inode: whatever moves inodes must change it.
        name = f"lamella {'erofs' if self._form is Form.OVERLAY else 'erofs-user'} {VERSION} {chain_id.hex}"
        uuid = hashlib.sha256(name.encode()).digest()[:16]
        with open(fresh / _METADATA, "wb") as out, open(fresh / _SIDE, "wb") as side:
            layout = write_erofs(tree, out, side, form=self._form, uuid=uuid)
            for file in (out, side):
                file.flush()
                os.fsync(file.fileno())
        for note in layout.notes:
            progress.note(note)
        if not layout.side_size:
            (fresh / _SIDE).unlink()
        layers = [diff_ids[position] for position in layout.devices]
        record = _Record(
            VERSION,
            _hash(fresh / _METADATA),
            _hash(fresh / _SIDE) if layout.side_size else b"",
            tuple((str(diff_id), self._layers.tar(diff_id).stat().st_size) for diff_id in layers),
            tree.root.entry,
        )
        with open(fresh / _RECORD, "wb") as file:
            data = msgspec.msgpack.encode(record)
            file.write(hashlib.sha256(data).digest() + data)
            file.flush()
            os.fsync(file.fileno())
        fsync_dir(fresh)
        return record

    def walk(self) -> Iterator[Digest]:
        """Every image that is here."""
        if self._root.is_dir():
            for name in sorted(os.listdir(self._root)):
                if len(name) == 64:
                    yield Digest("sha256", name)

    def files(self, chain_id: Digest) -> list[Path]:
        """The files that an image's metadata consists of, there or not."""
        return [self.path(chain_id) / name for name in (_METADATA, _SIDE, _RECORD)]

    def size(self, chain_id: Digest) -> int:
        """Bytes that an image's metadata takes on disk; what is mounted there is not counted."""
        total = 0
        for name in (_METADATA, _SIDE, _RECORD):
            with suppress(FileNotFoundError):
                total += (self.path(chain_id) / name).stat().st_blocks * 512
        return total

    def release(self, chain_id: Digest) -> bool:
        """Unmount an image that nothing stands on; whether nothing is mounted now."""
        return image_mounts.release(self.path(chain_id) / _MOUNT)

    def clear(self) -> None:
        """Unmount what was left mounted though nothing stands on it, and remove locks of images that are not here."""
        if not self._root.is_dir():
            return
        image_mounts.release_all(self._mounted())
        for path in sorted(self._root.glob("*.lock")):
            lock = FileLock(path)
            if not path.with_suffix("").exists() and lock.acquire(blocking=False):
                path.unlink(missing_ok=True)
                lock.release()

    def let_go(self) -> None:
        """Unmount every image, as a tar was made anew: who stands on one goes on with it, the next to mount does not.

        Otherwise what is mounted would be shared, and with it the tar that was not whole.
        """
        for place in {point.target.parent for point in self._mounted()}:
            image_mounts.drop(place / _MOUNT)

    def _mounted(self) -> list[MountPoint]:
        root = self._root.resolve()
        return [point for point in image_mounts.mounted_images() if point.target.parent.parent == root]


def check(path: Path) -> _Record | None:
    """The record of an image's directory if all that it says is true of what is there; None if anything is not.

    What the disk cannot read (EIO) is damaged; raises OSError where it may not be read.
    """
    try:
        data = (path / _RECORD).read_bytes()
        if hashlib.sha256(data[_DIGEST_SIZE:]).digest() != data[:_DIGEST_SIZE]:
            return None
        record = msgspec.msgpack.decode(data[_DIGEST_SIZE:], type=_Record)
        sound = (
            record.version == VERSION
            and _hash(path / _METADATA) == record.metadata
            and (not record.side or _hash(path / _SIDE) == record.side)
        )
    except msgspec.MsgspecError:
        return None
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        return None
    return record if sound else None


def _put_in_place(fresh: Path, path: Path) -> None:
    """Rename ``fresh`` to ``path``; what is there already, and damaged, is exchanged and removed."""
    if not os.path.lexists(path):
        os.rename(fresh, path)
        return
    # Others may be about to mount it: there is one at every moment.
    with image_mounts.dropped(path / _MOUNT) if path.is_dir() else nullcontext():
        renameat2(os.fsencode(fresh), os.fsencode(path), RENAME_EXCHANGE)
    remove_tree(fresh)


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when the files of an image do."""
    found: list[int] = []
    for name in (_METADATA, _SIDE, _RECORD):
        with suppress(OSError):
            status = (path / name).stat()
            found += (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(found)


def _hash(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
