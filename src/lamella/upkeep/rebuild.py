"""Making again what can be made again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression
from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.content.verified import VerifiedReader
from lamella.errors import Integrity, LamellaError, NotFound
from lamella.images.graph import Graph
from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME, ingest_layer
from lamella.spec.digest import Digest
from lamella.spec.limits import Limits
from lamella.upkeep.restore import Restorer


def rebuild_layer(
    graph: Graph, content: LocalContent, restorer: Restorer, diff_id: Digest, lease: Lease, *, limits: Limits
) -> None:
    """Unpack and index a layer anew from one of its blobs, in place of what is missing or damaged.

    Raises NotFound if no image has such a layer, and Integrity if no blob is there that unpacks to it.
    """
    blobs = _blobs_of(graph, diff_id)
    lease.hold(diff_id, *blobs)
    failure: LamellaError | None = None
    for number, reader in enumerate(_readers(graph, content, restorer, diff_id, blobs)):
        staging = lease.directory / f"rebuild-{diff_id.short}-{number}"
        try:
            with reader:
                _rebuild(graph, content, reader, staging, diff_id, limits)
        except LamellaError as error:
            failure = failure or error
        else:
            return
    raise failure or Integrity(
        "its tar is missing or damaged, and its blob was dropped because it could be made from that",
        code="layer-lost",
        layer=str(diff_id),
        hint="load or pull an image that has the layer",
    )


def _rebuild(
    graph: Graph, content: LocalContent, reader: VerifiedReader, staging: Path, diff_id: Digest, limits: Limits
) -> None:
    with os_errors(str(staging)):
        staging.mkdir()
    layer = ingest_layer(
        reader,
        staging,
        lambda _: None,
        label=str(diff_id),
        limits=limits,
        file_digests=graph.file_digests or _had_digests(graph.layers.path(diff_id) / INDEX_NAME),
    )
    if layer.diff_id != diff_id:
        raise Integrity(
            f"the blob {reader.digest} unpacks to {layer.diff_id}", code="diff-id-mismatch", layer=str(diff_id)
        )
    if layer.compression is Compression.NONE:
        # What was read is the tar: it stays the one file that it is, or is with its blob.
        with os_errors(str(staging)):
            os.unlink(staging / TAR_NAME)
            os.link(content.stored(reader.digest) or graph.layers.path(diff_id) / TAR_NAME, staging / TAR_NAME)
    if graph.layers.path(diff_id).exists():
        graph.layers.replace(staging, diff_id)
    else:
        graph.layers.publish(staging, diff_id, layer.index)


def _had_digests(index: Path) -> bool:
    return index.is_file() and LayerIndex.has_digests(index)


def _blobs_of(graph: Graph, diff_id: Digest) -> dict[Digest, int]:
    """The blobs that unpack to a layer, and their sizes."""
    blobs = {
        layer.blob: layer.size for image in graph.catalog.images() for layer in image.layers if layer.diff_id == diff_id
    }
    if not blobs:
        raise NotFound("the layer is not in the store", code="layer-not-found", layer=str(diff_id))
    return blobs


def _readers(
    graph: Graph, content: LocalContent, restorer: Restorer, diff_id: Digest, blobs: dict[Digest, int]
) -> Iterator[VerifiedReader]:
    """What the layer can be had from, the nearest first: blobs that have a file, its tar, blobs that are fetched."""
    for blob in blobs:
        if content.stored(blob) is not None:
            yield content.open(blob)
    tar = graph.layers.path(diff_id) / TAR_NAME
    if tar.is_file():
        with os_errors(str(tar)):
            file = FileIO(tar, "rb")
        yield VerifiedReader(file, diff_id, os.fstat(file.fileno()).st_size)
    for blob, size in blobs.items():
        fetched = restorer.fetch(blob, size) if content.stored(blob) is None else None
        if fetched is not None:
            yield VerifiedReader(fetched, blob, size)
