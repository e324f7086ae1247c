"""Snapshots as directories: what is under one is an image's layers, what is its own is an upper directory.

    snapshots/<key>/upper     what was written (for the copy driver: the whole tree)
    snapshots/<key>/work      overlay's own, on the same file system
    snapshots/<key>/init      an init layer, if one was asked for: above the image, and no change of the snapshot's
    snapshots/<key>/base/<n>  what a fork started from, lowest first: read-only, between the image and the upper
    snapshots/<key>/merged    the default mount point
    snapshots/<key>/empty     what an image without layers is mounted from
    snapshots/<key>/ready     written last; its change time tells what the copy driver's tree was changed after
    snapshots/<key>/lock      held while the snapshot is mounted, forked, rolled back or removed

The snapshotter returns ``Mount`` values and mounts nothing. It knows no names and no catalog: whoever calls it records
what exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lamella._sys.copytree import copy_tree
from lamella._sys.files import fsync_dir, os_errors, remove_tree, sync_tree
from lamella._sys.locks import FileLock
from lamella._sys.syscalls import RENAME_EXCHANGE, renameat2
from lamella.errors import Conflict, InvalidInput, NotFound
from lamella.layers.extract import dress_branch, dress_directory, extract
from lamella.layers.rootfs import RootfsStore
from lamella.layers.scan import scan
from lamella.layers.store import LayerStore
from lamella.layers.tree import MergedTree
from lamella.layers.trees import TreeStore
from lamella.mounts.model import Driver, Form, Mount
from lamella.spec.digest import Digest
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_key(key: str) -> str:
    """``key`` if it can name a snapshot. Raises InvalidInput."""
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"'{key[:80]}' cannot name a snapshot: up to 128 letters, digits, _ . - and first a letter or digit",
            code="snapshot-key",
        )
    return key


@dataclass(frozen=True, slots=True)
class Stack:
    """What a snapshot stands on: the driver it was made for and the layers of its image, bottom first."""

    driver: Driver
    diff_ids: tuple[Digest, ...]
    writable: bool = True


class Snapshotter:
    """Makes, copies, reads and removes the directories of snapshots. Safe for many processes."""

    def __init__(
        self, root: Path, layers: LayerStore, trees: TreeStore, rootfs: RootfsStore, *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._root = root
        self._layers = layers
        self._trees = trees
        self._rootfs = rootfs
        self._limits = limits

    def path(self, key: str) -> Path:
        """The directory of a snapshot."""
        return self._root / check_key(key)

    def upper(self, key: str) -> Path:
        """What was written to a snapshot; with the copy driver, its whole tree."""
        return self.path(key) / "upper"

    def lock(self, key: str) -> FileLock:
        """The lock of a snapshot, acquired. Raises NotFound, and Conflict if somebody holds it."""
        if not self.path(key).is_dir():
            raise NotFound("the snapshot's directory is gone", code="snapshot-missing", subject=key)
        lock = FileLock(self.path(key) / "lock")
        if not lock.acquire(blocking=False):
            raise Conflict("another process is working on the snapshot", code="snapshot-busy", subject=key)
        return lock

    # -- making

    def build(
        self,
        stack: Stack,
        staging: Path,
        *,
        init: Callable[[Path], object] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Path:
        """Build a fresh snapshot below ``staging``, and missing layer directories; ``publish`` makes it visible.

        ``init`` fills a directory with what is to stand on top of the image and is no change of the snapshot's.
        """
        directory = _new_directory(staging)
        upper = directory / "upper"
        with os_errors(str(directory)):
            upper.mkdir(mode=0o700)
            if stack.driver.in_place and stack.diff_ids:
                rootfs = self._rootfs.ensure(stack.diff_ids, staging, progress=progress)
                dress_directory(upper, rootfs.root, stack.driver.form)
                if init is not None:
                    tree = self._layers.tree(stack.diff_ids, limits=self._limits)
                    _fill_init(directory, tree, stack.driver.form, init)
                _seal(directory)
                return directory
            tree = self._layers.tree(stack.diff_ids, limits=self._limits)
            if init is not None:
                _fill_init(directory, tree, stack.driver.form, init)
            if stack.driver.form is Form.PLAIN:
                self._fill(self._with_init(directory, tree, Form.PLAIN), stack, upper, staging, progress)
            else:
                self._trees.ensure(stack.driver.form, stack.diff_ids, staging, progress=progress)
                dress_directory(upper, tree.root.entry, stack.driver.form)
            _seal(directory)
        return directory

    def _fill(self, tree: MergedTree, stack: Stack, upper: Path, staging: Path, progress: Progress) -> None:
        """A whole tree for the copy driver: cloned from a kept one where the file system shares blocks."""
        from lamella._sys.probes import can_reflink

        if len(tree.sources) == len(stack.diff_ids) and can_reflink(staging):
            kept = self._trees.ensure_whole(stack.diff_ids, tree, staging, progress=progress)
            copy_tree(kept, upper, reflink="always")
            return
        progress.start(upper.parent.name, "extracting")
        extract(None, tree, upper, Form.PLAIN, progress=progress, key=upper.parent.name)
        progress.done(upper.parent.name)

    def build_fork(self, source: str, stack: Stack, staging: Path) -> Path:
        """Build a snapshot below ``staging`` that starts from what ``source`` holds now.

        A source that is mounted is copied as it is being written to, file by file: what is written meanwhile may or may
        not be in the copy.
        """
        directory = _new_directory(staging)
        origin = self.path(source)
        with os_errors(str(directory)):
            if (origin / "init").is_dir():
                copy_tree(origin / "init", directory / "init", reflink="auto")
            if stack.driver.form is Form.PLAIN:
                copy_tree(origin / "upper", directory / "upper", reflink="auto")
                copy_tree(origin / "upper", directory / "origin", reflink="auto")
                (directory / "forked").touch()
            else:
                bases = directory / "base"
                bases.mkdir(mode=0o700)
                for number, base in enumerate([*self.bases(source), origin / "upper"]):
                    copy_tree(base, bases / f"{number:04d}", reflink="auto")
                self._empty_upper(directory / "upper", self.tree(source, stack), stack.driver.form)
            _seal(directory)
        return directory

    def publish(self, built: Path, key: str) -> None:
        """Rename a built snapshot into place, durably. A directory without a record that is in the way is removed.

        To be called in the transaction that records the snapshot, so that no two callers meet here.
        """
        target = self.path(key)
        with os_errors(str(target)):
            self._root.mkdir(parents=True, exist_ok=True)
            if target.exists():
                remove_tree(target)
            os.rename(built, target)
            fsync_dir(self._root)

    # -- using

    def bases(self, key: str) -> list[Path]:
        """The read-only directories that a forked snapshot has between image and upper, lowest first."""
        bases = self.path(key) / "base"
        return sorted(bases.iterdir()) if bases.is_dir() else []

    def mount(self, key: str, stack: Stack, staging: Path, *, progress: Progress = NO_PROGRESS) -> Mount:
        """What to mount for a snapshot; layer directories that are missing are written first."""
        directory = self.path(key)
        with os_errors(str(directory)):
            _complete(directory)  # a kill while rolling back, or a power cut, can take some of it away
        if stack.driver.form is Form.PLAIN:
            upper = directory / "upper"
            return Mount(stack.driver.name, (), upper) if stack.writable else Mount(stack.driver.name, (upper,))
        trees, image = [], None
        if not stack.driver.in_place:
            trees = self._trees.ensure(stack.driver.form, stack.diff_ids, staging, progress=progress)
        elif stack.diff_ids:
            image = self._rootfs.ensure(stack.diff_ids, staging, progress=progress).image
        init = [directory / "init"] if (directory / "init").is_dir() else []
        lowers = (*reversed(self.bases(key)), *init, *reversed(trees))
        if not lowers and image is None:
            lowers = (directory / "empty",)
        if not stack.writable:
            return Mount(stack.driver.name, lowers, image=image)
        return Mount(stack.driver.name, lowers, directory / "upper", directory / "work", image)

    def trees(self, key: str, stack: Stack, *, progress: Progress = NO_PROGRESS) -> tuple[MergedTree, MergedTree]:
        """The merged trees of the image and of the snapshot. May be read while the snapshot is mounted.

        An init layer counts as the image's.
        """
        form, directory = stack.driver.form, self.path(key)
        image = self._with_init(directory, self._layers.tree(stack.diff_ids, limits=self._limits), form)
        if form is Form.PLAIN:
            since = None if (directory / "forked").exists() else (directory / "ready").stat().st_ctime_ns
            found = scan(directory / "upper", form, since=since, limits=self._limits, progress=progress)
            return image, image.apply(found.index, found.source, complete=True)
        tree = image
        for branch in [*self.bases(key), *([directory / "upper"] if stack.writable else [])]:
            found = scan(branch, form, limits=self._limits, progress=progress)
            tree = tree.apply(found.index, found.source)
        return image, tree

    def tree(self, key: str, stack: Stack) -> MergedTree:
        """The merged tree of a snapshot as it is now."""
        return self.trees(key, stack)[1]

    def roll_back(self, key: str, stack: Stack, staging: Path, *, progress: Progress = NO_PROGRESS) -> None:
        """Make a snapshot what it was when it was prepared or forked. Atomic; the caller holds its lock."""
        directory = self.path(key)
        fresh = _new_directory(staging) / "upper"
        with os_errors(str(directory)):
            if stack.driver.form is not Form.PLAIN:
                below = Stack(stack.driver, stack.diff_ids, writable=False)
                self._empty_upper(fresh, self.tree(key, below), stack.driver.form)
            elif (directory / "origin").is_dir():
                copy_tree(directory / "origin", fresh, reflink="auto")
            else:
                fresh.mkdir(mode=0o700)
                tree = self._layers.tree(stack.diff_ids, limits=self._limits)
                self._fill(self._with_init(directory, tree, Form.PLAIN), stack, fresh, staging, progress)
            _mark_ready(fresh.parent)
            sync_tree(fresh)
            status = fresh.stat()
            renameat2(os.fsencode(fresh), os.fsencode(directory / "upper"), RENAME_EXCHANGE)
            # XFS takes the exchange for a change of the directory itself.
            os.utime(directory / "upper", ns=(status.st_atime_ns, status.st_mtime_ns))
            # There is one at every moment; while it is the old one, more files look touched than are.
            os.rename(fresh.parent / "ready", directory / "ready")
            fsync_dir(directory)
            remove_tree(fresh.parent)
            _renew_work(directory)

    def remove(self, key: str, trash: Path) -> None:
        """Move a snapshot's directory into ``trash``, a directory that the caller removes; absent is no error.

        The record is the caller's to remove first. Nobody ever finds half of the directory.
        """
        with os_errors(str(self.path(key))), suppress(FileNotFoundError):
            os.rename(self.path(key), trash / f"removed-{key}")

    def directories(self) -> Sequence[str]:
        """The keys that have a directory."""
        return sorted(filter(_KEY.fullmatch, os.listdir(self._root))) if self._root.is_dir() else ()

    def _with_init(self, directory: Path, tree: MergedTree, form: Form) -> MergedTree:
        """The tree of an image under the init layer of a snapshot, if it has one."""
        if not (directory / "init").is_dir():
            return tree
        found = scan(directory / "init", form, limits=self._limits)
        return tree.apply(found.index, found.source)

    def _empty_upper(self, upper: Path, tree: MergedTree, form: Form) -> None:
        upper.mkdir(mode=0o700)
        dress_directory(upper, tree.root.entry, form)


def _new_directory(staging: Path) -> Path:
    for number in range(1_000_000):
        directory = staging / f"snapshot-{number}"
        with os_errors(str(directory)), suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            return directory
    raise Conflict("no free name in the staging directory", code="staging-full", subject=str(staging))


def _seal(directory: Path) -> None:
    """What every snapshot has beside its upper, and the sync that makes it durable before it is renamed.

    The empty directories are not synced one by one, which takes longer than all the rest: ``_complete`` makes them
    anew. Nor is ``ready``, whose name is what counts.
    """
    _complete(directory)
    _mark_ready(directory)
    for name in ("upper", "origin", "base", "init"):
        if (directory / name).is_dir():
            sync_tree(directory / name)
    fsync_dir(directory)


def _fill_init(directory: Path, tree: MergedTree, form: Form, init: Callable[[Path], object]) -> None:
    """Make the init layer of a snapshot; its directories look as those of the image."""
    layer = directory / "init"
    layer.mkdir(mode=0o700)
    init(layer)
    dress_branch(layer, tree.root, form)


def _complete(directory: Path) -> None:
    """Make the directories that hold nothing of the snapshot's, where they are missing."""
    for name in ("work", "merged", "empty"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)


def _mark_ready(directory: Path) -> None:
    (directory / "ready").touch(mode=0o600)


def _renew_work(directory: Path) -> None:
    """Overlay keeps state of an upper in its work directory; a new upper gets a new one."""
    remove_tree(directory / "work")
    (directory / "work").mkdir(mode=0o700)
