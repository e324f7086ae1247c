"""The rows of the catalog as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.platform import Platform

DocumentKind = Literal["image", "index", "artifact"]
FoundKind = Literal["id", "manifest", "index", "artifact"]


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of an image: its blob, the digest of it uncompressed, and that of the stack which it is the top of."""

    blob: Digest
    media_type: str
    size: int
    diff_id: Digest
    chain_id: Digest


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A manifest that is an image. ``size`` is that of the manifest, ``id`` the digest of its config, ``layers`` go
    bottom up. ``parent`` is the manifest of the image that it was committed on, known here or not."""

    manifest: Digest
    media_type: str
    size: int
    id: Digest
    config_size: int
    parent: Digest | None
    platform: Platform
    created: datetime | None
    added: datetime
    layers: tuple[LayerRecord, ...]


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document that is kept whole, and everything that it names: config and layers, or the manifests of an index."""

    digest: Digest
    media_type: str
    size: int
    kind: DocumentKind
    children: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class NameRecord:
    """A name (canonical: ``domain/path:tag``) and the document that it points at."""

    name: str
    target: Digest
    updated: datetime


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A file system on top of an image (a manifest; None: on nothing), forked from the snapshot ``source`` or ``""``.

    ``mounted`` describes the live mount in JSON; it is empty when there is none.
    """

    key: str
    image: Digest | None
    source: str
    writable: bool
    driver: str
    created: datetime
    mounted: str = ""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What an operation that is under way holds on to; whether it still lives is not told by the catalog."""

    id: str
    created: datetime
    purpose: str


@dataclass(frozen=True, slots=True)
class DroppedBlob:
    """A layer blob of ``size`` bytes that has no file because it can be had again.

    With a ``recipe`` from the tar of the layer ``diff_id``, else from a repository that is recorded as its source.
    """

    blob: Digest
    size: int
    diff_id: Digest
    recipe: str
    dropped: datetime


@dataclass(frozen=True, slots=True)
class Reachable:
    """What must stay. Digests that a live lease names count as all of it, as the catalog cannot tell what they are."""

    documents: frozenset[Digest]
    blobs: frozenset[Digest]
    diff_ids: frozenset[Digest]
    chain_ids: frozenset[Digest]
