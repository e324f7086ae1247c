"""The store: everything below composed, nothing done here. What only some methods need they import themselves."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from lamella._sys.files import os_errors
from lamella.catalog.holder import Lease
from lamella.catalog.records import SnapshotRecord
from lamella.catalog.sqlite import SqliteCatalog
from lamella.content.local import LocalContent
from lamella.errors import AlreadyExists, LamellaError, NotFound, Unsupported, printable
from lamella.images.graph import Graph
from lamella.images.image import Image
from lamella.layers.compare import Change, compare
from lamella.layers.rootfs import RootfsStore
from lamella.layers.scan import scan
from lamella.layers.store import LayerStore
from lamella.layers.tree import MergedTree
from lamella.layers.trees import TreeStore
from lamella.layers.view import TreeView
from lamella.mounts import mount as mounting
from lamella.mounts.model import Form
from lamella.snapshots.snapshotter import Snapshotter, Stack, check_key
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.store.exchange import Exchange
from lamella.store.layout import write_layout
from lamella.store.reserve import Reserve
from lamella.store.snapshot import Snapshot
from lamella.upkeep.gc import Holdings, Report, collect
from lamella.upkeep.restore import Refetch, Restorer

if TYPE_CHECKING:
    from lamella.formats.detect import Kind as ArchiveKind
    from lamella.images.create import Creator, Recipe
    from lamella.images.search import Found
    from lamella.transfer.accept import Accepted
    from lamella.transfer.load import Loaded
    from lamella.upkeep.duplicates import Duplicates
    from lamella.upkeep.prune import Pruner
    from lamella.upkeep.remove import Removed
    from lamella.upkeep.usage import ImageUsage, Usage


class Store(Exchange):
    """A directory of images and snapshots. Thread-safe; many processes may use one directory at once.

    What a method has returned survives a power cut. What a killed one began is invisible, and ``gc`` clears it away.
    """

    def __init__(
        self,
        root: Path,
        *,
        driver: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        refetch: Refetch | None = None,
        file_digests: bool = False,
    ) -> None:
        self.root = root
        self.limits = limits
        self._forced_driver = driver
        with os_errors(str(root)):
            (root / "ingest").mkdir(mode=0o755, parents=True, exist_ok=True)
        self.reserve = Reserve(root)
        self.reserve.spend()
        self.catalog = SqliteCatalog(root / "catalog.db")
        self.layers = LayerStore(root / "layers", rebuild=self._rebuild)
        self.restorer = Restorer(self.catalog, self.layers, refetch=refetch)
        self.content = LocalContent(root, absent=self.restorer)
        self.trees = TreeStore(root / "trees", self.layers)
        self.rootfs = RootfsStore(root / "rootfs", self.layers, limits=limits)
        self.snapshotter = Snapshotter(root / "snapshots", self.layers, self.trees, self.rootfs, limits=limits)
        self.graph = Graph(self.content, self.catalog, self.layers, limits, file_digests)
        self.sync_layout()
        self.reserve.keep()

    @classmethod
    def open(
        cls,
        root: Path | str,
        *,
        driver: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        refetch: Refetch | None = None,
        file_digests: bool = False,
    ) -> Self:
        """Open the store at ``root``, made if it is not there. ``driver`` forces how snapshots are mounted.

        ``refetch`` reaches the registries that blobs came from, for those that were dropped because they are there.
        ``file_digests`` hashes every file of new layers as they come, for ``find_content``; a fifth to a half more CPU.
        Raises Unsupported for a store that a newer version wrote, AccessDenied, Integrity for a damaged catalog.
        """
        return cls(Path(root), driver=driver, limits=limits, refetch=refetch, file_digests=file_digests)

    def close(self) -> None:
        """Give back what the store holds. Mounts stay."""
        self.catalog.close()
        self.reserve.keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- plumbing for the parts above and beside

    @property
    def holdings(self) -> Holdings:
        """What upkeep works on."""
        return Holdings(
            self.root,
            self.catalog,
            self.content,
            self.layers,
            self.trees,
            self.rootfs,
            self.snapshotter,
            self.sync_layout,
        )

    def lease(self, purpose: str) -> Lease:
        """A lease, to be used as a context manager."""
        return Lease(self.catalog, self.root / "ingest", purpose)

    @contextmanager
    def creator(self, purpose: str, progress: Progress = NO_PROGRESS) -> Iterator[Creator]:
        """What makes images, under a lease of its own; if the block fails, what it wrote is removed again."""
        from lamella.images.create import Creator

        written: set[Digest] = set()
        try:
            with self.lease(purpose) as lease:
                try:
                    yield Creator(self.graph, self.content, lease, progress=progress)
                except BaseException:
                    written = {Digest.parse(text) for text in self.catalog.lease_resources(lease.id)}
                    raise
        except BaseException:
            if written:
                collect(self.holdings, only=written)
            raise

    def sync_layout(self) -> None:
        """Bring ``index.json`` up to the catalog."""
        write_layout(self.root, self.catalog)

    def _rebuild(self, diff_id: Digest) -> None:
        from lamella.upkeep.rebuild import rebuild_layer

        with self.lease(f"rebuild {diff_id}") as lease:
            rebuild_layer(self.graph, self.content, self.restorer, diff_id, lease, limits=self.limits)
        self.rootfs.let_go()

    # -- images

    def images(self) -> list[Image]:
        """Every image, the first that was added first."""
        return self.graph.images()

    def image(self, name: str, *, platform: Platform | None = None) -> Image:
        """The image that a name, id, digest or unique id prefix means. Raises NotFound, Ambiguous."""
        return self.graph.find(name, platform=platform)

    def exists(self, name: str) -> bool:
        """Whether ``image`` finds something."""
        try:
            self.graph.find_document(name)
        except NotFound:
            return False
        return True

    def load(
        self,
        path: Path | str | None,
        *,
        name: str | None = None,
        platform: Platform | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> list[Loaded]:
        """Load every image of an OCI layout (directory or tar) or a docker archive; None reads standard input.

        ``name`` is given to the one image there is; ``platform`` picks one image of each index. All of it is verified,
        and all of it appears at once, or nothing does.
        """
        from lamella.formats.detect import open_source
        from lamella.transfer.load import load

        source_path = None if path is None else Path(path)
        with self.lease(f"load {path or '-'}") as lease:
            source = open_source(source_path, spool=lease.directory, limits=self.limits, progress=progress)
            try:
                loaded = load(
                    self.graph,
                    self.content,
                    lease,
                    source,
                    name=name,
                    platform=platform,
                    cleanup=lambda written: self.clean_up(lease, written),
                    progress=progress,
                )
            finally:
                source.close()
        self.sync_layout()
        return loaded

    def clean_up(self, lease: Lease, written: set[Digest]) -> None:
        """Remove what a failed operation wrote; its own hold on it ends first."""
        if written:
            lease.release_holds()
            collect(self.holdings, only=written)

    def import_rootfs(
        self,
        source: Path | str | Reader | BinaryIO,
        name: str | None = None,
        *,
        recipe: Recipe | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Image:
        """Make an image of the tar of a root file system, in any compression."""
        from lamella.images.create import Recipe

        reference = None if name is None else Reference.parse(name)
        with _opened(source) as (reader, label), self.creator(f"import {label}", progress) as creator:
            image = creator.import_rootfs(reader, recipe or Recipe(), reference, label=label)
        self.sync_layout()
        return image

    def save(
        self,
        names: Sequence[str],
        path: Path | None,
        *,
        format: ArchiveKind = "oci-archive",
        legacy: bool = False,
        platform: Platform | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Write images to an OCI layout (``oci-dir``, ``oci-archive``) or a ``docker-archive``; None is stdout.

        What was received is written as it is. A directory that has some of the blobs gets only the others. An index is
        written whole, or with ``platform`` the one image that fits; a docker archive, which has no indexes, gets this
        machine's.
        """
        from lamella.formats.detect import create_sink
        from lamella.transfer.copy import copy_images
        from lamella.transfer.store_source import StoreSource

        with self.lease(f"save {path or '-'}") as lease:
            chosen = []
            for text in names:
                document = self.graph.find_document(text)
                lease.hold(document.digest)
                chosen.append((document, _names_for(self.graph, text, document.digest)))
            sink = create_sink(
                format, path, legacy=legacy, spool=lease.directory, limits=self.limits, progress=progress
            )
            source = StoreSource(self.graph, chosen)
            if platform is None and format == "docker-archive":
                platform = Platform.host()
            copy_images(source, sink, platform=platform, limits=self.limits, progress=progress)

    def export(
        self,
        source: Image | Snapshot,
        write: Callable[[bytes], object],
        *,
        clamp: int | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Write the whole tree of an image or a snapshot as an uncompressed tar; the same tree gives the same bytes."""
        from lamella.layers.write import TimePolicy, write_tree

        tree = source.files.tree
        write_tree(tree, write, times=TimePolicy(clamp), progress=progress, key="export")

    def tag(self, source: str, name: str) -> None:
        """Give what ``source`` means one more name; a name that pointed elsewhere is moved."""
        document = self.graph.find_document(source)
        self.catalog.set_name(str(Reference.parse(name).without_digest()), document.digest)
        self.sync_layout()

    def remove(self, names: Sequence[str], *, force: bool = False) -> Removed:
        """Remove names, and the images that have none left and that nothing else needs.

        Raises FailedPrecondition, naming them, if an image has children or snapshots (with ``force`` its names go and
        it stays for them only), or, found by id, more than one name.
        """
        from lamella.upkeep.remove import remove_images

        self.reserve.spend()
        removed = remove_images(self.graph, self.holdings, names, force=force)
        self.sync_layout()
        return removed

    # -- what servers need: single documents, names and blobs

    def accept(self, raw: bytes, media_type: str, names: Sequence[Reference] = ()) -> Accepted:
        """Record a manifest or an index whose blobs are in the store, under ``names``; see ``transfer.accept``."""
        from lamella.transfer.accept import accept

        with self.lease(f"accept {len(raw)} bytes") as lease:
            try:
                accepted = accept(self.graph, self.content, lease, raw, media_type, names)
            except BaseException:
                self.clean_up(lease, {Digest.parse(text) for text in self.catalog.lease_resources(lease.id)})
                raise
        self.sync_layout()
        return accepted

    def untag(self, names: Sequence[str], *, own_leases: Sequence[str] = ()) -> Report:
        """Remove exactly these canonical names, and what nothing needs any longer; see ``upkeep.untag``."""
        from lamella.upkeep.untag import remove_names

        report = remove_names(self.holdings, names, own_leases=own_leases)
        self.sync_layout()
        return report

    def discard_blob(self, digest: Digest, *, own_leases: Sequence[str] = ()) -> None:
        """Remove a blob that nothing needs. Raises NotFound, FailedPrecondition (``blob-in-use``)."""
        from lamella.upkeep.untag import remove_blob

        remove_blob(self.holdings, digest, own_leases=own_leases)
        self.sync_layout()

    def changes(self, old: Image | None, new: Image | Path, *, progress: Progress = NO_PROGRESS) -> list[Change]:
        """What leads from an image to another, or to a directory of the host; None is an empty tree."""

        before = MergedTree(limits=self.limits) if old is None else old.tree
        if isinstance(new, Image):
            return compare(before, new.tree)
        found = scan(new, Form.PLAIN, limits=self.limits, progress=progress)
        return compare(before, before.apply(found.index, found.source, complete=True))

    # -- snapshots

    def prepare(
        self,
        image: Image | str,
        key: str | None = None,
        *,
        driver: str | None = None,
        writable: bool = True,
        init_layer: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Snapshot:
        """A new snapshot on an image. Raises AlreadyExists for the key, Unsupported if no driver works here.

        With ``init_layer`` what a container needs to find (``/proc``, ``/dev/pts``, ``/etc/hosts`` and more, as docker
        1.0 made them) stands on top of the image; that is no change of the snapshot's, and in no commit.
        """
        base = self.image(image) if isinstance(image, str) else image
        key = self._new_key(key)
        with self.lease(f"prepare {key}") as lease:
            lease.hold(base.digest)
            forced = driver or self._forced_driver
            init = _init_layer() if init_layer else None
            built, chosen = self._build(base, writable, forced, lease.directory, init, progress)
            record = SnapshotRecord(key, base.digest, "", writable, chosen, datetime.now(UTC))
            self._publish_snapshot(built, record)
        return Snapshot(self, key)

    def _build(
        self,
        image: Image,
        writable: bool,
        forced: str | None,
        staging: Path,
        init: Callable[[Path], object] | None,
        progress: Progress,
    ) -> tuple[Path, str]:
        """Build a snapshot with the best driver: its directory, and the driver's name.

        An image that EROFS cannot hold is mounted in another way, unless exactly this one is asked for.
        """
        chosen = mounting.choose(self._snapshot_root(), forced)
        try:
            built = self.snapshotter.build(
                Stack(chosen, image.diff_ids, writable), staging, init=init, progress=progress
            )
        except Unsupported as error:
            if forced is not None or not error.code.startswith("erofs-"):
                raise
            progress.note(f"not mounted in place: {error}")
            chosen = mounting.choose(self._snapshot_root(), in_place=False)
            built = self.snapshotter.build(
                Stack(chosen, image.diff_ids, writable), staging, init=init, progress=progress
            )
        return built, chosen.name

    def view(self, image: Image | str, key: str | None = None, *, driver: str | None = None) -> Snapshot:
        """A read-only snapshot."""
        return self.prepare(image, key, driver=driver, writable=False)

    def fork(self, source: str, key: str | None = None) -> Snapshot:
        """A new snapshot that starts from what the snapshot ``source`` holds now."""
        origin = Snapshot(self, source)
        record = origin.record
        key = self._new_key(key)
        stack = Stack(mounting.driver(record.driver), origin.image.diff_ids)
        with self.snapshotter.lock(source), self.lease(f"fork {source}") as lease:
            lease.hold(origin.image.digest)
            built = self.snapshotter.build_fork(source, stack, lease.directory)
            fork = SnapshotRecord(key, record.image, source, True, record.driver, datetime.now(UTC))
            self._publish_snapshot(built, fork)
        return Snapshot(self, key)

    def snapshot(self, key: str) -> Snapshot:
        """A snapshot by its key. Raises NotFound."""
        return Snapshot(self, key)

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot, by key."""
        found = []
        for record in self.catalog.snapshots():
            with suppress(NotFound):  # removed this moment
                found.append(Snapshot(self, record.key))
        return found

    def files(self, name: str) -> TreeView:
        """The files of a snapshot (by key) or of an image (by name or id); a snapshot's key wins."""
        if self.catalog.snapshot(name) is not None:
            return Snapshot(self, name).files
        return self.image(name).files

    def _new_key(self, key: str | None) -> str:
        key = secrets.token_hex(6) if key is None else check_key(key)
        if self.catalog.snapshot(key) is not None:
            raise AlreadyExists("there is a snapshot of this name", code="snapshot-exists", subject=key)
        return key

    def _publish_snapshot(self, built: Path, record: SnapshotRecord) -> None:
        with self.catalog.transaction():
            self.catalog.add_snapshot(record)
            self.snapshotter.publish(built, record.key)

    def _snapshot_root(self) -> Path:
        path = self.root / "snapshots"
        with os_errors(str(path)):
            path.mkdir(exist_ok=True)
        return path

    # -- upkeep

    def gc(self, *, dry_run: bool = False) -> Report:
        """Remove what no name, snapshot or live lease reaches; with ``dry_run`` only report it."""
        self.reserve.spend()
        return collect(self.holdings, dry_run=dry_run)

    def add_file_digests(self, images: Sequence[Image] | None = None, *, progress: Progress = NO_PROGRESS) -> int:
        """Hash the files of images (None: all), layer by layer, where that was not done; how many layers there were.

        From then on equal files can be told across images, and files be found by their content.
        """
        from lamella.images.search import add_file_digests

        return add_file_digests(self.graph, self.images() if images is None else images, progress=progress)

    def find_content(
        self, digest: Digest, *, images: Sequence[Image] | None = None, progress: Progress = NO_PROGRESS
    ) -> Iterator[Found]:
        """Every file of the images (None: all) whose content has a digest; what was never hashed is hashed first."""
        from lamella.images.search import add_file_digests, find_content

        chosen = self.images() if images is None else images
        add_file_digests(self.graph, chosen, progress=progress)
        return find_content(self.graph, chosen, digest)

    def find_path(self, pattern: str | bytes, *, images: Sequence[Image] | None = None) -> Iterator[Found]:
        """Everything in the images (None: all) whose name fits a shell pattern; with a slash in it, whose path does."""
        from lamella.images.search import find_path

        return find_path(self.images() if images is None else images, os.fsencode(pattern))

    def duplicates(self, *, progress: Progress = NO_PROGRESS) -> Duplicates:
        """How many bytes are in files that are equal; what was never hashed is hashed first."""
        from lamella.images.search import add_file_digests
        from lamella.upkeep.duplicates import duplicates

        add_file_digests(self.graph, self.images(), progress=progress)
        return duplicates(self.graph)

    def prune(
        self,
        *,
        compressed: bool = False,
        trees: bool = False,
        dry_run: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Report:
        """Give back space for what can be had again, at the price of the time that this takes.

        ``compressed`` drops the blobs of layers that a registry which is recorded has, or that the layer's tar gives
        when it is compressed anew: that is done, and compared, first. ``trees`` drops directories of layers, metadata
        of images and, where a blob is there that unpacks to it, tars of layers, as far as nothing mounted and no
        operation under way uses them. What was dropped is had again without being asked for. With ``dry_run`` nothing
        changes, but all is tried.
        """
        report = self._pruner(progress).run(compressed=compressed, trees=trees, dry_run=dry_run)
        self.sync_layout()
        return report

    def restore_blobs(self, *, progress: Progress = NO_PROGRESS) -> Report:
        """Make every blob that was dropped a file again, so that the store is a whole OCI layout for other tools."""
        report = self._pruner(progress).restore()
        self.sync_layout()
        return report

    def _pruner(self, progress: Progress) -> Pruner:
        from lamella.upkeep.prune import Pruner

        return Pruner(self.graph, self.holdings, self.restorer, self._mounted_images, progress=progress)

    def _mounted_images(self) -> set[Digest]:
        """The manifests of the images that a mounted snapshot stands on."""
        snapshots = [snapshot for snapshot in self.snapshots() if snapshot.is_in_use]
        return {image for snapshot in snapshots if (image := snapshot.record.image) is not None}

    def usage(self) -> list[Usage]:
        """What takes the disk, by kind."""
        from lamella.upkeep.usage import usage

        return usage(self.holdings, self._mounted_images)

    def image_usage(self) -> list[ImageUsage]:
        """What each image takes."""
        from lamella.upkeep.usage import image_usage

        return image_usage(self.graph, self.holdings)

    def drivers(self) -> list[tuple[str, bool, str]]:
        """Every mount driver: its name, whether it works here, and why not."""
        at = self._snapshot_root()
        return [(d.name, (probe := d.probe(at)).ok, probe.reason) for d in mounting.ladder()]


@contextmanager
def _opened(source: Path | str | Reader | BinaryIO) -> Iterator[tuple[Reader, str]]:
    """A reader of what is to be imported, and what to call it; a file that is opened here is closed here."""
    if isinstance(source, (str, Path)):
        with os_errors(str(source)):
            file = open(source, "rb", buffering=0)  # noqa: SIM115 - closed below
        try:
            yield file, printable(os.fsencode(Path(source).name))
        finally:
            file.close()
    else:
        yield source, "-"


def _names_for(graph: Graph, text: str, digest: Digest) -> list[str]:
    """The names to save an image under: the one it was asked for by, or all that it has if it was asked for by id."""
    try:
        reference = Reference.parse(text)
    except LamellaError:
        return graph.names_by_target().get(digest, [])
    record = graph.catalog.name(str(reference.without_digest()))
    if record is not None and record.target == digest:
        return [reference.without_digest().familiar]
    return graph.names_by_target().get(digest, [])


def _init_layer() -> Callable[[Path], object]:
    from lamella.formats.docker_graph import initlayer

    return initlayer.populate
