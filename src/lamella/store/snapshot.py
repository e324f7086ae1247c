"""A snapshot as its user holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lamella.catalog.records import SnapshotRecord
from lamella.errors import FailedPrecondition, InvalidInput, NotFound
from lamella.images.image import Image
from lamella.layers.compare import Change, compare
from lamella.layers.view import TreeView
from lamella.mounts import mount as mounting
from lamella.mounts.checks import record as mount_record
from lamella.mounts.model import Mounted
from lamella.snapshots.snapshotter import Stack
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference

if TYPE_CHECKING:
    from lamella.images.create import Recipe
    from lamella.store.store import Store


class Snapshot:
    """A file system on top of an image. Lives in the store until it is removed; this object only refers to it.

    As a context manager it unmounts at the end, if it mounted; it never removes what was written.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self.key = key
        self.record  # noqa: B018 - raises NotFound

    def __repr__(self) -> str:
        return f"<Snapshot {self.key}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store.catalog.snapshot(self.key) is not None and self.mounted is not None:
            self.detach()

    # -- what it is

    @property
    def record(self) -> SnapshotRecord:
        """The catalog's record, as it is now. Raises NotFound."""
        record = self._store.catalog.snapshot(self.key)
        if record is None:
            raise NotFound("no such snapshot", code="snapshot-not-found", subject=self.key)
        return record

    @property
    def image(self) -> Image:
        """The image that the snapshot stands on."""
        manifest = self.record.image
        if manifest is None:
            raise NotFound("the snapshot stands on no image", code="image-not-found", subject=self.key)
        return self._store.graph.image(manifest)

    @property
    def mounted(self) -> Mounted | None:
        """The live mount, whoever made it; None if there is none."""
        text = self.record.mounted
        if not text:
            return None
        mounted = Mounted.from_json(text)
        return mounted if mounting.is_mounted(mounted) else None

    def _live(self) -> Mounted | None:
        """The live mount, even if whoever made it was killed before it was recorded. For the holder of the lock."""
        mounted, record = self.mounted, self.record
        if mounted is not None:
            return mounted
        if record.writable:
            return mounting.live_mount(self.upper)
        unrecorded = mount_record(record.driver, self._store.snapshotter.path(self.key) / "merged")
        return unrecorded if mounting.is_mounted(unrecorded) else None

    @property
    def is_in_use(self) -> bool:
        """Whether it is mounted, even if whoever mounted it was killed before that was recorded."""
        return self._store.snapshotter.path(self.key).is_dir() and self._live() is not None

    @property
    def upper(self) -> Path:
        """The directory that takes what is written (with the copy driver: the whole tree)."""
        return self._store.snapshotter.upper(self.key)

    def _stack(self) -> Stack:
        record = self.record
        return Stack(mounting.driver(record.driver), self.image.diff_ids, record.writable)

    # -- mounting

    @contextmanager
    def mount(self, target: Path | None = None) -> Iterator[Path]:
        """Mounted while the block runs; gives the directory where the files are. Raises as ``attach``."""
        mounted = self.attach(target)
        try:
            yield mounted.root
        finally:
            self.detach()

    def attach(self, target: Path | None = None, *, progress: Progress = NO_PROGRESS) -> Mounted:
        """Mount the snapshot, at ``target`` or at a place of its own, until ``detach``; it outlives this process.

        Raises FailedPrecondition if it is mounted already, by anybody, and AccessDenied or Unsupported from the driver.
        """
        snapshotter, catalog = self._store.snapshotter, self._store.catalog
        with snapshotter.lock(self.key):
            # A mount that nobody recorded is found by the driver, which looks for it anyway before it mounts.
            live = self.mounted if self.record.writable else self._live()
            if live is not None:
                raise FailedPrecondition(
                    f"the snapshot is mounted at {live.target}",
                    code="snapshot-mounted",
                    subject=self.key,
                    hint=f"'lamella umount {self.key}' ends that",
                )
            with self._store.lease(f"mount {self.key}") as lease:
                lease.hold(self.image.digest)  # what is looked for below stays until it is mounted
                value = snapshotter.mount(self.key, self._stack(), lease.directory, progress=progress)
                place = target or snapshotter.path(self.key) / "merged"
                mounted = mounting.perform(value, place)
                try:
                    catalog.set_mounted(self.key, mounted.to_json(), expect=None)
                except BaseException:
                    mounting.unmount(mounted)
                    raise
            return mounted

    def detach(self) -> None:
        """Unmount. Raises FailedPrecondition if it is not mounted, or if something still uses it."""
        with self._store.snapshotter.lock(self.key):
            mounted = self._live()
            if mounted is None:
                self._store.catalog.set_mounted(self.key, "", expect=None)
                raise FailedPrecondition("the snapshot is not mounted", code="snapshot-not-mounted", subject=self.key)
            mounting.unmount(mounted)
            self._store.catalog.set_mounted(self.key, "", expect=None)

    # -- reading

    @property
    def files(self) -> TreeView:
        """The files as they are now, read without mounting."""
        return TreeView(self._store.snapshotter.tree(self.key, self._stack()))

    def changes(self, *, progress: Progress = NO_PROGRESS) -> list[Change]:
        """What was changed over the image, sorted by path; may be asked while it is mounted."""
        return compare(*self._store.snapshotter.trees(self.key, self._stack(), progress=progress))

    # -- what becomes of it

    def commit(
        self,
        name: str | None = None,
        *,
        author: str = "",
        comment: str = "",
        recipe: Recipe | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Image:
        """Make the changes a layer and the whole a child image of the snapshot's image; the snapshot stays as it is.

        ``recipe`` says more than ``author`` and ``comment`` do. Atomic and durable: the image and its name are there
        together, or not at all.
        """
        from lamella.images.create import Recipe

        if recipe is None:
            recipe = Recipe(author=author, comment=comment)
        elif author or comment:
            raise InvalidInput("author and comment are part of the recipe", code="commit-arguments")
        reference = None if name is None else Reference.parse(name)
        image = self.image
        with self._store.snapshotter.lock(self.key), self._store.creator(f"commit {self.key}", progress) as creator:
            old, new = self._store.snapshotter.trees(self.key, self._stack(), progress=progress)
            child = creator.commit(image, old, new, compare(old, new), recipe, reference)
        self._store.sync_layout()
        return child

    def fork(self, key: str | None = None) -> Snapshot:
        """A new snapshot that starts from what this one holds now. The two are independent from then on."""
        return self._store.fork(self.key, key)

    def roll_back(self, *, progress: Progress = NO_PROGRESS) -> None:
        """Make it what it was when it was prepared or forked; what was written since is gone. Atomic.

        Raises FailedPrecondition while it is mounted.
        """
        with self._store.snapshotter.lock(self.key):
            self._refuse_mounted("rolled back", self._live())
            with self._store.lease(f"rollback {self.key}") as lease:
                lease.hold(self.image.digest)
                self._store.snapshotter.roll_back(self.key, self._stack(), lease.directory, progress=progress)

    def remove(self, *, force: bool = False) -> None:
        """Remove the snapshot and what was written to it. A mounted one is refused, or with ``force`` unmounted.

        Raises NotFound if it is gone already.
        """
        snapshotter = self._store.snapshotter
        in_place = mounting.driver(self.record.driver).in_place
        self._store.reserve.spend()
        has_directory = snapshotter.path(self.key).is_dir()
        locked = snapshotter.lock(self.key) if has_directory else nullcontext()
        with self._store.lease(f"remove {self.key}") as lease, locked:
            mounted = self._live() if has_directory else None
            if mounted is not None and force:
                mounting.unmount(mounted)
            else:
                self._refuse_mounted("removed", mounted)
            self._store.catalog.remove_snapshot(self.key)
            snapshotter.remove(self.key, lease.directory)
        if in_place:
            self._store.rootfs.clear()  # it may have been unmounted by other means than ours

    def _refuse_mounted(self, what: str, mounted: Mounted | None) -> None:
        if mounted is not None:
            raise FailedPrecondition(
                f"the snapshot is mounted at {mounted.target} and cannot be {what}",
                code="snapshot-mounted",
                subject=self.key,
                hint=f"'lamella umount {self.key}' ends that",
            )
