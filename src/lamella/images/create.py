"""Making images: a root file system becomes one, and the changes of a tree become the child of one.

Whatever is made here is whole before it shows: blobs and layers are in place and durable before one transaction records
the image, and its name with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression, CompressWriter
from lamella.archive.recipes import BlobRecipe
from lamella.archive.tar import TarScanner
from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.errors import InvalidInput
from lamella.images.graph import Graph
from lamella.images.image import Image
from lamella.images.runconfig import apply_changes
from lamella.layers.compare import Change
from lamella.layers.hashing import Background, ThreadedHasher
from lamella.layers.index import IndexWriter, LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME, Translator, ingest_layer
from lamella.layers.tree import MergedTree
from lamella.layers.write import TimePolicy, write_layer
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Manifest, format_time
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference

_CHUNK = 256 << 10
_KEPT_COMPRESSIONS = frozenset({Compression.NONE, Compression.GZIP, Compression.ZSTD})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into a new image beside its files.

    ``created`` None is now. ``changes`` are Dockerfile instructions. ``compression`` None keeps what came (import) or
    is gzip (commit); ``level`` None is the default of the compression. ``clamp`` bounds the times in the layer, in
    seconds since 1970; with it and ``created`` given, the same tree gives the same digests.
    """

    author: str = ""
    comment: str = ""
    created: datetime | None = None
    created_by: str = ""
    changes: tuple[str, ...] = ()
    compression: Compression | None = None
    level: int | None = None
    clamp: int | None = None
    platform: Platform | None = None

    @property
    def moment(self) -> datetime:
        """When the image is made."""
        return self.created or datetime.now(UTC)

    def dated(self) -> Recipe:
        """The same recipe with its moment fixed, so that every document tells the same time."""
        return replace(self, created=self.moment)


@dataclass(frozen=True, slots=True)
class NewLayer:
    """A layer that was just put into the store."""

    blob: Digest
    blob_size: int
    diff_id: Digest
    tar_size: int
    compression: Compression


class Creator:
    """Makes images in one store, under one lease."""

    def __init__(self, graph: Graph, content: LocalContent, lease: Lease, *, progress: Progress = NO_PROGRESS) -> None:
        self._graph, self._content, self._lease, self._progress = graph, content, lease, progress

    # -- from a root file system

    def import_rootfs(self, reader: Reader, recipe: Recipe, name: Reference | None, *, label: str) -> Image:
        """Make an image without a parent from a tar of a root file system, in any compression.

        ``label`` is what errors and progress call it. gzip, zstd and plain tars are kept byte by byte as the layer's
        blob; bzip2 and xz, which OCI has no media type for, are compressed anew with gzip.
        """
        recipe = recipe.dated()
        self._progress.start(label, "importing")
        try:
            layer = self._take(reader, recipe, label)
            # A layer that cannot be applied to nothing is no root file system: found out before anything shows.
            self._graph.layers.tree([layer.diff_id], limits=self._graph.limits)
        except BaseException:
            self._progress.done(label, "failed")
            raise
        self._progress.done(label)
        platform = recipe.platform or Platform.host()
        fields: dict[str, Any] = {"created": format_time(recipe.moment)}
        if recipe.author:
            fields["author"] = recipe.author
        fields |= platform.to_object()
        fields["config"] = apply_changes({}, list(recipe.changes))
        fields["rootfs"] = {"type": "layers", "diff_ids": [str(layer.diff_id)]}
        fields["history"] = [_history(recipe, recipe.comment or f"Imported from {label}", empty=False)]
        descriptor = Descriptor(media.layer(layer.compression.value), layer.blob, layer.blob_size)
        return self._record(fields, [descriptor], [layer.diff_id], docker=False, parent=None, name=name)

    def _take(self, reader: Reader, recipe: Recipe, label: str) -> NewLayer:
        staging = self._lease.directory / "layer"
        with os_errors(str(staging)), self._content.open_ingest(f"import-{self._lease.id}") as ingest:
            staging.mkdir(mode=0o755)
            found = ingest_layer(
                reader,
                staging,
                ingest.write,
                label=label,
                limits=self._graph.limits,
                progress=self._progress,
                key=label,
                file_digests=self._graph.file_digests,
            )
            if not found.blob_size:
                # An empty archive has an end marker: nothing at all is what a pipe delivers whose other end failed.
                raise InvalidInput("there is nothing to import", code="import-empty", layer=label)
            plain = found.compression is Compression.NONE
            blob = found.diff_id if plain else ingest.digest()
            layer = NewLayer(blob, found.blob_size, found.diff_id, found.tar_size, found.compression)
            wanted = recipe.compression
            made_here: BlobRecipe | None = None
            recompress = wanted is not None and wanted is not layer.compression
            if recompress or layer.compression not in _KEPT_COMPRESSIONS:
                ingest.restart()
                target = wanted if wanted in _KEPT_COMPRESSIONS else Compression.GZIP
                assert target is not None
                layer = _recompress(staging / TAR_NAME, ingest.write, layer, target, recipe.level)
                made_here = BlobRecipe.now(target, recipe.level)
            self._lease.hold(layer.blob, layer.diff_id)
            if layer.compression is Compression.NONE:
                ingest.abort()
                self._content.adopt(staging / TAR_NAME, layer.blob, layer.blob_size, keep=True)
            else:
                ingest.commit(expected=layer.blob, size=layer.blob_size)
        self._graph.layers.publish(staging, layer.diff_id, found.index)
        self._remember(layer, made_here)
        return layer

    def _remember(self, layer: NewLayer, made_here: BlobRecipe | None) -> None:
        """What a blob unpacks to, and if it was compressed here, how: from that it can be made again."""
        catalog = self._graph.catalog
        with catalog.transaction(durable=False):
            catalog.set_blob_diff(layer.blob, layer.diff_id)
            if made_here is not None and made_here.compression is not Compression.NONE:
                catalog.set_blob_recipe(layer.blob, str(made_here))

    # -- from changes

    def commit(
        self,
        parent: Image,
        old: MergedTree,
        new: MergedTree,
        changes: list[Change],
        recipe: Recipe,
        name: Reference | None,
    ) -> Image:
        """Make the child of ``parent`` whose files are those of ``new``; ``changes`` are what leads there from ``old``.

        Without changes to files the child has no layer more, only a step of history. Atomic: the image and its name
        appear together, or not at all.
        """
        recipe = recipe.dated()
        fields = dict(parent.config.fields)
        fields["created"] = format_time(recipe.moment)
        if recipe.author:
            fields["author"] = recipe.author
        fields["config"] = apply_changes(parent.config.config, list(recipe.changes))
        layers, diff_ids = list(parent.manifest.layers), list(parent.diff_ids)
        docker = parent.manifest.media_type == media.DOCKER_MANIFEST
        if changes:
            layer = self._write_layer(old, new, changes, recipe)
            docker = docker and layer.compression is not Compression.ZSTD
            layers.append(Descriptor(media.layer(layer.compression.value, docker=docker), layer.blob, layer.blob_size))
            diff_ids.append(layer.diff_id)
        fields["rootfs"] = {
            **(fields.get("rootfs") or {}),
            "type": "layers",
            "diff_ids": [str(diff_id) for diff_id in diff_ids],
        }
        step = _history(recipe, recipe.comment, empty=not changes)
        fields["history"] = [*_padded_history(parent), step]
        return self._record(fields, layers, diff_ids, docker=docker, parent=parent.digest, name=name)

    def _write_layer(self, old: MergedTree, new: MergedTree, changes: list[Change], recipe: Recipe) -> NewLayer:
        """Write the layer's tar, its blob and its index; all three come from the same pass over the files."""
        staging = self._lease.directory / "layer"
        key = "layer"
        self._progress.start(key, "committing", total=sum(change.size for change in changes))
        compression = recipe.compression or Compression.GZIP
        with os_errors(str(staging)), self._content.open_ingest(f"commit-{self._lease.id}") as ingest:
            staging.mkdir(mode=0o755)
            out = _LayerOutput(staging / TAR_NAME, ingest.write, compression, recipe.level)
            try:
                write_layer(
                    old, new, changes, out.write, times=TimePolicy(recipe.clamp), progress=self._progress, key=key
                )
                layer = out.finish()
            finally:
                out.close()
            self._lease.hold(layer.blob, layer.diff_id)
            index = _index_tar(staging, layer)
            if compression is Compression.NONE:
                ingest.abort()
                self._content.adopt(staging / TAR_NAME, layer.blob, layer.blob_size, keep=True)
            else:
                ingest.commit(expected=layer.blob, size=layer.blob_size)
        self._graph.layers.publish(staging, layer.diff_id, index)
        if self._graph.file_digests:
            self._graph.layers.add_file_digests(layer.diff_id)
        self._remember(layer, BlobRecipe.now(compression, recipe.level))
        self._progress.done(key)
        return layer

    # -- documents

    def _record(
        self,
        fields: dict[str, Any],
        layers: list[Descriptor],
        diff_ids: list[Digest],
        *,
        docker: bool,
        parent: Digest | None,
        name: Reference | None,
    ) -> Image:
        config = ImageConfig.parse(jsondoc.render(fields), limits=self._graph.limits)
        config_type, manifest_type = (
            (media.DOCKER_CONFIG, media.DOCKER_MANIFEST) if docker else (media.OCI_CONFIG, media.OCI_MANIFEST)
        )
        if not docker:
            layers = [replace(layer, media_type=_oci_layer_type(layer.media_type)) for layer in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": Descriptor.of(config_type, config.raw).to_object(),
            "layers": [layer.to_object() for layer in layers],
        }
        manifest = Manifest.parse(jsondoc.render(document), limits=self._graph.limits)
        self._lease.hold(config.id, manifest.descriptor.digest, *(layer.digest for layer in layers))
        for raw in (config.raw, manifest.raw):
            self._put_document(raw)
        catalog = self._graph.catalog
        with catalog.transaction():
            image = self._graph.register_image(manifest, config, diff_ids, parent=parent)
            if name is not None:
                catalog.set_name(str(name.without_digest()), image.digest)
        return image

    def _put_document(self, raw: bytes) -> None:
        digest = Digest.of(raw)
        if not self._content.exists(digest, len(raw)):
            with self._content.open_ingest(f"document-{self._lease.id}-{digest.short}") as ingest:
                ingest.write(raw)
                ingest.commit(expected=digest, size=len(raw))


class _LayerOutput:
    """Where the tar of a new layer goes: a file, two hashes, and a compressor that works beside the reading."""

    def __init__(self, tar: Path, sink: Callable[[bytes], object], compression: Compression, level: int | None) -> None:
        self._compression = compression
        self._hash = ThreadedHasher()
        self._blob_hash = ThreadedHasher()
        self._sink = sink
        self._size = self._blob_size = 0
        self._file = open(tar, "xb", buffering=0)  # noqa: SIM115 - closed by close()
        self._pending = bytearray()
        self._compressor: CompressWriter | None = None
        self._worker: Background | None = None
        if compression is not Compression.NONE:
            self._compressor = CompressWriter(self._take_compressed, compression, level=level)
            self._worker = Background(self._compressor.write)

    def write(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        self._hash.update(data)
        if self._worker is not None:
            self._worker.put(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _take_compressed(self, data: bytes) -> None:
        self._blob_hash.update(data)
        self._blob_size += len(data)
        self._sink(data)

    def finish(self) -> NewLayer:
        self._flush()
        if self._worker is not None and self._compressor is not None:
            self._worker.finish()
            self._compressor.close()
        os.fsync(self._file.fileno())
        diff_id = self._hash.digest()
        if self._compressor is None:
            return NewLayer(diff_id, self._size, diff_id, self._size, self._compression)
        return NewLayer(self._blob_hash.digest(), self._blob_size, diff_id, self._size, self._compression)

    def close(self) -> None:
        self._file.close()
        for worker in (self._worker, self._hash, self._blob_hash):
            if worker is not None:
                (worker.stop if isinstance(worker, Background) else worker.close)()


def _index_tar(staging: Path, layer: NewLayer) -> LayerIndex:
    """Index the tar that was just written, which is still in memory."""
    with os_errors(str(staging)), open(staging / TAR_NAME, "rb") as tar, open(staging / INDEX_NAME, "xb") as file:
        writer = IndexWriter(file)
        writer.extend(Translator(DEFAULT_LIMITS).entries(iter(TarScanner(tar.read))))
        index = writer.finish(layer.diff_id, layer.tar_size)
        file.flush()
        os.fsync(file.fileno())
        return index


def _recompress(
    tar: Path, sink: Callable[[bytes], object], layer: NewLayer, compression: Compression, level: int | None
) -> NewLayer:
    if compression is Compression.NONE:
        return replace(layer, blob=layer.diff_id, blob_size=layer.tar_size, compression=compression)
    hasher, size = ThreadedHasher(), 0

    def take(data: bytes) -> None:
        nonlocal size
        size += len(data)
        hasher.update(data)
        sink(data)

    writer = CompressWriter(take, compression, level=level)
    try:
        with open(tar, "rb") as file:
            while chunk := file.read(_CHUNK):
                writer.write(chunk)
        writer.close()
        return replace(layer, blob=hasher.digest(), blob_size=size, compression=compression)
    finally:
        hasher.close()


def _history(recipe: Recipe, comment: str, *, empty: bool) -> dict[str, Any]:
    step: dict[str, Any] = {"created": format_time(recipe.moment)}
    if recipe.created_by:
        step["created_by"] = recipe.created_by
    if recipe.author:
        step["author"] = recipe.author
    if comment:
        step["comment"] = comment
    if empty:
        step["empty_layer"] = True
    return step


def _padded_history(parent: Image) -> list[dict[str, Any]]:
    """The parent's history as it stands in its config, with a step for each layer that it does not tell of."""
    steps = [dict(step) for step in parent.config.fields.get("history") or []]
    told = sum(not step.get("empty_layer") for step in steps)
    return [*steps, *({} for _ in range(len(parent.diff_ids) - told))]


def _oci_layer_type(media_type: str) -> str:
    """The OCI media type of a layer that has a Docker one."""
    if not media_type.startswith(media.DOCKER_LAYER):
        return media_type
    suffix = media_type[len(media.DOCKER_LAYER) :].replace(".", "+", 1)
    return media.OCI_LAYER + suffix
