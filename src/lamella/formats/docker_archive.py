"""Reading an archive as ``docker save`` writes it: Docker's image specification v1.2, "Combined Image JSON + Filesystem
Changeset Format"."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from lamella.archive.compression import Compression
from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound, ResourceExhausted
from lamella.formats.files import CountedReader, digest_of, locate, read_document
from lamella.formats.tar_index import Stored, TarIndex
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

MANIFEST_FILE = "manifest.json"
LEGACY_FILE = "repositories"

_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True, slots=True)
class _Record:
    """One entry of manifest.json."""

    config: str
    names: tuple[str, ...]
    layers: tuple[str, ...]
    parent: Digest | None


@dataclass(frozen=True, slots=True)
class _Image:
    """One entry with what was found in the archive; ``manifest`` is the document that stands for it."""

    record: _Record
    config: Descriptor
    manifest: bytes

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor.of(media.DOCKER_MANIFEST, self.manifest)


class DockerArchiveSource:
    """The images of a docker archive (an ImageSource); owns ``archive``. Blobs may be read by several threads at once.

    Each entry of manifest.json is offered as an image manifest (Docker's schema 2) that is made here, always the same
    for the same archive: the config as it lies there, so that the image keeps its id, and the layers as they lie
    there, compressed or not. A layer that is not compressed is described by the config's diff_id and not read;
    compressed ones are hashed. Parents that are in the archive too are told.

    Raises InvalidInput for a malformed manifest.json or config, NotFound for a member that it names and that is
    missing, Integrity for a number of layers other than the config's, or a config that is not what its name says.
    """

    def __init__(self, archive: TarIndex, *, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS) -> None:
        self._archive = archive
        self._progress = progress
        self._limits = limits
        self._members: dict[Digest, Stored] = {}
        self._manifests: dict[Digest, bytes] = {}
        self._configs: dict[str, tuple[Descriptor, ImageConfig]] = {}
        self._hashed: dict[int, Digest] = {}
        try:
            self._offers = self._read()
        except BaseException as error:
            archive.close()
            if isinstance(error, LamellaError):
                locate(error, archive.subject)
            raise

    def offers(self) -> Sequence[Offer]:
        """The images, in the order of manifest.json."""
        return self._offers

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob, unverified. Raises NotFound (``blob-not-found``)."""
        manifest = self._manifests.get(descriptor.digest)
        if manifest is not None:
            return io.BytesIO(manifest)
        member = self._members.get(descriptor.digest)
        if member is None:
            raise NotFound(
                f"the archive has no blob {descriptor.digest}", code="blob-not-found", subject=self._archive.subject
            )
        return self._archive.reader(member)

    def close(self) -> None:
        """Close the archive; blobs that are being read stay open."""
        self._archive.close()

    def _read(self) -> tuple[Offer, ...]:
        raw = read_document(self._archive.open(MANIFEST_FILE), MANIFEST_FILE, self._limits.document_bytes)
        entries = jsondoc.parse_array(raw, MANIFEST_FILE, limits=self._limits)
        images = [self._image(_record(entry, i)) for i, entry in enumerate(entries)]
        self._configs.clear()
        return _offers(images)

    def _image(self, record: _Record) -> _Image:
        config_descriptor, config = self._config(record.config)
        if len(record.layers) != len(config.diff_ids):
            raise Integrity(
                f"{MANIFEST_FILE} has {len(record.layers)} layers for an image of {len(config.diff_ids)}",
                code="layer-count-mismatch",
            )
        if len(record.layers) > self._limits.layers:
            raise ResourceExhausted(
                f"{len(record.layers)} layers, over the limit of {self._limits.layers}", code="layer-count"
            )
        layers = [self._layer(path, diff) for path, diff in zip(record.layers, config.diff_ids, strict=True)]
        document = {
            "schemaVersion": 2,
            "mediaType": media.DOCKER_MANIFEST,
            "config": config_descriptor.to_object(),
            "layers": [layer.to_object() for layer in layers],
        }
        manifest = jsondoc.render(document)
        self._manifests[Digest.of(manifest)] = manifest
        return _Image(record, config_descriptor, manifest)

    def _config(self, path: str) -> tuple[Descriptor, ImageConfig]:
        known = self._configs.get(path)
        if known is None:
            member = self._archive.find(path)
            raw = read_document(self._archive.reader(member), "image config", self._limits.document_bytes)
            known = self._configs[path] = (
                Descriptor.of(media.DOCKER_CONFIG, raw),
                ImageConfig.parse(raw, limits=self._limits),
            )
            _check_name(path, known[0].digest)
            self._members[known[0].digest] = member
        return known

    def _layer(self, path: str, diff_id: Digest) -> Descriptor:
        member = self._archive.find(path)
        if member.size > self._limits.layer_bytes:
            raise ResourceExhausted(
                f"a layer of {member.size} bytes, over the limit of {self._limits.layer_bytes}", code="layer-size"
            ).about(entry=path.encode("utf-8", "surrogatepass"))
        with closing(self._archive.reader(member)) as reader:
            compression = Compression.detect(reader.read(16))
        digest = diff_id if compression is Compression.NONE else self._hash(member, path)
        self._members[digest] = member
        return Descriptor(media.layer(compression.value, docker=True), digest, member.size)

    def _hash(self, member: Stored, path: str) -> Digest:
        known = self._hashed.get(member.offset)
        if known is None:
            reader = self._archive.reader(member)
            with CountedReader(reader, self._progress, path, "hashing", total=member.size) as counted:
                known = self._hashed[member.offset] = digest_of(counted, hashlib.sha256())
        return known


def _record(entry: object, position: int) -> _Record:
    what = f"entry {position} of {MANIFEST_FILE}"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{what} is not a JSON object", code="document-type")
    parent = jsondoc.optional(entry, "Parent", str, what)
    return _Record(
        jsondoc.field(entry, "Config", str, what),
        tuple(dict.fromkeys(jsondoc.strings(entry, "RepoTags", what))),
        tuple(jsondoc.strings(entry, "Layers", what)),
        Digest.parse(parent) if parent else None,
    )


def _check_name(path: str, actual: Digest) -> None:
    """A config whose name is a digest must have it."""
    named = _NAMED_BY_DIGEST.fullmatch(path)
    if named and named[1] != actual.hex:
        raise Integrity(f"the config '{path}' has the digest {actual}", code="config-digest-mismatch")


def _offers(images: list[_Image]) -> tuple[Offer, ...]:
    """An offer an image; entries that come to the same manifest are one, with the names of all."""
    by_config = {image.config.digest: image.descriptor.digest for image in images}
    merged: dict[Digest, Offer] = {}
    for image in images:
        descriptor = image.descriptor
        parent = image.record.parent
        notes = () if parent is None or parent in by_config else (f"the parent {parent} is not in the archive",)
        parent = None if parent is None else by_config.get(parent)
        before = merged.get(descriptor.digest)
        if before is not None:
            names = tuple(dict.fromkeys(before.names + image.record.names))
            merged[descriptor.digest] = Offer(descriptor, names, before.parent or parent, before.notes + notes)
        else:
            merged[descriptor.digest] = Offer(descriptor, image.record.names, parent, notes)
    return tuple(merged.values())
