"""Pulling by the protocol of version 1: the images of a repository as an endpoint to copy from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import Integrity, NotFound
from lamella.registry.v1.client import Client, Record
from lamella.registry.v1.layers import Checkers, FileReader, fetch_layer
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.v1image import V1_CHECKSUM, V1Layer, parents_first, to_documents


class V1Source:
    """The images that tags of a repository lead to, with all their ancestors (an ImageSource); owns ``client``.

    Everything is fetched when this is made: records first, which must be a chain down to a base, then layers, parents
    first, into ``scratch``, an empty directory of the caller's. Nothing is offered before every checksum that the index
    or the registry states was found right: simple ones always, others (TarSum) by ``checkers``. What cannot be verified
    is told as a note, and no checksum of it is kept. ``tag`` None is every tag.

    The offers are those of an old docker archive: an OCI image each, made here, with its record kept in annotations.
    Raises NotFound for a tag that is not there, Integrity for what is not what it should be, and as Client does.
    """

    def __init__(
        self,
        client: Client,
        scratch: Path,
        *,
        tag: str | None = None,
        checkers: Checkers | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._client, self._scratch, self._progress = client, scratch, progress
        self._checkers = checkers or {}
        self._blobs: dict[Digest, Path | bytes] = {}
        try:
            self._offers = self._fetch(tag)
        except BaseException:
            client.close()
            raise

    def offers(self) -> Sequence[Offer]:
        """The images, parents before children."""
        return self._offers

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob. Raises NotFound (``blob-not-found``)."""
        found = self._blobs.get(descriptor.digest)
        if found is None:
            raise NotFound(f"there is no blob {descriptor.digest}", code="blob-not-found", subject=self._client.remote)
        return io.BytesIO(found) if isinstance(found, bytes) else FileReader(found)

    def close(self) -> None:
        """Close the connections. The files in the scratch directory are the caller's to remove."""
        self._client.close()

    def _fetch(self, tag: str | None) -> tuple[Offer, ...]:
        listed: dict[str, list[str]] = {}
        for entry in self._client.images():  # an image may be listed once for each of its tags
            listed.setdefault(entry.id, []).append(entry.checksum)
        tags = self._wanted(tag)
        records: dict[str, Record] = {}
        for identity in dict.fromkeys(tags.values()):
            self._fetch_records(identity, records)
        names: dict[str, list[str]] = {}
        for name, identity in tags.items():
            names.setdefault(identity, []).append(f"{self._client.reference.familiar_repository}:{name}")
        return self._offer_all(records, listed, names)

    def _wanted(self, tag: str | None) -> dict[str, str]:
        tags = self._client.tags()
        if tag is None:
            return tags
        if tag not in tags:
            raise NotFound(f"Tag {tag} not found in repository {self._client.remote}", code="v1-tag",
                           subject=self._client.reference.familiar)  # fmt: skip
        return {tag: tags[tag]}

    def _fetch_records(self, identity: str, records: dict[str, Record]) -> None:
        """The records from ``identity`` down. The registry's list of ancestors must be what the records say."""
        ancestry = self._client.ancestry(identity)
        for at, below in zip(ancestry, [*ancestry[1:], ""], strict=True):
            if at not in records:
                self._progress.note(f"Pulling {at[:12]} metadata")
                records[at] = self._client.record(at)
            parent = records[at].image.parent
            if parent != below:
                raise Integrity(
                    f"the record names the parent {parent or 'none'}, the registry {below or 'none'}",
                    code="v1-ancestry",
                    subject=f"image {at}",
                )

    def _offer_all(
        self, records: dict[str, Record], listed: dict[str, list[str]], names: dict[str, list[str]]
    ) -> tuple[Offer, ...]:
        chains: dict[str, tuple[V1Layer, ...]] = {}
        manifests: dict[str, Digest] = {}
        offers = []
        for image in parents_first({identity: record.image for identity, record in records.items()}):
            below = chains[image.parent] if image.parent else ()
            record = records[image.id]
            link = self._layer(record, [*listed.get(image.id, ()), *record.checksums])
            chains[image.id] = chain = (*below, link)
            config, manifest = to_documents(chain, limits=self._client.limits)
            descriptor = manifest.descriptor
            self._blobs[config.id], self._blobs[descriptor.digest] = config.raw, manifest.raw
            manifests[image.id] = descriptor.digest
            offers.append(Offer(descriptor, tuple(names.get(image.id, ())), manifests.get(image.parent)))
        return tuple(offers)

    def _layer(self, record: Record, checksums: Sequence[str]) -> V1Layer:
        image = record.image
        path = self._scratch / image.id
        fetched = fetch_layer(self._client, record, checksums, path, self._checkers, self._progress)
        with os_errors(str(self._scratch)):
            target = self._scratch / f"blob-{fetched.layer.digest.hex}"
            path.rename(target)
        self._blobs[fetched.layer.digest] = target
        for text in dict.fromkeys(checksums):
            if text and text not in fetched.verified:
                self._progress.note(f"the checksum {text[:40]}... of {image.id[:12]} could not be verified")
        if not any(checksums):
            self._progress.note(f"nobody states a checksum of {image.id[:12]}: it could not be verified")
        kept = {V1_CHECKSUM: fetched.verified[0]} if fetched.verified else {}
        return V1Layer(image, fetched.layer, fetched.diff_id, kept)
