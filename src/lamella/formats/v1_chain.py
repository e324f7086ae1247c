"""From a manifest that was gathered to the v1 images that it comes to: for graphs and registries of before 2016."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from lamella.archive.compression import Compression, DecompressReader
from lamella.errors import Integrity, Unsupported
from lamella.formats.docker_v1 import v1_records
from lamella.formats.files import digest_of
from lamella.formats.spool import Spool
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Index, Manifest
from lamella.spec.endpoint import Reader
from lamella.spec.limits import Limits
from lamella.spec.v1image import V1_CHECKSUM, V1Image, kept_chain


@dataclass(frozen=True, slots=True)
class Link:
    """One v1 image: its record, the blob of its layer, what that unpacks to, the checksum that was kept for it.

    ``was_v1`` tells that it is one that came from before 2016, whose archive is to stay what it was.
    """

    image: V1Image
    layer: Descriptor
    diff_id: Digest
    checksum: str
    was_v1: bool


def chain_of(
    spool: Spool, descriptor: Descriptor, *, was_written: Callable[[Digest], bool], limits: Limits
) -> list[Link]:
    """The v1 images of an image, its base first; the lowest have the records that they had, if they keep any.

    Of an index the only image that was written is taken. Raises Unsupported (``v1-index``, ``v1-artifact``,
    ``v1-no-layer``) for what a v1 image cannot be, Integrity for a number of layers other than the config's.
    """
    manifest = _manifest(spool, descriptor, was_written, limits)
    raw = spool.read(manifest.config.digest, "image config", limits.document_bytes)
    config = ImageConfig.parse(raw, limits=limits)
    subject = f"image {config.id.short}"
    manifest.paired(config, subject)
    kept = kept_chain(manifest, limits=limits)
    records = v1_records(config, kept)
    if not records:
        raise Unsupported("it has no layer", code="v1-no-layer", subject=subject)
    return [
        Link(
            V1Image.parse(record.json, limits=limits),
            layer,
            record.diff_id,
            layer.annotations.get(V1_CHECKSUM, "") if number < len(kept) else "",
            number < len(kept),
        )
        for number, (record, layer) in enumerate(zip(records, manifest.layers, strict=True))
    ]


def check_layer(spool: Spool, link: Link, limits: Limits) -> None:
    """Raise Integrity if the layer does not unpack to what the configuration promises."""
    with closing(DecompressReader(spool.open(link.layer.digest), limits=limits)) as reader:
        plain = reader.compression is Compression.NONE and link.diff_id.algorithm == link.layer.digest.algorithm
        actual = link.layer.digest if plain else digest_of(reader, link.diff_id.hasher())
    if actual != link.diff_id:
        raise Integrity(
            f"the layer unpacks to {actual}, the config promises {link.diff_id}",
            code="diff-id-mismatch",
            subject=f"image {link.image.id}",
            layer=str(link.layer.digest),
        )


def open_layer(spool: Spool, link: Link, limits: Limits) -> Reader:
    """The layer as it is, but uncompressed where the compression was not known before 2016 (zstd)."""
    with closing(spool.open(link.layer.digest)) as head:
        known = Compression.detect(head.read(16)) is not Compression.ZSTD
    return spool.open(link.layer.digest) if known else open_tar(spool, link, limits)


def open_tar(spool: Spool, link: Link, limits: Limits) -> Reader:
    """The uncompressed tar of the layer."""
    return DecompressReader(spool.open(link.layer.digest), limits=limits)


def _manifest(spool: Spool, descriptor: Descriptor, was_written: Callable[[Digest], bool], limits: Limits) -> Manifest:
    if descriptor.is_index:
        raw = spool.read(descriptor.digest, "index", limits.document_bytes)
        index = Index.parse(raw, descriptor.media_type, limits=limits)
        written = [child for child in index.manifests if child.is_manifest and was_written(child.digest)]
        if len(written) != 1:
            raise Unsupported(
                f"{descriptor.digest} is an image of {len(written)} platforms; here can be one",
                code="v1-index",
                hint="choose a platform",
            )
        descriptor = written[0]
    raw = spool.read(descriptor.digest, "manifest", limits.document_bytes)
    manifest = Manifest.parse(raw, descriptor.media_type, limits=limits)
    if not manifest.is_image:
        raise Unsupported(f"{descriptor.digest} is no runnable image", code="v1-artifact")
    return manifest
