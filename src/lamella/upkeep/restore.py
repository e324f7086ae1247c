"""Blobs that have no file, had again: compressed anew from a layer's tar, or fetched from where they came from.

Nothing here is trusted: whoever reads checks every byte against the digest.
"""

from __future__ import annotations

from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Protocol

from lamella._sys.files import os_errors
from lamella.archive.recipes import BlobRecipe, CompressReader
from lamella.catalog.protocol import Catalog
from lamella.catalog.records import DroppedBlob
from lamella.content.verified import VerifiedReader
from lamella.errors import FailedPrecondition, Integrity, LamellaError, NotFound
from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from lamella.layers.store import LayerStore
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader


class Refetch(Protocol):
    """Reaches the repositories that blobs came from. Thread-safe."""

    def has(self, repository: str, digest: Digest, size: int) -> bool:
        """Whether the repository has the blob now. Raises what keeps it from being asked."""

    def open(self, repository: str, digest: Digest, size: int) -> Reader:
        """The bytes of a blob, not verified. Raises NotFound, and what keeps it from being had."""


class Restorer:
    """Implements ``content.protocol.Absent`` for a store. ``refetch`` None: no repository can be reached."""

    def __init__(self, catalog: Catalog, layers: LayerStore, *, refetch: Refetch | None = None) -> None:
        self.refetch = refetch
        self._catalog = catalog
        self._layers = layers

    def size(self, digest: Digest) -> int | None:
        """The bytes of a blob that was dropped, or that is the tar of a layer; None for any other."""
        record = self._catalog.dropped_blob(digest)
        if record is not None:
            return record.size
        tar = self.file(digest)
        with suppress(FileNotFoundError):
            return None if tar is None else tar.stat().st_size
        return None

    def file(self, digest: Digest) -> Path | None:
        """The tar of a layer, which an uncompressed blob is."""
        if digest.algorithm != "sha256":
            return None
        tar = self._layers.path(digest) / TAR_NAME
        return tar if tar.is_file() else None

    def open(self, digest: Digest) -> Reader | None:
        """The bytes of a blob that ``size`` knows.

        Raises FailedPrecondition (``blob-not-reproducible``) if the library that is here now makes other bytes than the
        one that the blob was dropped with, and no repository has it; NotFound, Integrity if the layer is lost.
        """
        record = self._catalog.dropped_blob(digest)
        if record is None:
            tar = self.file(digest)
            with os_errors(f"blob {digest}"):
                return None if tar is None else FileIO(tar, "rb")
        try:
            return self._remade(record)
        except LamellaError:
            fetched = self.fetch(digest, record.size)
            if fetched is None:
                raise
            return fetched

    def fetch(self, digest: Digest, size: int) -> Reader | None:
        """The bytes of a blob from a repository that is known to have it, not verified; None if there is none.

        Raises what the last of several repositories did.
        """
        failure: LamellaError | None = None
        for repository in self._catalog.blob_sources(digest) if self.refetch is not None else ():
            assert self.refetch is not None
            try:
                return self.refetch.open(repository, digest, size)
            except LamellaError as error:
                failure = error
        if failure is not None:
            raise failure
        return None

    def _remade(self, record: DroppedBlob) -> Reader:
        if not record.recipe:
            raise NotFound(
                "the blob was dropped, and the repository that it came from cannot be reached",
                code="blob-not-reachable",
                subject=f"blob {record.blob}",
            )
        recipe = BlobRecipe.parse(record.recipe)
        if not recipe.is_current:
            self._try_anew(record, recipe)
        return CompressReader(self._open_tar(record.diff_id), recipe)

    def _try_anew(self, record: DroppedBlob, recipe: BlobRecipe) -> None:
        """Find out whether another library than the one that the recipe names makes the same bytes, and note it."""
        now = BlobRecipe.now(recipe.compression, recipe.level)
        stream = CompressReader(self._open_tar(record.diff_id), now)
        try:
            with VerifiedReader(stream, record.blob, record.size) as reader:
                reader.drain()
        except Integrity as error:
            raise FailedPrecondition(
                f"the blob was dropped because {recipe.library} makes it, and {now.library} does not",
                code="blob-not-reproducible",
                subject=f"blob {record.blob}",
                hint=f"run Lamella with {recipe.library}, then 'lamella prune --restore'",
            ) from error
        # From here on this library is as good; the blob stays dropped.
        self._catalog.add_dropped_blob(DroppedBlob(record.blob, record.size, record.diff_id, str(now), record.dropped))

    def _open_tar(self, diff_id: Digest) -> FileIO:
        size: int | None = None
        with suppress(LamellaError):
            size = LayerIndex.sizes(self._layers.path(diff_id) / INDEX_NAME)[0]
        path = self._layers.tar(diff_id, size=size)
        with os_errors(f"layer {diff_id}"):
            return FileIO(path, "rb")
