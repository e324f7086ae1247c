"""One layer of an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression, CompressWriter
from lamella.catalog.records import LayerRecord
from lamella.content.protocol import ContentStore
from lamella.content.verified import VerifiedReader
from lamella.errors import Integrity, LamellaError
from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME
from lamella.layers.store import LayerStore
from lamella.spec.digest import Digest

_CHUNK = 256 << 10


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: the blob as it came, and the tar that it is. Sizes in bytes."""

    record: LayerRecord
    content: ContentStore = field(repr=False)
    store: LayerStore = field(repr=False)

    @property
    def digest(self) -> Digest:
        """The digest of the blob, compressed as it came."""
        return self.record.blob

    @property
    def diff_id(self) -> Digest:
        """The digest of the uncompressed tar."""
        return self.record.diff_id

    @property
    def chain_id(self) -> Digest:
        """What the layer is together with all below it."""
        return self.record.chain_id

    @property
    def media_type(self) -> str:
        """What the manifest says that the blob is."""
        return self.record.media_type

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self.record.size

    @property
    def tar_size(self) -> int:
        """Bytes of the uncompressed tar."""
        return self._sizes()[0]

    @property
    def content_size(self) -> int:
        """Bytes of the content of the layer's files: what docker shows as the layer's size."""
        return self._sizes()[1]

    @property
    def index(self) -> LayerIndex:
        """The layer's rows."""
        return self.store.index(self.diff_id)

    def open(self) -> VerifiedReader:
        """The blob as it came, verified while it is read."""
        return self.content.open(self.digest)

    def tar(self, compression: Compression = Compression.NONE, *, level: int | None = None) -> Iterator[bytes]:
        """The layer's tar in pieces, compressed as asked; uncompressed it is the very bytes that hash to ``diff_id``.

        The bytes are hashed on the way: damage raises Integrity before the last piece is given, so that whoever got
        everything got the right thing.
        """
        pieces: list[bytes] = []
        writer = CompressWriter(pieces.append, compression, level=level)
        plain = self.diff_id.hasher()
        left = self.index.tar_size
        with os_errors(f"layer {self.diff_id}"), open(self.store.source(self.diff_id).open_tar(), "rb") as tar:
            while left and (chunk := tar.read(min(_CHUNK, left))):
                left -= len(chunk)
                plain.update(chunk)
                writer.write(chunk)
                if not left:
                    self._check(Digest.finish(plain))
                    writer.close()
                yield from pieces
                pieces.clear()
        if left:
            self._check(None)

    def _check(self, found: Digest | None) -> None:
        if found == self.diff_id:
            return
        hint = ""
        with suppress(LamellaError):
            self.store.mend(self.diff_id)
            hint = "it was made anew from its blob: try again"
        raise Integrity("the stored tar is damaged", code="layer-damaged", layer=str(self.diff_id), hint=hint)

    def _sizes(self) -> tuple[int, int]:
        try:
            return LayerIndex.sizes(self.store.path(self.diff_id) / INDEX_NAME)
        except LamellaError:
            index = self.index  # which makes a damaged one anew
            return index.tar_size, index.content_size
