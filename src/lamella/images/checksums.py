"""The checksums that an image has: today's digests, and those of 2013 over the record that it would have had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamella.errors import FailedPrecondition
from lamella.formats.docker_graph.checksums import checksum, tarsum
from lamella.formats.docker_v1 import V1Record, v1_records
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader
from lamella.spec.v1image import is_kept, kept_chain

if TYPE_CHECKING:
    from lamella.images.image import Image
    from lamella.images.layer import Layer


@dataclass(frozen=True, slots=True)
class Checksums:
    """Of an image: ``digest`` (its manifest), ``id`` (its config), and of its topmost layer the rest.

    ``v1_id`` is the id that it has, or would have, in archives and registries of docker before 1.10; ``checksum`` is
    that of docker 0.3 to 0.5, the TarSums are those of 0.6 to 1.9. These count the record of that time.
    """

    digest: Digest
    id: Digest
    diff_id: Digest
    chain_id: Digest
    v1_id: str
    checksum: str
    tarsum: str
    tarsum_v1: str
    tarsum_dev: str


def v1_record(image: Image) -> V1Record:
    """The record that ``docker save`` writes for an image; for what came from docker before 1.10 the one that it had.

    Raises FailedPrecondition for an image without layers.
    """
    records = v1_records(image.config, kept_chain(image.manifest))
    if not records:
        raise FailedPrecondition("it has no layer, and no record", code="checksum-no-layer", subject=str(image.id))
    return records[-1]


def simple_checksum(image: Image, record: V1Record | None = None) -> str:
    """``sha256:`` and the sha256 of the record, a newline and the archive of the topmost layer.

    The archive is the uncompressed tar, as ``docker save`` writes it; for an image that was one in 2013 it is what was
    stored or sent then, so that the checksum is the one that was published.
    """
    record = record or v1_record(image)
    top = image.layers[-1]
    kept = is_kept(image.manifest, kept_chain(image.manifest))
    reader: Reader = top.open() if kept else _TarReader(top)
    try:
        return checksum(record.json, reader)
    finally:
        reader.close()


def checksums(image: Image) -> Checksums:
    """All of them; the layer is read once for each. Raises FailedPrecondition for an image without layers."""
    record = v1_record(image)
    top = image.layers[-1]
    return Checksums(
        image.digest,
        image.id,
        top.diff_id,
        top.chain_id,
        record.id,
        simple_checksum(image, record),
        tarsum(_TarReader(top), record.json, version="0"),
        tarsum(_TarReader(top), record.json, version="1"),
        tarsum(_TarReader(top), record.json, version="dev"),
    )


class _TarReader:
    """The uncompressed tar of a layer as a stream; damage is an error at its end."""

    def __init__(self, layer: Layer) -> None:
        self._pieces = layer.tar()
        self._left = b""

    def read(self, size: int, /) -> bytes:
        if not self._left:
            self._left = next(self._pieces, b"")
        data, self._left = self._left[:size], self._left[size:]
        return data

    def close(self) -> None:
        self._left = b""
