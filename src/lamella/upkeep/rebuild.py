"""Making again what can be made again."""

from __future__ import annotations

from lamella._sys.files import os_errors
from lamella.catalog.holder import Lease
from lamella.errors import Integrity, NotFound
from lamella.images.graph import Graph
from lamella.layers.ingest import ingest_layer
from lamella.spec.digest import Digest
from lamella.spec.limits import Limits


def rebuild_layer(graph: Graph, diff_id: Digest, lease: Lease, *, limits: Limits) -> None:
    """Unpack and index a layer anew from its blob, in place of what is missing or damaged.

    Raises NotFound if no image has such a layer, and Integrity if the blob does not unpack to it.
    """
    blob = _blob_of(graph, diff_id)
    lease.hold(blob, diff_id)
    staging = lease.directory / f"rebuild-{diff_id.short}"
    with os_errors(str(staging)):
        staging.mkdir()
    with graph.content.open(blob) as reader:
        layer = ingest_layer(reader, staging, lambda _: None, label=str(diff_id), limits=limits)
    if layer.diff_id != diff_id:
        raise Integrity(f"the blob {blob} unpacks to {layer.diff_id}", code="diff-id-mismatch", layer=str(diff_id))
    if graph.layers.path(diff_id).exists():
        graph.layers.replace(staging, diff_id)
    else:
        graph.layers.publish(staging, diff_id)


def _blob_of(graph: Graph, diff_id: Digest) -> Digest:
    for image in graph.catalog.images():
        for layer in image.layers:
            if layer.diff_id == diff_id:
                return layer.blob
    raise NotFound("the layer is not in the store", code="layer-not-found", layer=str(diff_id))
