"""A repository of a registry as an endpoint that images are copied from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lamella.errors import Integrity, LamellaError, NotFound, Unavailable, Unsupported
from lamella.registry.access import Access
from lamella.registry.client import Registry
from lamella.registry.download import BlobReader, RangedReader, worth_ranges
from lamella.registry.registries_conf import Location
from lamella.registry.repository import SCHEMA1_TYPES, Document, Repository
from lamella.registry.transport import Request, Response
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference


class RegistrySource:
    """Offers images of one repository (an ImageSource); owns the client. Thread-safe.

    ``documents`` are those that were read already, and ``blobs`` makes readers of what no registry has: what was made
    here of a manifest of an older kind.
    """

    parallel = 4
    """Blobs that are worth copying at once: a registry is far away."""
    action = "downloading"
    """What copying from here is called."""

    def __init__(
        self,
        repository: Repository,
        offers: Sequence[Offer],
        documents: Iterable[Document] = (),
        *,
        blobs: dict[Digest, Callable[[], Reader]] | None = None,
    ) -> None:
        self.repository = repository
        self._offers = tuple(offers)
        self._documents = {document.descriptor.digest: document for document in documents}
        self._blobs = blobs or {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def offers(self) -> Sequence[Offer]:
        """What was asked for."""
        return self._offers

    def document(self, descriptor: Descriptor) -> Document:
        """A manifest or an index, read once. Raises Integrity if it is not what the descriptor says."""
        known = self._documents.get(descriptor.digest)
        if known is None:
            known = self._documents[descriptor.digest] = self.repository.document(descriptor.digest)
        if descriptor.media_type != known.descriptor.media_type:
            raise Integrity(
                f"the registry says it is a {known.descriptor.media_type}, and not a {descriptor.media_type}",
                code="media-type-mismatch",
                subject=str(descriptor.digest),
            )
        return known

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob, unverified. Raises NotFound."""
        return self.open_blob_at(descriptor, 0)

    def open_blob_at(self, descriptor: Descriptor, offset: int) -> Reader:
        """The bytes of one blob from ``offset`` on; a connection that breaks is made again where it was."""
        if descriptor.is_manifest or descriptor.is_index:
            return io.BytesIO(self.document(descriptor).raw[offset:])
        made = self._blobs.get(descriptor.digest)
        if made is not None:
            reader = made()
            _pass_over(reader, offset)
            return reader
        access = self.repository.registry.access

        def make(start: int, end: int | None = None) -> BlobReader:
            return BlobReader(
                lambda at, before: self._open(descriptor, at, before),
                descriptor,
                start=start,
                end=end,
                retrying=access.retrying,
                sleep=self.repository.registry.transport.sleep,
            )

        if worth_ranges(descriptor.size - offset, access.connections):
            return RangedReader(make, offset, descriptor.size, access.connections)
        return make(offset)

    def _open(self, descriptor: Descriptor, start: int, end: int | None) -> Response:
        try:
            return self.repository.open_blob(descriptor.digest, start=start, end=end)
        except NotFound:
            if not descriptor.urls:
                raise
        return self._open_foreign(descriptor, start, end)

    def _open_foreign(self, descriptor: Descriptor, start: int, end: int | None) -> Response:
        """A layer from the addresses that its descriptor names; no credentials go there."""
        registry = self.repository.registry
        if not registry.access.foreign_layers:
            raise Unsupported(
                "the layer is not at the registry but elsewhere",
                code="foreign-layer",
                subject=str(descriptor.digest),
                hint="--foreign-layers fetches it from there",
            )
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        problem: LamellaError = NotFound("it has no address", code="blob-not-found")
        for url in descriptor.urls:
            try:
                response = registry.transport.open(Request("GET", registry.transport.safe_target(url, ""), headers))
            except Unavailable as error:
                problem = error
                continue
            if response.status in (200, 206):
                return response
            response.discard()
            problem = NotFound(f"there is no layer at {url[:200]}", code="blob-not-found")
        raise problem.about(subject=f"blob {descriptor.digest}")

    def signatures(self, descriptor: Descriptor) -> dict[str, Digest]:
        """What cosign keeps beside an image, by tag."""
        return self.repository.signatures(descriptor.digest)

    def interrupt(self) -> None:
        """End every read that is under way, in other threads too: they raise Aborted. For good."""
        self.repository.registry.close()

    def close(self) -> None:
        """Close the client; readers that are open fail."""
        self.repository.registry.close()


@dataclass(frozen=True, slots=True)
class Found:
    """An image at a registry: the reference that led there, the repository it was found in, the document."""

    reference: Reference
    repository: Repository
    document: Document

    def source(self, *, scratch: Path | None = None, progress: Progress = NO_PROGRESS) -> RegistrySource:
        """The endpoint that offers this one image, under its name. It owns the client from here on.

        An image of Docker's schema 1 is converted, for which its layers are first fetched into ``scratch``, a
        directory; without one it raises Unsupported.
        """
        if self.document.descriptor.media_type in SCHEMA1_TYPES:
            from lamella.registry.schema1 import converted

            return converted(self.repository, self.document, (self.name,), scratch=scratch, progress=progress)
        offer = Offer(self.document.descriptor, (self.name,))
        return RegistrySource(self.repository, [offer], [self.document])

    @property
    def name(self) -> str:
        """What to call the image: the reference, without the digest where there is a tag."""
        reference = self.reference
        return reference.without_digest().familiar if reference.tag else reference.familiar


def find(reference: Reference, access: Access, *, limits: Limits = DEFAULT_LIMITS, push: bool = False) -> Found:
    """The image that a reference means, at the first of its places (mirrors, then the registry) that has it.

    A tag beside a digest has to lead to it. The client of what is found is the caller's to close. Raises NotFound,
    Integrity, AccessDenied, Authentication, Unavailable; of several places the failure of the last.
    """
    problem: LamellaError | None = None
    for place in access.registries.locations(reference):
        registry = registry_at(place, access, limits=limits)
        try:
            repository = Repository(registry, place.path, push=push)
            return Found(reference, repository, _document(repository, reference))
        except LamellaError as error:
            registry.close()
            problem = error
            if not place.mirror:
                break
        except BaseException:
            registry.close()
            raise
    assert problem is not None
    raise problem


def find_any(references: Sequence[Reference], access: Access, *, limits: Limits = DEFAULT_LIMITS) -> Found:
    """The first of several references that is there: for a short name that is searched for."""
    for reference in references[:-1]:
        try:
            return find(reference, access, limits=limits)
        except (NotFound, Unavailable):
            continue
        except LamellaError as error:
            if error.kind not in ("authentication", "access-denied"):
                raise
    return find(references[-1], access, limits=limits)


def registry_at(place: Location, access: Access, *, limits: Limits = DEFAULT_LIMITS) -> Registry:
    """The client for a place."""
    if place.mirror:
        access = replace(access, credentials=None)  # what the caller gives is for the registry, not for its mirrors
    return Registry(place.domain, access, insecure=place.insecure, limits=limits)


def repository_for(
    reference: Reference, access: Access, *, push: bool = False, sources: tuple[str, ...] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> Repository:  # fmt: skip
    """The repository itself, no mirror of it; its client is the caller's to close."""
    place = access.registries.location(reference)
    return Repository(registry_at(place, access, limits=limits), place.path, push=push, sources=sources)


def _document(repository: Repository, reference: Reference) -> Document:
    if reference.digest is None:
        return repository.document(reference.tag)
    document = repository.document(reference.digest)
    if reference.tag:
        tagged = repository.digest_of_tag(reference.tag)
        if tagged != reference.digest:
            what = "there is no such tag" if tagged is None else f"the tag is {tagged}"
            raise Integrity(f"{what}, not {reference.digest}", code="tag-mismatch", subject=reference.familiar)
    return document


def _pass_over(reader: Reader, count: int) -> None:
    while count and (data := reader.read(min(count, 1 << 20))):
        count -= len(data)
