"""The store's own ``oci-layout`` and ``index.json`` (OCI image-spec 1.1 ``image-layout.md``), kept true to the catalog.

The catalog is what counts; these two are written after it, so that other tools can read the store in place. An index
that is behind (the process was killed in between) is told by the generation that it carries, and written anew.
"""

from __future__ import annotations

import json
from pathlib import Path

from lamella._sys.files import drop_temporaries, os_errors, write_atomic
from lamella._sys.locks import FileLock
from lamella.catalog.protocol import Catalog
from lamella.catalog.records import DocumentRecord
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import REF_NAME, Descriptor
from lamella.spec.digest import Digest
from lamella.spec.reference import Reference

_CONTAINERD_NAME = "io.containerd.image.name"
_GENERATION = "dev.lamella.generation"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def write_layout(root: Path, catalog: Catalog) -> None:
    """Bring the layout files up to the catalog. Atomic and durable; does nothing if they are."""
    if _written_generation(root) == catalog.generation() and (root / "oci-layout").exists():
        return
    with os_errors(str(root)), FileLock(root / "ingest" / "layout.lock"):
        if not (root / "oci-layout").exists():
            write_atomic(root / "oci-layout", _LAYOUT)
        drop_temporaries(root / "oci-layout")
        drop_temporaries(root / "index.json")
        # Read after the lock is held: whoever writes last has seen the newest.
        generation = catalog.generation()
        write_atomic(root / "index.json", jsondoc.render(_index(catalog, generation)))


def _written_generation(root: Path) -> int | None:
    try:
        document = json.loads((root / "index.json").read_bytes())
        return int(document["annotations"][_GENERATION])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _index(catalog: Catalog, generation: int) -> jsondoc.Object:
    documents = _whole(catalog)
    named = []
    for record in catalog.names():
        if record.target in documents:
            descriptor = _descriptor(catalog, documents[record.target])
            names = {REF_NAME: Reference.parse(record.name).familiar, _CONTAINERD_NAME: record.name}
            named.append({**descriptor.to_object(), "annotations": names})
    listed = {record.target for record in catalog.names()}
    listed |= {child.digest for document in documents.values() for child in document.children}
    rest = [
        _descriptor(catalog, document).to_object() for digest, document in documents.items() if digest not in listed
    ]
    return {
        "schemaVersion": 2,
        "mediaType": media.OCI_INDEX,
        "manifests": [*named, *rest],
        "annotations": {_GENERATION: str(generation)},
    }


def _whole(catalog: Catalog) -> dict[Digest, DocumentRecord]:
    """The documents all of whose blobs have a file: other tools cannot make again what was dropped."""
    documents = {document.digest: document for document in catalog.documents()}
    lacking = {record.blob for record in catalog.dropped_blobs()}
    while lacking:
        lacking = {
            digest
            for digest, document in documents.items()
            if any(child.digest in lacking for child in document.children)
        }
        for digest in lacking:
            del documents[digest]
    return documents


def _descriptor(catalog: Catalog, document: DocumentRecord) -> Descriptor:
    image = catalog.image(document.digest)
    platform = image.platform if image is not None and image.platform.os else None
    return Descriptor(document.media_type, document.digest, document.size, platform=platform)
