"""Accepting a document whose blobs are in the store already: what a push to the store ends with.

Its blobs came one by one, before anybody knew what they were. So layers are unpacked and indexed here, each read once
from its blob, before the image shows.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression
from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.errors import (
    Conflict,
    Integrity,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    Unsupported,
    one_line,
)
from lamella.images.graph import Graph
from lamella.layers.ingest import TAR_NAME, ingest_layer
from lamella.spec import media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Index, Manifest
from lamella.spec.reference import Reference

_POLL = 0.05
_NOT_OF_THE_IMAGE = frozenset({"disk-full", "os-limit", "size-mismatch", "digest-mismatch"})
"""Failures to read or write here, which say nothing about what was sent."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A document that was accepted: what it is, its kind in the store, and what its sender should know."""

    descriptor: Descriptor
    kind: str
    warnings: tuple[str, ...] = ()


def accept(
    graph: Graph, content: LocalContent, lease: Lease, raw: bytes, media_type: str, names: Iterable[Reference]
) -> Accepted:
    """Record the document ``raw``, offered as ``media_type``, and point ``names`` at it: all of it, or nothing.

    What looks like an image but cannot be one (a layer that is no tar, a config that promises other layers) is kept as
    an artifact, with a warning: its bytes are what they should be. Raises InvalidInput, Unsupported and
    ResourceExhausted for what is no sound document, NotFound (``manifest-incomplete``) when blobs or, of an index, all
    images are missing, Integrity (``size-mismatch``) when a blob has another size than the document says.
    """
    if media_type in media.INDEXES:
        index = Index.parse(raw, media_type, limits=graph.limits)
        accepted = Accepted(index.descriptor, "index", _check_children(graph, lease, index))
        record = _Record(graph, index=index)
    else:
        manifest = Manifest.parse(raw, media_type, limits=graph.limits)
        _check_blobs(content, lease, manifest)
        record, warnings = _prepared(graph, content, lease, manifest)
        accepted = Accepted(manifest.descriptor, record.kind, warnings)
    _keep(content, lease, accepted.descriptor, raw)
    with graph.catalog.transaction():
        record.write()
        for name in names:
            graph.catalog.set_name(str(name), accepted.descriptor.digest)
    return accepted


@dataclass(frozen=True, slots=True)
class _Record:
    """What goes into the catalog: an index, an image with its config, or a manifest that is none."""

    graph: Graph
    index: Index | None = None
    manifest: Manifest | None = None
    config: ImageConfig | None = None

    @property
    def kind(self) -> str:
        return "index" if self.index is not None else "artifact" if self.config is None else "image"

    def write(self) -> None:
        """Part of the caller's transaction."""
        if self.index is not None:
            self.graph.register_index(self.index)
        elif self.manifest is not None and self.config is not None:
            self.graph.register_image(self.manifest, self.config, self.config.diff_ids)
        elif self.manifest is not None:
            self.graph.register_artifact(self.manifest.descriptor, self.manifest)


# -- what a document names: held first, looked for then


def _check_blobs(content: LocalContent, lease: Lease, manifest: Manifest) -> None:
    blobs = (manifest.config, *manifest.layers)
    lease.hold(*(blob.digest for blob in blobs))
    for blob in blobs:
        subject = f"blob {blob.digest}"
        if not content.exists(blob.digest):
            raise NotFound("the manifest names it, but it is not here", code="manifest-incomplete", subject=subject)
        size = content.info(blob.digest).size
        if size != blob.size:
            text = f"it has {size} bytes, the manifest says {blob.size}"
            raise Integrity(text, code="size-mismatch", subject=subject)


def _check_children(graph: Graph, lease: Lease, index: Index) -> tuple[str, ...]:
    """See that at least one image of an index is here: it may be sparse, but not empty. Says which are missing."""
    wanted = [child for child in index.manifests if child.is_index or child.is_manifest]
    lease.hold(*(child.digest for child in wanted))
    missing = [child.digest for child in wanted if graph.catalog.document(child.digest) is None]
    if wanted and len(missing) == len(wanted):
        raise NotFound(
            "the index names it, but it is not here", code="manifest-incomplete", subject=f"manifest {missing[0]}"
        )
    return tuple(f"the index names {digest}, which is not here" for digest in missing)


def _keep(content: LocalContent, lease: Lease, descriptor: Descriptor, raw: bytes) -> None:
    """Store the document itself."""
    lease.hold(descriptor.digest)
    if not content.exists(descriptor.digest, descriptor.size):
        with content.open_ingest(f"document-{secrets.token_hex(8)}") as ingest:
            ingest.write(raw)
            ingest.commit(expected=descriptor.digest, size=descriptor.size)


# -- images


def _prepared(graph: Graph, content: LocalContent, lease: Lease, manifest: Manifest) -> tuple[_Record, tuple[str, ...]]:
    """What a manifest is recorded as; an image's layers are unpacked and indexed for it."""
    if not manifest.is_image:
        return _Record(graph, manifest=manifest), ()
    try:
        config = graph.checked_config(manifest, lambda blob: index_layer(graph, content, lease, blob))
    except (InvalidInput, Integrity, Unsupported, ResourceExhausted) as error:
        if error.code in _NOT_OF_THE_IMAGE:
            raise
        return _Record(graph, manifest=manifest), (one_line(f"kept, but not as an image: {error}"),)
    return _Record(graph, manifest=manifest, config=config), ()


def index_layer(graph: Graph, content: LocalContent, lease: Lease, blob: Descriptor) -> Digest:
    """Unpack and index the layer that is in ``blob``, unless that was done before; its diff_id.

    The blob is verified while it is read. Of several who do this at once, in any process, one works and the others
    wait. Raises what ``ingest_layer`` raises, naming the layer.
    """
    with _turn(content, blob.digest):
        known = graph.catalog.blob_diff(blob.digest)
        if known is not None:
            lease.hold(known)
            if graph.layers.has(known):
                return known
        return _index(graph, content, lease, blob)


@contextmanager
def _turn(content: LocalContent, blob: Digest) -> Iterator[None]:
    """One's turn to index a blob: the lock of an ingest into which nothing is written."""
    while True:
        try:
            turn = content.open_ingest(f"index-{blob}")
            break
        except Conflict as conflict:
            if conflict.code != "ingest-busy":
                raise
            time.sleep(_POLL)
    with turn:
        yield


def _index(graph: Graph, content: LocalContent, lease: Lease, blob: Descriptor) -> Digest:
    staging = lease.directory / f"layer-{blob.digest.hex}"
    with os_errors(str(staging)):
        staging.mkdir(mode=0o755, exist_ok=True)
    with content.open(blob.digest, size=blob.size) as reader:
        layer = ingest_layer(
            reader,
            staging,
            lambda _: None,
            label=str(blob.digest),
            limits=graph.limits,
            file_digests=graph.file_digests,
        )
    if layer.compression is Compression.NONE:
        _share(content, blob.digest, staging / TAR_NAME)
    lease.hold(layer.diff_id)
    graph.layers.publish(staging, layer.diff_id, layer.index)
    graph.catalog.set_blob_diff(blob.digest, layer.diff_id)
    return layer.diff_id


def _share(content: LocalContent, blob: Digest, tar: Path) -> None:
    """An uncompressed layer is its own tar: one file with two names instead of two files."""
    path = content.path(blob)
    if path is not None:
        with os_errors(str(tar)):
            linked = tar.with_suffix(".link")
            os.link(path, linked, follow_symlinks=False)
            os.rename(linked, tar)
