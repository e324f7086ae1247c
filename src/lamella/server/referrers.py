"""Which documents refer to another one by ``subject`` (distribution-spec 1.1, "Listing Referrers")."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from lamella.catalog.records import DocumentRecord
from lamella.errors import LamellaError
from lamella.spec import jsondoc
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.store.store import Store


@dataclass(frozen=True, slots=True)
class Referrer:
    """A document that has a subject, and the descriptor that lists it."""

    subject: Digest
    descriptor: Descriptor


class Referrers:
    """Finds referrers by reading each document once; what was read is remembered, as documents never change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[Digest, Referrer | None] = {}
        self._generation = -1
        self._by_subject: dict[Digest, list[Descriptor]] = {}

    def of(self, subject: Digest, artifact_type: str | None = None) -> list[Descriptor]:
        """What refers to ``subject``, there or not, by digest; of one artifact type, if that is given."""
        with self._lock:
            generation = self._store.catalog.generation()
            if generation != self._generation:
                self._read_all()
                self._generation = generation
            found = list(self._by_subject.get(subject, ()))
        return [item for item in found if artifact_type in (None, item.artifact_type)]

    def _read_all(self) -> None:
        documents = self._store.catalog.documents()
        self._known = {
            record.digest: self._known[record.digest] if record.digest in self._known else self._read(record)
            for record in documents
        }
        self._by_subject = {}
        for digest in sorted(self._known):
            referrer = self._known[digest]
            if referrer is not None:
                self._by_subject.setdefault(referrer.subject, []).append(referrer.descriptor)

    def _read(self, record: DocumentRecord) -> Referrer | None:
        try:
            raw = self._store.graph.read_document(record.digest)
            return referrer(raw, record)
        except LamellaError:
            return None  # gone, or damaged: it is not there to be listed


def referrer(raw: bytes, record: DocumentRecord) -> Referrer | None:
    """What a document refers to, if it does. Raises InvalidInput for a subject that is no descriptor."""
    subject = subject_of(raw)
    if subject is None:
        return None
    document = jsondoc.parse_object(raw, record.kind)
    kind = jsondoc.optional(document, "artifactType", str, record.kind) or ""
    config = document.get("config")
    if not kind and isinstance(config, dict):
        kind = jsondoc.optional(config, "mediaType", str, "config") or ""
    annotations = jsondoc.string_map(document, "annotations", record.kind)
    return Referrer(subject, Descriptor(record.media_type, record.digest, record.size, annotations, None, kind))


def subject_of(raw: bytes) -> Digest | None:
    """The digest of a document's subject. Raises InvalidInput for one that is no descriptor."""
    subject = jsondoc.parse_object(raw, "document").get("subject")
    return None if subject is None else Descriptor.from_object(subject, "subject").digest
