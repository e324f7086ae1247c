"""What every catalog offers, in four parts: who needs only names takes ``Names``.

Every call is one transaction: all of it happens or nothing. ``Catalog.transaction`` makes several calls one. What has
returned (for the outermost transaction: what has been left) survives a power cut, but for leases and for what
``Images.set_blob_diff`` remembers, which survive a kill. A catalog is safe for use by several threads and processes;
after a fork both sides may go on using it, unless a call or a transaction was under way in another thread.

Errors, beside those named: Conflict (``catalog-busy``) when others kept the catalog locked for a minute, Integrity when
the file is damaged, ResourceExhausted (``disk-full``), AccessDenied, FailedPrecondition (``catalog-closed``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from lamella.catalog.records import (
    DocumentRecord,
    DroppedBlob,
    FoundKind,
    ImageRecord,
    LeaseRecord,
    NameRecord,
    Reachable,
    SnapshotRecord,
)
from lamella.spec.digest import Digest


class Images(Protocol):
    """The documents that the store holds, and those of them that are images."""

    def add_document(self, document: DocumentRecord) -> bool:
        """Record a document; one that is known stays as it is. Returns whether it is new."""

    def add_image(self, image: ImageRecord, document: DocumentRecord) -> bool:
        """Record an image and its document; what is known stays, but for a parent that was not known before.

        Returns whether the image is new. Raises InvalidInput (``catalog-record``) if the two are not of one manifest,
        FailedPrecondition (``parent-cycle``) if the image would be its own ancestor.
        """

    def document(self, digest: Digest) -> DocumentRecord | None:
        """A document, or None."""

    def documents(self) -> list[DocumentRecord]:
        """Every document, ordered by digest."""

    def remove_document(self, digest: Digest) -> bool:
        """Forget a document and the image that it is; returns whether it was known.

        Raises FailedPrecondition, naming them, if names (``document-named``) or snapshots (``document-in-use``) point
        at it. Images whose parent it was, and indexes that list it, keep saying so.
        """

    def parents_of(self, digest: Digest) -> list[DocumentRecord]:
        """The documents that name ``digest``, a document or a blob, among their children."""

    def image(self, manifest: Digest) -> ImageRecord | None:
        """An image, or None."""

    def images(self) -> list[ImageRecord]:
        """Every image, the first that was added first."""

    def images_by_id(self, id: Digest) -> list[ImageRecord]:
        """The images whose config is ``id``: several if it was stored in several compressions, say."""

    def children(self, manifest: Digest) -> list[ImageRecord]:
        """The images whose parent is ``manifest``."""

    def set_parent(self, manifest: Digest, parent: Digest | None) -> None:
        """Set an image's parent. Raises NotFound for the image, FailedPrecondition (``parent-cycle``)."""

    def find(self, prefix: str) -> list[tuple[Digest, FoundKind]]:
        """The image ids and document digests that start with ``prefix``, sorted.

        The prefix is hexadecimal digits in lower case, with or without ``algorithm:`` before them; nothing matches
        anything else.
        """

    def blob_diff(self, blob: Digest) -> Digest | None:
        """The diff_id of a layer blob, if it was ever worked out."""

    def set_blob_diff(self, blob: Digest, diff_id: Digest) -> None:
        """Remember the diff_id of a layer blob."""

    def remove_blob_diff(self, blob: Digest) -> bool:
        """Forget the diff_id of a blob that is gone; returns whether it was known."""


class Blobs(Protocol):
    """How layer blobs can be had again, and which of them have no file of their own for that reason."""

    def blob_recipe(self, blob: Digest) -> str | None:
        """What the blob is made by from its layer's tar, if that is known."""

    def set_blob_recipe(self, blob: Digest, recipe: str) -> None:
        """Remember what a blob is made by. May be forgotten in a power cut."""

    def blob_sources(self, blob: Digest) -> list[str]:
        """The repositories (``domain/path``) that are known to have a blob, the one seen last first."""

    def add_blob_source(self, blob: Digest, repository: str) -> None:
        """Remember that a repository has a blob: it came from there, or was put there. May be forgotten as above."""

    def forget_blob(self, blob: Digest) -> None:
        """Forget the recipe and the sources of a blob that is gone."""

    def dropped_blobs(self) -> list[DroppedBlob]:
        """Every blob that was dropped, ordered by digest."""

    def dropped_blob(self, blob: Digest) -> DroppedBlob | None:
        """What is known of a blob that was dropped, or None. One that has a file again may still be listed."""

    def add_dropped_blob(self, record: DroppedBlob) -> None:
        """Record that a blob is about to lose its file; replaces an earlier record of it."""

    def remove_dropped_blob(self, blob: Digest) -> bool:
        """Record that a blob has its file again, or is gone for good; returns whether it was listed."""


class Names(Protocol):
    """Names of documents. A name is any text to the catalog; callers give it canonical ones."""

    def names(self) -> list[NameRecord]:
        """Every name, sorted."""

    def name(self, name: str) -> NameRecord | None:
        """Where a name points, or None."""

    def set_name(self, name: str, target: Digest) -> Digest | None:
        """Point ``name`` at a document; returns where it pointed before. Raises NotFound if the document is unknown."""

    def remove_name(self, name: str) -> bool:
        """Remove a name; returns whether there was one."""


class Snapshots(Protocol):
    """The file systems that the store keeps."""

    def snapshots(self) -> list[SnapshotRecord]:
        """Every snapshot, sorted by key."""

    def snapshot(self, key: str) -> SnapshotRecord | None:
        """A snapshot, or None."""

    def snapshots_of(self, manifest: Digest) -> list[SnapshotRecord]:
        """The snapshots on one image."""

    def add_snapshot(self, record: SnapshotRecord) -> None:
        """Record a snapshot. Raises AlreadyExists for its key, NotFound for its image."""

    def set_mounted(self, key: str, text: str, *, expect: str | None) -> None:
        """Replace ``mounted``, given ``expect`` only if it is that now.

        Raises Conflict (``snapshot-changed``) if it is not, NotFound.
        """

    def remove_snapshot(self, key: str) -> bool:
        """Forget a snapshot; returns whether there was one."""


class Leases(Protocol):
    """What operations under way hold, so that a collection of garbage beside them leaves it alone."""

    def add_lease(self, id: str, purpose: str) -> None:
        """Record a lease. Raises AlreadyExists."""

    def extend_lease(self, id: str, resources: Iterable[str]) -> None:
        """Hold more: digests as text, or other names that callers agree on. Raises NotFound for the lease."""

    def remove_lease(self, id: str) -> bool:
        """Drop a lease and what it holds; returns whether there was one."""

    def leases(self) -> list[LeaseRecord]:
        """Every lease, the oldest first."""

    def lease_resources(self, id: str) -> frozenset[str]:
        """What a lease holds; nothing if there is no such lease."""


class Catalog(Images, Blobs, Names, Snapshots, Leases, Protocol):
    """All that the store knows."""

    def transaction(self, *, durable: bool = True) -> AbstractContextManager[None]:
        """Make the calls of this thread inside the block one transaction, which an exception undoes.

        Only one transaction is open at a time, over all threads and processes; others wait for it, readers do not. A
        transaction inside one joins it, and undoes its own part alone if it fails. One that is not ``durable`` survives
        a kill but perhaps not a power cut; only what needs no more (leases, ``set_blob_diff``, recipes and sources of
        blobs) may be called in it, anything else is refused with FailedPrecondition (``catalog-durability``).
        """

    def reachable(self, live_leases: Collection[str]) -> Reachable:
        """Everything that a name, a snapshot or one of these leases leads to, over the children of documents and the
        parents of images."""

    def used(self, live_leases: Collection[str], manifests: Collection[Digest]) -> Reachable:
        """As ``reachable``, but from these manifests and leases alone: what is at work at this moment."""

    def generation(self) -> int:
        """A number that grows with every change of names, documents or dropped blobs that is committed."""

    def problems(self) -> list[str]:
        """What is wrong with the database itself, a line each; it is read whole for that. Empty when it is sound."""

    def close(self) -> None:
        """Give back what the catalog holds; calls after that fail."""
