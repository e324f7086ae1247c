"""Registries of version 1 as endpoints: what reading and writing them needs of records, graphs and TarSum."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lamella.content.verified import VerifiedReader
from lamella.errors import InvalidInput
from lamella.formats.docker_graph.checksums import TarSumVersion, tarsum
from lamella.formats.scratch import Scratch
from lamella.formats.spool import Spool
from lamella.formats.v1_chain import Link, chain_of, check_layer, open_layer
from lamella.registry.v1.client import Client
from lamella.registry.v1.layers import Checkers
from lamella.registry.v1.push import Upload, push
from lamella.registry.v1.source import V1Source
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import DEFAULT_TAG, Reference

_LABELS: dict[str, TarSumVersion] = {"tarsum": "0", "tarsum.v1": "1", "tarsum.dev": "dev"}
_ALGORITHMS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")


def checkers(limits: Limits = DEFAULT_LIMITS) -> Checkers:
    """What computes the checksums that registries of version 1 state beside the simple one: TarSum, in every form."""

    def check(version: TarSumVersion, algorithm: str, raw: bytes, layer: BinaryIO) -> str:
        return tarsum(layer, raw, version=version, algorithm=algorithm, limits=limits)

    return {
        f"{label}+{algorithm}": partial(check, version, algorithm)
        for label, version in _LABELS.items()
        for algorithm in _ALGORITHMS
    }


def open_source(client: Client, scratch: Path, *, tag: str | None = None, progress: Progress = NO_PROGRESS) -> V1Source:
    """The images of a repository, every checksum verified; see V1Source, which owns ``client``."""
    return V1Source(client, scratch, tag=tag, checkers=checkers(client.limits), progress=progress)


class V1Sink:
    """Pushes images by the protocol of version 1 (an ImageSink), to the repository of ``client``, which it owns.

    An image becomes a chain of images of one layer each; those that came from a docker before 1.10 have the ids and
    records that they had there. Blobs are gathered in ``scratch`` and verified; ``finish`` pushes, parents first, tags
    last. A name gives its tag; an image without a name gets the tag of the client's reference.
    """

    def __init__(
        self, client: Client, scratch: Path, *, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS
    ) -> None:
        self._client, self._limits, self._progress = client, limits, progress
        self._scratch = Scratch(scratch)
        self._spool = Spool(self._scratch)
        self._written: set[Digest] = set()

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was taken already."""
        return descriptor.digest in self._written

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob; ``reader`` stays the caller's. Raises Integrity when the bytes are not the descriptor's."""
        verified = VerifiedReader(reader, descriptor.digest, descriptor.size)
        self._spool.store(verified, digest=descriptor.digest)
        self._written.add(descriptor.digest)

    def finish(self, offers: Iterable[Offer]) -> None:
        """Push the images. Ends the sink, whatever comes of it. Raises as ``push`` does."""
        try:
            links: dict[str, Link] = {}
            tags: dict[str, str] = {}
            for offer in offers:
                chain = chain_of(
                    self._spool, offer.descriptor, was_written=self._written.__contains__, limits=self._limits
                )
                for link in chain:
                    self._add(links, link)
                references = [Reference.parse(name) for name in offer.names] or [self._client.reference]
                for reference in references:
                    tags[reference.tag or DEFAULT_TAG] = chain[-1].image.id
            push(self._client, [self._upload(link) for link in links.values()], tags, progress=self._progress)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what was gathered; nothing happens the second time."""
        self._scratch.close()
        self._client.close()

    def _add(self, links: dict[str, Link], link: Link) -> None:
        if links.setdefault(link.image.id, link).image.raw != link.image.raw:
            raise InvalidInput("two records have this id", code="v1-duplicate", subject=f"image {link.image.id}")

    def _upload(self, link: Link) -> Upload:
        check_layer(self._spool, link, self._limits)
        with closing(self._spool.open(link.layer.digest)) as layer:
            stated = tarsum(layer, link.image.raw, limits=self._limits)
        return Upload(link.image, partial(open_layer, self._spool, link, self._limits), link.layer.size, stated)
