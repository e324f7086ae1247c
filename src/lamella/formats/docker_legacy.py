"""Reading an archive as ``docker save`` wrote it from 0.6.7 to 1.9: a directory an image, with ``json``, ``layer.tar``
and ``VERSION``, and a file ``repositories`` (Docker's image specification v1)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import closing

from lamella.archive.compression import Compression, DecompressReader
from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound, ResourceExhausted
from lamella.formats.files import CountedReader, digest_of, locate, read_document
from lamella.formats.tar_index import Stored, TarIndex
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.v1image import V1Image, V1Layer, parents_first, to_documents

REPOSITORIES = "repositories"
JSON, LAYER = "json", "layer.tar"

_MAX_DOCUMENTS = 128 << 20
"""Bytes of all documents that are made of one archive: they grow with the square of the number of layers."""


def image_directories(archive: TarIndex) -> list[str]:
    """The directories of the archive that hold an image each, sorted.

    They need not be called by their id: docker before 1.1 called the topmost one what the user had typed.
    """
    names = {name for name in archive.names() if name.count(b"/") == 1}
    found = sorted(name.partition(b"/")[0] for name in names if name.endswith(b"/json"))
    return [
        name.decode("utf-8", "surrogateescape")
        for name in found
        if name + b"/layer.tar" in names or name + b"/VERSION" in names
    ]


class DockerLegacySource:
    """The images of a legacy docker archive (an ImageSource); owns ``archive``. Blobs may be read by several threads.

    Every record is offered, parents first, as an OCI image that is made here, always the same for the same archive,
    with all layers down to its base, its parent, and the tags of ``repositories``; ids and records stay in annotations
    (see ``spec.v1image``). Each layer is read once to learn its digest.

    Raises InvalidInput for malformed records and ``repositories``, for two directories with one id, and for cycles,
    NotFound for a missing record, layer or parent, ResourceExhausted for more than the limits; the messages name the
    image and the file. Nothing in such an archive tells what belongs to it, and the names come last, so one that has
    no end marker is Integrity (``tar-truncated``).
    """

    def __init__(self, archive: TarIndex, *, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS) -> None:
        self._archive, self._limits, self._progress = archive, limits, progress
        self._blobs: dict[Digest, Stored | bytes] = {}
        self._layers: dict[int, tuple[Descriptor, Digest]] = {}
        self._documents = 0
        try:
            self._offers = self._read()
        except BaseException as error:
            archive.close()
            if isinstance(error, LamellaError):
                locate(error, archive.subject)
            raise

    def offers(self) -> Sequence[Offer]:
        """The images, parents before children."""
        return self._offers

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob, unverified. Raises NotFound (``blob-not-found``)."""
        found = self._blobs.get(descriptor.digest)
        if found is None:
            raise NotFound(
                f"the archive has no blob {descriptor.digest}", code="blob-not-found", subject=self._archive.subject
            )
        return io.BytesIO(found) if isinstance(found, bytes) else self._archive.reader(found)

    def close(self) -> None:
        """Close the archive; blobs that are being read stay open."""
        self._archive.close()

    def _read(self) -> tuple[Offer, ...]:
        if not self._archive.has_end:
            raise Integrity("the archive has no end: it was cut off", code="tar-truncated")
        images, places = self._records()
        names = self._names(images)
        chains: dict[str, tuple[V1Layer, ...]] = {}
        manifests: dict[str, Digest] = {}
        offers = []
        for image in parents_first(images):
            below = chains[image.parent] if image.parent else ()
            chains[image.id] = chain = (*below, self._layer(image, f"{places[image.id]}/{LAYER}"))
            descriptor = self._make(chain)
            manifests[image.id] = descriptor.digest
            offers.append(Offer(descriptor, tuple(names.get(image.id, ())), manifests.get(image.parent)))
        return tuple(offers)

    def _make(self, chain: tuple[V1Layer, ...]) -> Descriptor:
        config, manifest = to_documents(chain, limits=self._limits)
        self._documents += len(config.raw) + len(manifest.raw)
        if self._documents > _MAX_DOCUMENTS:
            raise ResourceExhausted("it has too many images with too many layers", code="v1-documents")
        self._blobs[config.id] = config.raw
        self._blobs[manifest.descriptor.digest] = manifest.raw
        return manifest.descriptor

    def _records(self) -> tuple[dict[str, V1Image], dict[str, str]]:
        """Every image by its id, and the directory that it is in."""
        images: dict[str, V1Image] = {}
        places: dict[str, str] = {}
        for place in image_directories(self._archive):
            path = f"{place}/{JSON}"
            entry = path.encode("utf-8", "surrogateescape")
            try:
                raw = read_document(self._archive.open(entry), path, self._limits.document_bytes)
                image = V1Image.parse(raw, "the record", limits=self._limits)
            except LamellaError as error:
                raise error.about(subject=f"image {place}", entry=entry) from None
            if image.id in images:
                raise InvalidInput(
                    f"it is in '{places[image.id]}' and in '{place}'",
                    code="v1-duplicate",
                    subject=f"image {image.id}",
                    entry=entry,
                )
            images[image.id], places[image.id] = image, place
        if not images:
            raise InvalidInput(
                "the tar holds no images", code="not-an-image", hint="'lamella import' takes root file systems"
            )
        return images, places

    def _names(self, images: dict[str, V1Image]) -> dict[str, list[str]]:
        """The names of each image. What is called by no archive (saved by an id) has none."""
        if not self._archive.has(REPOSITORIES):
            return {}
        raw = read_document(self._archive.open(REPOSITORIES), REPOSITORIES, self._limits.document_bytes)
        names: dict[str, list[str]] = {}
        repositories = jsondoc.parse_object(raw, REPOSITORIES, limits=self._limits)
        for repository in repositories:
            for tag, identity in jsondoc.string_map(repositories, repository, REPOSITORIES).items():
                if identity not in images:
                    raise NotFound(
                        f"'{repository}:{tag}' is the image {identity[:80]}, which is missing",
                        code="v1-image-missing",
                        entry=REPOSITORIES.encode(),
                    )
                names.setdefault(identity, []).append(f"{repository}:{tag}")
        return names

    # -- layers

    def _layer(self, image: V1Image, path: str) -> V1Layer:
        entry = path.encode("utf-8", "surrogateescape")
        try:
            member = self._archive.find(entry)
            if member.size > self._limits.layer_bytes:
                raise ResourceExhausted(
                    f"a layer of {member.size} bytes, over the limit of {self._limits.layer_bytes}", code="layer-size"
                )
            known = self._layers.get(member.offset)
            if known is None:
                known = self._layers[member.offset] = self._hashed(member, image.id)
        except LamellaError as error:
            if error.subject == self._archive.subject:
                error.subject = ""
            raise error.about(subject=f"image {image.id}", entry=entry) from None
        self._blobs[known[0].digest] = member
        return V1Layer(image, *known)

    def _hashed(self, member: Stored, key: str) -> tuple[Descriptor, Digest]:
        """What the layer is, and the digest of what it unpacks to."""
        with closing(self._archive.reader(member)) as reader:
            compression = Compression.detect(reader.read(16))
        reader = self._archive.reader(member)
        with CountedReader(reader, self._progress, key, "hashing", total=member.size) as counted:
            if compression is Compression.NONE:
                digest = diff_id = digest_of(counted, hashlib.sha256())
            else:
                tee = _Hashing(counted)
                diff_id = digest_of(DecompressReader(tee, limits=self._limits), hashlib.sha256())
                digest = Digest.finish(tee.hasher)
        return Descriptor(media.layer(compression.value), digest, member.size), diff_id


class _Hashing:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.hasher = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        data = self._reader.read(size)
        self.hasher.update(data)
        return data

    def close(self) -> None:
        """Close the stream."""
        self._reader.close()
