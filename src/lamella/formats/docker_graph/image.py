"""One image of a graph: its record, its layer, its ancestors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

from lamella._sys.files import fsync_dir, os_errors, sync_tree, write_atomic
from lamella.archive.compression import Compression
from lamella.errors import AlreadyExists, FailedPrecondition, Integrity, InvalidInput, NotFound, ResourceExhausted
from lamella.formats.docker_graph import union, unpacking
from lamella.formats.docker_graph.checksums import TarSumVersion, checksum, tarsum
from lamella.formats.docker_graph.ids import short_id, validate_id
from lamella.formats.docker_graph.layout import (
    JSON,
    LAYER,
    LAYER_ARCHIVE,
    LAYER_SIZE,
    GraphForm,
    Layout,
    is_whole,
    read_file,
)
from lamella.formats.docker_graph.record import Record
from lamella.formats.scratch import Scratch
from lamella.layers.aufs import branch_trees
from lamella.layers.compare import Change
from lamella.layers.tree import MergedTree
from lamella.mounts.model import Mounted
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress


class Home(Protocol):
    """What an image asks of the graph that it is in."""

    @property
    def layout(self) -> Layout:
        """Where things are."""

    def get(self, name: str) -> GraphImage:
        """The image of an id."""

    def keep_checksum(self, image: GraphImage, compute: Callable[[], str]) -> str:
        """The checksum that is kept for the image, or the one that is computed, kept from now on."""


@dataclass(frozen=True, slots=True)
class GraphImage:
    """An image as a graph has it. ``graph`` is None for one that is in none (yet); such a one has a record only."""

    record: Record
    graph: Home | None = field(default=None, compare=False, repr=False)

    # -- making, loading, storing

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """The image of a record, in no graph; the id is not validated. Raises InvalidInput."""
        return cls(Record.parse(raw))

    @classmethod
    def load(cls, root: Path, *, layout: Layout | None = None) -> Self:
        """The image whose directory is ``root``.

        Raises NotFound when there is no record or no layer, InvalidInput when either is not what it should be.
        """
        layout = layout or Layout.find(root.parent)
        raw = read_file(json_path(root), DEFAULT_LIMITS.document_bytes)
        try:
            record = Record.parse(raw)
            validate_id(record.id, legacy=True)
        except InvalidInput as error:
            raise error.about(subject=str(json_path(root))) from None
        layout.find_layer(root.name)
        return cls(record)

    def store(
        self,
        root: Path,
        layer: Reader | None = None,
        *,
        keep_archive: bool = False,
        below: MergedTree | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Self:
        """Write the image as the new directory ``root``, as 0.4 has it; return it.

        All or nothing, and durable: it is put together beside ``root`` and renamed. With ``keep_archive`` the bytes of
        ``layer`` are kept as ``layer.tar.xz``. ``below`` is the tree of the parent. Raises AlreadyExists.
        """
        if os.path.lexists(root):
            raise AlreadyExists(f"Image {self.id} already exists", code="graph-image-exists")
        with Scratch(root.parent) as scratch:
            built = scratch / "image"
            self.assemble(
                built, layer, GraphForm.V0_4, below or MergedTree(), keep_archive=keep_archive, progress=progress
            )
            with os_errors(str(root)):
                os.rename(built, root)
        fsync_dir(root.parent)
        return self

    def assemble(
        self,
        directory: Path,
        layer: Reader | None,
        form: GraphForm,
        below: MergedTree,
        *,
        keep_archive: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Write the new directory of the image, the record last, and make all of it durable.

        The layer is in ``layer``, also where the form wants it somewhere else. What a failure leaves is the caller's
        to remove.
        """
        with os_errors(str(directory)):
            directory.mkdir(mode=0o700)
            staging = directory.with_name(f"{directory.name}.staging")
            staging.mkdir(mode=0o700)
            size = unpacking.unpack(
                layer,
                below,
                directory / LAYER,
                staging,
                whole=form is GraphForm.VFS,
                archive=directory / LAYER_ARCHIVE if keep_archive and form is GraphForm.V0_4 else None,
                limits=limits,
                progress=progress,
                key=short_id(self.id),
            )
            if form is not GraphForm.V0_4:
                write_atomic(directory / LAYER_SIZE, b"%d" % size, mode=0o600, durable=False)
            write_atomic(directory / JSON, self.record.json, mode=0o600, durable=False)
            sync_tree(directory)

    # -- what it is

    @property
    def id(self) -> str:
        """The id."""
        return self.record.id

    @property
    def short_id(self) -> str:
        """The first twelve characters of the id."""
        return short_id(self.id)

    @property
    def parent(self) -> str:
        """The id of the parent; empty for a base image."""
        return self.record.parent

    def root(self) -> Path:
        """The directory of the image. Raises FailedPrecondition for one in no graph."""
        return self._home("root").layout.root / self.id

    def layer(self) -> Path:
        """The directory of its layer (with ``vfs``, of its whole tree). Raises NotFound, FailedPrecondition."""
        return self._home("root").layout.find_layer(self.id)

    def layer_archive(self) -> Path | None:
        """The stored archive of its layer, where there is one."""
        path = layer_archive_path(self.root())
        return path if path.is_file() and not path.is_symlink() else None

    @property
    def size(self) -> int:
        """The bytes that its layer adds, files with several names once. Kept in ``layersize`` from 0.6 on.

        What the record says of it is never believed; a ``layersize`` that is no number is made anew.
        """
        layout, path = self._home("root").layout, self.root() / LAYER_SIZE
        if layout.form is not GraphForm.V0_4:
            try:
                text = read_file(path, 32).strip()
                if text.isdigit():
                    return int(text)
            except (NotFound, InvalidInput, ResourceExhausted):
                pass
        below, tree = self.trees()
        size = unpacking.content_size(below, tree, unpacking.changes_between(below, tree))
        if layout.form is not GraphForm.V0_4 and os.access(path.parent, os.W_OK):
            with suppress(ResourceExhausted, InvalidInput):  # a full disk, a directory there: it is told all the same
                write_atomic(path, b"%d" % size, mode=0o600)
        return size

    @property
    def virtual_size(self) -> int:
        """The bytes of its layer and of all below."""
        return sum(image.size for image in self.walk_history())

    # -- ancestors

    def get_parent(self) -> GraphImage | None:
        """The parent; None for a base image. Raises FailedPrecondition without a graph, Integrity if it is missing."""
        if not self.parent:
            return None
        home = self._home("parent")
        try:
            return home.get(validate_id(self.parent, legacy=True))
        except (NotFound, InvalidInput) as error:
            text = f"Error while getting parent image: {error}"
            raise Integrity(text, code="graph-parent-missing", subject=f"image {self.id}") from error

    def walk_history(self) -> Iterator[GraphImage]:
        """The image, its parent, and so on down to the base. Raises Integrity for a missing parent and for a cycle."""
        seen: dict[str, int] = {}
        image: GraphImage | None = self
        while image is not None:
            if image.id in seen:
                ring = " -> ".join(short_id(id) for id in (*list(seen)[seen[image.id] :], image.id))
                text = f"its ancestors lead back to it: {ring}"
                raise Integrity(text, code="graph-cycle", subject=f"image {self.id}")
            seen[image.id] = len(seen)
            yield image
            image = image.get_parent()

    def history(self) -> list[GraphImage]:
        """The image and its ancestors, child first."""
        return list(self.walk_history())

    @property
    def depth(self) -> int:
        """How many layers it has, its own included."""
        return len(self.history())

    def layers(self, *, limits: Limits = DEFAULT_LIMITS) -> list[Path]:
        """The directories that a union of the image stacks, child first. Raises ResourceExhausted over the limit."""
        found: list[Path] = []
        for image in self.walk_history():
            directory = image.layer()
            found.append(directory)
            if is_whole(self._home("root").layout.form, directory):
                break
            if len(found) > limits.layers:
                text = f"more than {limits.layers} layers"
                raise ResourceExhausted(text, code="layer-count", subject=f"image {self.id}")
        return found

    # -- mounting

    def mount(self, root: Path, rw: Path, *, driver: str | None = None) -> Mounted:
        """Mount the image at ``root``, with ``rw`` taking what is written; see ``union.mount``."""
        if union.mounted(root):
            raise FailedPrecondition(f"{root} is already mounted", code="graph-already-mounted")
        return union.mount(self.layers(), root, rw, driver=driver)

    def changes(self, rw: Path) -> list[Change]:
        """What a writable branch over the image changes; see ``union.changes``."""
        return union.changes(self.layers(), rw)

    # -- its trees and its layer's archive

    def trees(self, *, limits: Limits = DEFAULT_LIMITS) -> tuple[MergedTree, MergedTree]:
        """The merged trees of its parent (an empty one for a base) and of itself, read from the directories."""
        own, *lowers = self.layers()
        if is_whole(self._home("root").layout.form, own):
            parent = self.get_parent()
            below = parent.tree(limits=limits) if parent is not None else MergedTree(limits=limits)
            return below, branch_trees([own], None, limits=limits)[0]
        return branch_trees(lowers, own, limits=limits)

    def tree(self, *, limits: Limits = DEFAULT_LIMITS) -> MergedTree:
        """The merged tree of the image; of a whole one nothing below it is read."""
        return branch_trees(self.layers(limits=limits), None, limits=limits)[0]

    def tar_layer(self, write: Callable[[bytes], object], compression: Compression = Compression.NONE) -> None:
        """Write its layer as a tar, made of the directory: the same directory gives the same bytes."""
        own, *lowers = self.layers()
        if is_whole(self._home("root").layout.form, own):
            unpacking.tar_difference(*self.trees(), write, compression)
        else:
            unpacking.tar_layer(own, lowers, write, compression)

    def open_layer(self) -> BinaryIO:
        """The archive of its layer: the stored one as it came, else what ``tar_layer`` writes; the caller closes it."""
        stored = self.layer_archive()
        if stored is not None:
            with os_errors(str(stored)):
                return open(stored, "rb")
        return spooled(self._home("root").layout, self.tar_layer)

    # -- checksums

    def checksum(self) -> str:
        """The checksum of 2013 (see ``checksums.checksum``): the one that the graph keeps, or computed and kept."""
        return self._home("root").keep_checksum(self, self._compute)

    def _compute(self) -> str:
        with self.open_layer() as layer:
            return checksum(self.record.json, layer)

    def tarsum(self, *, version: TarSumVersion = "0", algorithm: str = "sha256") -> str:
        """The TarSum of its layer with its record."""
        with self.open_layer() as layer:
            return tarsum(layer, self.record.json, version=version, algorithm=algorithm)

    def within(self, graph: Home) -> Self:
        """The same image as one of ``graph``."""
        return replace(self, graph=graph)

    def _home(self, wanted: str) -> Home:
        if self.graph is None:
            raise FailedPrecondition(f"Can't lookup {wanted} of unregistered image", code="graph-unregistered")
        return self.graph


def spooled(layout: Layout, fill: Callable[[Callable[[bytes], object]], object]) -> BinaryIO:
    """What ``fill`` writes, as an open file without a name: beside the graph, where it can be written."""
    place = layout.temporary if os.access(layout.temporary, os.W_OK | os.X_OK) else None
    with os_errors(str(place or "temporary file")):
        file = cast("BinaryIO", tempfile.TemporaryFile(dir=place))  # noqa: SIM115 - the caller's to close
        try:
            fill(file.write)
            file.seek(0)
        except BaseException:
            file.close()
            raise
    return file


def json_path(root: Path) -> Path:
    """The record in the directory of an image."""
    return root / JSON


def layer_path(root: Path) -> Path:
    """The layer in the directory of an image."""
    return root / LAYER


def layer_archive_path(root: Path) -> Path:
    """The stored archive of the layer in the directory of an image: whatever its name says, compressed anyhow."""
    return root / LAYER_ARCHIVE
