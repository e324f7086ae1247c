"""Reading an OCI image layout (image-spec 1.1 ``image-layout.md``), in a directory or in a tar alike."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

from lamella.errors import InvalidInput, LamellaError, NotFound, Unsupported
from lamella.formats.files import locate, read_document
from lamella.spec import jsondoc
from lamella.spec.descriptor import REF_NAME, Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import Index
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits

CONTAINERD_NAME = "io.containerd.image.name"
LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_VERSION = "1.0.0"


def blob_path(digest: Digest) -> str:
    """Where a blob lies in a layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def check_layout_file(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check the ``oci-layout`` marker. Raises InvalidInput for a malformed one, Unsupported for another version."""
    obj = jsondoc.parse_object(raw, LAYOUT_FILE, limits=limits)
    version = jsondoc.field(obj, "imageLayoutVersion", str, LAYOUT_FILE)
    if version != LAYOUT_VERSION:
        raise Unsupported(
            f"the image layout has version '{version[:40]}'; only {LAYOUT_VERSION} is supported", code="layout-version"
        )


def names_of(descriptor: Descriptor) -> tuple[str, ...]:
    """The names that an entry of index.json carries, as text.

    containerd's annotation has the full name, with the tag alone in the standard one beside it; then only the full
    name counts.
    """
    full = descriptor.annotations.get(CONTAINERD_NAME, "")
    name = descriptor.annotations.get(REF_NAME, "")
    if not full:
        return (name,) if name else ()
    if not name or name == full or full.endswith(f":{name}"):
        return (full,)
    return (full, name)


class LayoutFiles(Protocol):
    """The files of a layout, wherever they are."""

    subject: str

    def open(self, path: str) -> Reader:
        """One regular file of the layout. Raises NotFound, and InvalidInput for what is no file of the layout."""

    def close(self) -> None:
        """Give back what is held."""


class LayoutSource:
    """The images of a layout (an ImageSource); owns ``files``. Blobs may be read by several threads at once.

    What index.json names is offered: an index or a manifest an offer, two entries of one digest a single offer with
    both names. An index.json that lists nothing but manifests for platforms, more than one and none with a name, is
    itself the image: it is offered as one index, and its bytes are a blob. A missing ``oci-layout`` file and entries
    that are neither manifest nor index are notes of the first offer.

    Raises NotFound without index.json, InvalidInput for malformed documents, Unsupported for another layout version,
    ResourceExhausted for documents over the limits.
    """

    def __init__(self, files: LayoutFiles, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._files = files
        self._limits = limits
        self._own: dict[Digest, bytes] = {}
        try:
            self._offers = self._read()
        except BaseException as error:
            files.close()
            if isinstance(error, LamellaError):
                locate(error, files.subject)
            raise

    def offers(self) -> Sequence[Offer]:
        """The images of the layout, in the order of index.json."""
        return self._offers

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob, unverified. Raises NotFound (``blob-not-found``)."""
        own = self._own.get(descriptor.digest)
        if own is not None:
            return io.BytesIO(own)
        try:
            return self._files.open(blob_path(descriptor.digest))
        except NotFound:
            raise NotFound(
                f"the layout has no blob {descriptor.digest}", code="blob-not-found", subject=self._files.subject
            ) from None

    def close(self) -> None:
        """Close the files; blobs that are being read stay open."""
        self._files.close()

    def _document(self, path: str) -> bytes:
        return read_document(self._files.open(path), path, self._limits.document_bytes)

    def _read(self) -> tuple[Offer, ...]:
        notes = []
        try:
            check_layout_file(self._document(LAYOUT_FILE), self._limits)
        except NotFound:
            notes.append(f"there is no {LAYOUT_FILE} file; taken for an image layout of version {LAYOUT_VERSION}")
        raw = self._document(INDEX_FILE)
        index = Index.parse(raw, limits=self._limits)
        if _is_flat(index):
            self._own[index.descriptor.digest] = raw
            return (Offer(index.descriptor, notes=tuple(notes)),)
        return _offers(index, notes)


def _is_flat(index: Index) -> bool:
    """Whether index.json is itself a multi-platform image rather than a list of images."""
    entries = index.manifests
    return len(entries) > 1 and all(e.is_manifest and e.platform is not None and not names_of(e) for e in entries)


def _offers(index: Index, notes: list[str]) -> tuple[Offer, ...]:
    found: dict[Digest, tuple[Descriptor, list[str]]] = {}
    for entry in index.manifests:
        if not (entry.is_manifest or entry.is_index):
            notes.append(f"{entry.digest} is skipped: a {entry.media_type[:100]} is no image")
            continue
        first, names = found.setdefault(entry.digest, (entry, []))
        if (first.media_type, first.size) != (entry.media_type, entry.size):
            raise InvalidInput(f"index.json describes {entry.digest} in two ways", code="layout-ambiguous")
        names.extend(name for name in names_of(entry) if name not in names)
    return tuple(
        Offer(entry, tuple(names), notes=tuple(notes) if i == 0 else ())
        for i, (entry, names) in enumerate(found.values())
    )
