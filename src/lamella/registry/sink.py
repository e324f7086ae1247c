"""A repository of a registry as an endpoint that images are copied to."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from lamella.errors import InvalidInput, LamellaError
from lamella.registry.client import Answer
from lamella.registry.repository import Document, Repository, referrers_tag
from lamella.registry.upload import Upload, session_of
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import Index
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.reference import Reference

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_FOREIGN = ("foreign.diff.tar", "nondistributable.v1.tar")


class RegistrySink:
    """Takes images into one repository (an ImageSink); owns the client. Blobs may be written by several threads.

    A blob that is there is not sent. One that other repositories of the registry have, as ``mounts`` says, or may have
    (those ``beside``), is taken from there. Manifests go last, the tags after them, so nothing shows before it is
    whole; a registry has no transactions, so of several tags some may be moved when one fails. Layers that may not be
    distributed are left out, unless asked for. Where a registry does not list referrers itself, the tag that stands in
    for that is kept up.
    """

    parallel = 4
    action = "uploading"

    def __init__(
        self,
        repository: Repository,
        *,
        mounts: Mapping[Digest, Sequence[str]] | None = None,
        beside: Sequence[str] = (),
    ) -> None:
        self.repository = repository
        self._beside = beside
        self._mounts = mounts or {}
        self._lock = threading.Lock()
        self._sessions: dict[Digest, str] = {}
        self._uploads: set[Upload] = set()
        self._documents: dict[Digest, Document] = {}
        self.mounted: list[Digest] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- blobs

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the registry has the blob, or could take it from a repository of its own."""
        if descriptor.is_manifest or descriptor.is_index:
            return False  # what is written under a tag must be known here
        if is_foreign(descriptor) and not self.repository.registry.access.foreign_layers:
            return True
        if self.repository.has_blob(descriptor.digest, descriptor.size):
            return True
        return any(self._mount(descriptor, source) for source in self._mounts.get(descriptor.digest, self._beside))

    def _mount(self, descriptor: Descriptor, source: str) -> bool:
        with self._lock:
            if source == self.repository.path or descriptor.digest in self._sessions:
                return False
        query = urlencode({"mount": str(descriptor.digest), "from": source})
        call = self.repository.request("POST", f"blobs/uploads/?{query}", body=b"")
        answer = self.repository.registry.call(call)
        if answer.status == 201:
            self.mounted.append(descriptor.digest)
            return True
        if answer.status == 202:
            with suppress(LamellaError), self._lock:
                self._sessions[descriptor.digest] = session_of(self.repository, answer)
        return False

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Send a blob, or keep a manifest for the end. Raises Integrity, and what the registry says."""
        if descriptor.is_manifest or descriptor.is_index:
            raw = b"".join(iter(lambda: reader.read(1 << 20), b""))
            self._documents[descriptor.digest] = Document(descriptor, raw)
            return
        with self._lock:
            upload = Upload(self.repository, descriptor, reader, self._sessions.pop(descriptor.digest, ""))
            self._uploads.add(upload)
        try:
            upload.run()
        finally:
            if not upload.location:
                with self._lock:
                    self._uploads.discard(upload)

    # -- documents

    def finish(self, offers: Iterable[Offer]) -> None:
        """Write the manifests in the order in which they came, then what is offered under its tags."""
        tags: dict[Digest, list[str]] = {}
        for offer in offers:
            tags.setdefault(offer.descriptor.digest, []).extend(_tags(offer))
        last = next(reversed(self._documents), None)
        for digest, document in self._documents.items():
            if not tags.get(digest) or digest != last:  # what comes after it may name it
                self._put(document)
        for digest, names in tags.items():
            for tag in dict.fromkeys(names):
                self._put(self._documents[digest], tag)

    def _put(self, document: Document, tag: str = "") -> None:
        answer = self.repository.put_document(document.descriptor, document.raw, tag)
        fields = jsondoc.parse_object(document.raw, "manifest", limits=self.repository.registry.limits)
        if fields.get("subject") is not None:
            subject = Descriptor.from_object(fields["subject"], "subject of manifest")
            self._list_referrer(answer, subject, document, fields)

    def _list_referrer(self, answer: Answer, subject: Descriptor, document: Document, fields: jsondoc.Object) -> None:
        """Add a document to the tag that lists what refers to its subject, unless the registry does that itself."""
        if answer.header("OCI-Subject"):
            return
        before = self.repository.referrers_index(subject.digest)
        listed = [] if before is None else [item.to_object() for item in before.manifests]
        if any(item["digest"] == str(document.descriptor.digest) for item in listed):
            return
        entry = Descriptor(
            document.descriptor.media_type,
            document.descriptor.digest,
            document.descriptor.size,
            jsondoc.string_map(fields, "annotations", "manifest"),
            artifact_type=_artifact_type(fields),
        )
        raw = jsondoc.render(
            {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [*listed, entry.to_object()]}
        )
        Index.parse(raw, limits=self.repository.registry.limits)
        self.repository.put_document(Descriptor.of(media.OCI_INDEX, raw), raw, referrers_tag(subject.digest))

    def abort(self) -> None:
        """Give up what is under way. Blobs that are there stay: the registry clears away what nobody names."""
        with self._lock:
            uploads, self._uploads = list(self._uploads), set()
        for upload in uploads:
            upload.cancel()

    def interrupt(self) -> None:
        """End everything that is under way, in other threads too. For good."""
        self.repository.registry.close()

    def close(self) -> None:
        """Close the client."""
        self.repository.registry.close()


def is_foreign(descriptor: Descriptor) -> bool:
    """Whether a layer is to be fetched from elsewhere and may not be passed on."""
    return bool(descriptor.urls) and any(word in descriptor.media_type for word in _FOREIGN)


def _tags(offer: Offer) -> list[str]:
    tags = []
    for name in offer.names:
        reference = Reference.parse(name)
        if reference.digest is not None and reference.digest != offer.descriptor.digest:
            raise InvalidInput(
                f"the image is {offer.descriptor.digest}", code="push-digest", subject=reference.familiar
            )
        if reference.tag:
            tags.append(reference.tag)
    return tags


def _artifact_type(fields: jsondoc.Object) -> str:
    """What kind of artifact a manifest is: as it says, or its config's media type."""
    stated = jsondoc.optional(fields, "artifactType", str, "manifest")
    config = jsondoc.optional(fields, "config", dict, "manifest") or {}
    own = config.get("mediaType")
    return stated or (own if isinstance(own, str) and own != _EMPTY_TYPE else "")
