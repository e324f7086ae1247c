"""One image: an immutable view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lamella.catalog.records import ImageRecord, LayerRecord
from lamella.errors import NotFound
from lamella.images.layer import Layer
from lamella.layers.compare import Change, compare
from lamella.layers.tree import MergedTree
from lamella.layers.view import FileInfo, Provenance, TreeView, provenance
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Manifest
from lamella.spec.platform import Platform

if TYPE_CHECKING:
    from lamella.images.checksums import Checksums
    from lamella.images.graph import Graph


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of how an image came to be, the oldest first. ``size`` is the bytes of content of its layer.

    ``layer`` is None for a step that changed the configuration only; ``image`` is the image that the step ended in,
    where the store knows it.
    """

    created: datetime | None
    created_by: str
    author: str
    comment: str
    size: int
    layer: Digest | None
    image: Digest | None = None


class Image:
    """An image of the store. What it shows never changes; what refers to it (names, children) is asked of the graph."""

    def __init__(self, graph: Graph, record: ImageRecord) -> None:
        self._graph = graph
        self.record: ImageRecord = record

    def __repr__(self) -> str:
        return f"<Image {self.short_id} {self.platform}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    # -- identity

    @property
    def id(self) -> Digest:
        """The image's id: the digest of its configuration."""
        return self.record.id

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id."""
        return self.id.short

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return self.record.manifest

    @property
    def parent(self) -> Image | None:
        """The image that this one was committed on, if the store has it."""
        if self.record.parent is None:
            return None
        try:
            return self._graph.image(self.record.parent)
        except NotFound:
            return None

    def ancestors(self) -> Iterator[Image]:
        """This image, its parent, and so on to the base. The catalog admits no cycles."""
        image: Image | None = self
        while image is not None:
            yield image
            image = image.parent

    @property
    def children(self) -> list[Image]:
        """The images that were committed on this one."""
        return self._graph.children(self)

    @property
    def names(self) -> list[str]:
        """The names that point at this very image, sorted; names of an index that lists it are the index's."""
        return self._graph.names_by_target().get(self.digest, [])

    # -- documents

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, verified as it is read."""
        return self._graph.manifest(self.digest)

    @cached_property
    def config(self) -> ImageConfig:
        """The configuration, verified as it is read."""
        return ImageConfig.parse(self._graph.read_document(self.id), limits=self._graph.limits)

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return self.record.platform

    @property
    def created(self) -> datetime | None:
        """When the image was made, as its configuration says."""
        return self.record.created

    @property
    def labels(self) -> dict[str, str]:
        """The labels in the configuration."""
        return self.config.labels

    def checksum(self) -> str:
        """The checksum of 2013, over the record that ``docker save`` writes for the image and its topmost layer."""
        from lamella.images.checksums import simple_checksum

        return simple_checksum(self)

    def checksums(self) -> Checksums:
        """Digests of today and checksums of 2013, side by side. Raises FailedPrecondition for one without layers."""
        from lamella.images.checksums import checksums

        return checksums(self)

    # -- layers

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, bottom first."""
        return tuple(Layer(record, self._graph.content, self._graph.layers) for record in self.record.layers)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the uncompressed layers, bottom first."""
        return tuple(record.diff_id for record in self.record.layers)

    @property
    def size(self) -> int:
        """Bytes of content of all layers, uncompressed: what docker calls the virtual size."""
        return sum(layer.content_size for layer in self.layers)

    @property
    def compressed_size(self) -> int:
        """Bytes of the layer blobs as they are stored and sent."""
        return sum(layer.size for layer in self.layers)

    def history(self) -> list[HistoryEntry]:
        """How the image came to be, the oldest step first; each layer belongs to one step.

        A configuration whose history tells of fewer layers than there are gets a step without text for each other one.
        """
        layers = list(self.layers)
        images = self._images_by_depth()
        steps: list[HistoryEntry] = []
        used = 0
        for step, record in enumerate(self.config.history):
            layer = None
            if not record.empty_layer and used < len(layers):
                layer, used = layers[used], used + 1
            size, diff_id = (layer.content_size, layer.diff_id) if layer else (0, None)
            steps.append(
                HistoryEntry(
                    record.created,
                    record.created_by,
                    record.author,
                    record.comment,
                    size,
                    diff_id,
                    images.get(step + 1),
                )
            )
        steps.extend(HistoryEntry(None, "", "", "", extra.content_size, extra.diff_id) for extra in layers[used:])
        if steps:
            last = steps[-1]
            steps[-1] = HistoryEntry(
                last.created, last.created_by, last.author, last.comment, last.size, last.layer, self.id
            )
        return steps

    def _images_by_depth(self) -> dict[int, Digest]:
        """The ids of known ancestors by the number of steps of their history."""
        return {len(image.config.history): image.id for image in self.ancestors() if image is not self}

    # -- files, without mounting

    @cached_property
    def tree(self) -> MergedTree:
        """The merged tree of the layers."""
        return self._graph.layers.tree(self.diff_ids, limits=self._graph.limits)

    @cached_property
    def files(self) -> TreeView:
        """The files of the image as a reader sees them."""
        return TreeView(self.tree)

    def walk(self, path: str | bytes = b"") -> Iterator[FileInfo]:
        """Everything at and below ``path``, directories first, names in byte order."""
        return self.files.walk(path)

    def listdir(self, path: str | bytes = b"") -> list[FileInfo]:
        """What is in the directory ``path``."""
        return self.files.listdir(path)

    def stat(self, path: str | bytes, *, follow: bool = True) -> FileInfo:
        """What is at ``path``; links are resolved inside the image only. Raises NotFound."""
        return self.files.stat(path, follow=follow)

    def exists(self, path: str | bytes, *, follow: bool = True) -> bool:
        """Whether something is at ``path``."""
        return self.files.exists(path, follow=follow)

    def open(self, path: str | bytes) -> BinaryIO:
        """The content of a regular file, seekable; no mount, no extraction. Raises NotFound, InvalidInput."""
        return self.files.open(path)

    def readlink(self, path: str | bytes) -> bytes:
        """The target of a symbolic link, as written."""
        return self.files.readlink(path)

    def provenance(self, path: str | bytes) -> list[tuple[LayerRecord, Provenance]]:
        """The layers that added, changed or deleted ``path``, bottom first."""
        trees = self._graph.layers.trees(self.diff_ids, limits=self._graph.limits)
        return [(self.record.layers[step.layer], step) for step in provenance(trees, path)]

    def changes(self, since: Image | None = None) -> list[Change]:
        """What this image changes over ``since`` (its parent; an empty tree if it has none), sorted by path."""
        base = since or self.parent
        return compare(base.tree if base is not None else MergedTree(limits=self._graph.limits), self.tree)

    def layer_path(self, diff_id: Digest) -> Path:
        """The uncompressed tar of one layer, in the store; not to be written to."""
        return self._graph.layers.tar(diff_id)
