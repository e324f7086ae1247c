"""Writing an archive that ``docker load`` reads: Docker's image specification v1.2, "Combined Image JSON + Filesystem
Changeset Format"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lamella.archive.compression import Compression, DecompressReader
from lamella.archive.tar import Member
from lamella.content.verified import VerifiedReader
from lamella.errors import FailedPrecondition, Integrity, InvalidInput, Unsupported
from lamella.formats import docker_v1
from lamella.formats.archive_sink import ArchiveSink, Content
from lamella.formats.docker_archive import LEGACY_FILE, MANIFEST_FILE
from lamella.formats.files import digest_of
from lamella.formats.output import link_member
from lamella.spec import jsondoc
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Index, Manifest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.jsondoc import Object
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.spec.v1image import V1Image, kept_chain


@dataclass(slots=True)
class _Image:
    """One image of the archive; ``tags`` grows when several offers come to the same image."""

    config: ImageConfig
    layers: tuple[Digest, ...]
    parent: Digest | None
    kept: tuple[V1Image, ...] = ()
    tags: dict[Reference, None] = field(default_factory=dict)


class DockerArchiveSink(ArchiveSink):
    """Writes images as ``docker save`` does; see ArchiveSink for what is promised.

    Layers are written uncompressed, each once, in files named by their diff_id, so that every reader can check them;
    the config is written as it is, so that the image keeps its id. With ``legacy`` the archive also has what docker
    read before version 1.10: the ``repositories`` file, and for each layer a directory with ``VERSION``, ``json`` and
    a link to the layer; images that came from there have the ids and records that they had. Of an index the only image
    in it that was written is taken.

    ``finish`` raises Integrity (``diff-id-mismatch``, ``layer-count-mismatch``) for layers that are not the config's,
    Unsupported for what is no image (``docker-archive-artifact``) and for an index with several images
    (``docker-archive-index``), InvalidInput for a name that docker cannot have (``reference-syntax``) and, with
    ``legacy``, for two images of before 1.10 that claim one id (``v1-duplicate``). A name with a digest and no tag is
    not written: the format has no place for it.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        legacy: bool = False,
        spool: Path | None = None,
        compression: Compression = Compression.NONE,
        level: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        super().__init__(path, spool=spool, compression=compression, level=level, limits=limits, progress=progress)
        self._legacy = legacy
        self._diffs: dict[Digest, Digest] = {}

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was taken already."""
        return descriptor.digest in self._diffs or super().has_blob(descriptor)

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob; a layer is decompressed. Raises Integrity when the bytes are not the descriptor's."""
        if not descriptor.is_layer:
            super().write_blob(descriptor, reader)
            return
        verified = VerifiedReader(reader, descriptor.digest, descriptor.size)
        plain = DecompressReader(verified, limits=self._limits)
        known = descriptor.digest if plain.compression is Compression.NONE else None
        self._diffs[descriptor.digest] = self._spool.store(plain, digest=known)

    def _members(self, offers: tuple[Offer, ...]) -> Iterator[tuple[Member, Content]]:
        images = self._images(offers)
        yield self._file(MANIFEST_FILE, jsondoc.render([_entry(image) for image in images]))
        found: dict[str, tuple[Member, Content]] = {}
        for image in images:
            name = f"{image.config.id.hex}.json"
            found[name] = self._file(name, image.config.raw)
            for diff_id in image.layers:
                name = _layer_name(diff_id)
                found[name] = self._file(name, diff_id)
        if self._legacy:
            self._add_legacy(images, found)
        for name in sorted(found):
            yield found[name]

    def _add_legacy(self, images: list[_Image], found: dict[str, tuple[Member, Content]]) -> None:
        repositories: dict[str, dict[str, str]] = {}
        for image in images:
            records = docker_v1.v1_records(image.config, image.kept)
            for record in records:
                for member, content in self._legacy_image(record):
                    name = member.name.decode()
                    # Who publishes a v1 image chooses its id: two may claim one.
                    if found.setdefault(name, (member, content)) != (member, content):
                        raise InvalidInput(
                            f"two images have this id, and not the same {name.rpartition('/')[2]}",
                            code="v1-duplicate",
                            subject=f"image {record.id}",
                            hint="save them to different archives, or without --legacy",
                        )
            for tag in image.tags if records else ():
                repositories.setdefault(tag.familiar_repository, {})[tag.tag] = records[-1].id
        if repositories:
            ordered = {name: dict(sorted(repositories[name].items())) for name in sorted(repositories)}
            found[LEGACY_FILE] = self._file(LEGACY_FILE, jsondoc.render(ordered))

    def _legacy_image(self, record: docker_v1.V1Record) -> Iterator[tuple[Member, Content]]:
        yield self._directory(record.id)
        yield self._file(f"{record.id}/VERSION", docker_v1.VERSION)
        yield self._file(f"{record.id}/json", record.json)
        yield link_member(f"{record.id}/layer.tar", f"../{_layer_name(record.diff_id)}"), None

    def _images(self, offers: tuple[Offer, ...]) -> list[_Image]:
        """The images to write, in the order of the offers; offers of one config are one image."""
        manifests = [self._manifest(offer.descriptor) for offer in offers]
        ids = {
            digest: manifest.config.digest
            for offer, manifest in zip(offers, manifests, strict=True)
            for digest in (offer.descriptor.digest, manifest.descriptor.digest)
        }
        images: dict[Digest, _Image] = {}
        for offer, manifest in zip(offers, manifests, strict=True):
            parent = ids.get(offer.parent) if offer.parent is not None else None
            image = images.get(manifest.config.digest)
            if image is None:
                image = images[manifest.config.digest] = self._image(manifest)
            if parent != manifest.config.digest:
                image.parent = image.parent or parent
            image.tags.update((tag, None) for tag in _tags(offer))
        _check_tags(list(images.values()))
        return list(images.values())

    def _manifest(self, descriptor: Descriptor) -> Manifest:
        """The manifest that an offer comes to."""
        if not descriptor.is_index:
            return self._image_manifest(descriptor)
        raw = self._spool.read(descriptor.digest, "index", self._limits.document_bytes)
        index = Index.parse(raw, descriptor.media_type, limits=self._limits)
        written = [entry for entry in index.manifests if _is_runnable(entry) and self.has_blob(entry)]
        if len(written) != 1:
            raise Unsupported(
                f"{descriptor.digest} is an image of {len(written)} platforms; a docker archive holds one",
                code="docker-archive-index",
                hint="choose a platform, or write an OCI layout",
            )
        return self._image_manifest(written[0])

    def _image_manifest(self, descriptor: Descriptor) -> Manifest:
        raw = self._spool.read(descriptor.digest, "manifest", self._limits.document_bytes)
        manifest = Manifest.parse(raw, descriptor.media_type, limits=self._limits)
        if not manifest.is_image:
            raise Unsupported(
                f"{descriptor.digest} is no runnable image; a docker archive cannot hold it",
                code="docker-archive-artifact",
                hint="write an OCI layout",
            )
        return manifest

    def _image(self, manifest: Manifest) -> _Image:
        raw = self._spool.read(manifest.config.digest, "image config", self._limits.document_bytes)
        config = ImageConfig.parse(raw, limits=self._limits)
        pairs = manifest.paired(config, f"image {config.id.short}")
        layers = tuple(self._layer(layer, diff_id) for layer, diff_id in pairs)
        return _Image(config, layers, None, tuple(kept_chain(manifest, limits=self._limits)))

    def _layer(self, layer: Descriptor, diff_id: Digest) -> Digest:
        """Under which digest the uncompressed layer lies in the spool, checked against the config's."""
        found = self._diffs.get(layer.digest)
        if found is None:
            raise FailedPrecondition(f"layer {layer.digest} was not written", code="blob-not-written")
        actual = found
        if diff_id.algorithm != found.algorithm:
            with closing(self._spool.open(found)) as reader:
                actual = digest_of(reader, diff_id.hasher())
        if actual != diff_id:
            raise Integrity(
                f"its uncompressed bytes have the digest {actual}, the config says {diff_id}",
                code="diff-id-mismatch",
                layer=str(layer.digest),
            )
        return found


def _entry(image: _Image) -> Object:
    """An image's entry in manifest.json."""
    entry: Object = {
        "Config": f"{image.config.id.hex}.json",
        # With the host, as skopeo writes them: podman takes a bare "alpine" for localhost/alpine.
        "RepoTags": [str(tag) for tag in image.tags],
        "Layers": [_layer_name(diff_id) for diff_id in image.layers],
    }
    if image.parent is not None:
        entry["Parent"] = str(image.parent)
    return entry


def _layer_name(diff_id: Digest) -> str:
    # A file, and no directory: docker before 1.10 takes every directory for an image.
    return f"{diff_id.hex}.tar"


def _tags(offer: Offer) -> list[Reference]:
    """The names of an offer that have a tag."""
    references = [Reference.parse(name) for name in offer.names]
    return [Reference(r.domain, r.path, r.tag) for r in references if r.tag]


def _check_tags(images: list[_Image]) -> None:
    seen: set[Reference] = set()
    for image in images:
        for tag in image.tags:
            if tag in seen:
                raise InvalidInput(f"two images are to be named '{tag}'", code="name-twice")
            seen.add(tag)


def _is_runnable(entry: Descriptor) -> bool:
    """Whether an entry of an index is an image and not an attestation about one (buildkit marks those)."""
    return entry.is_manifest and "vnd.docker.reference.type" not in entry.annotations
