"""A docker's image graph of 2013 as an endpoint to copy to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lamella.archive.compression import Compression, DecompressReader
from lamella.content.verified import VerifiedReader
from lamella.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    Integrity,
    LamellaError,
    NotFound,
    Unsupported,
)
from lamella.formats.docker_graph import Graph, GraphForm, GraphImage
from lamella.formats.docker_graph.image import json_path
from lamella.formats.docker_graph.tags import validate_repository, validate_tag
from lamella.formats.docker_v1 import v1_records
from lamella.formats.files import digest_of
from lamella.formats.scratch import Scratch
from lamella.formats.spool import Spool
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Index, Manifest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.spec.v1image import V1_CHECKSUM, kept_chain

_AUFS_BRANCHES = 42
"""What docker before 0.7.2 could stack."""


@dataclass(slots=True)
class _Planned:
    """One image of the graph that is to be: its record, its layer, the checksum that was kept for it."""

    image: GraphImage
    blob: Digest
    diff_id: Digest
    checksum: str


@dataclass(slots=True)
class _Plan:
    images: dict[str, _Planned] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)


class DockerGraphSink:
    """Puts images into the graph in (or at) ``path`` (an ImageSink), which is made where it is missing: as
    ``path/graph``, with its names beside it, as docker has it.

    An image becomes a chain of images of one layer each, as docker 0.4 to 1.0 knew them; what came from a graph, an
    archive or a registry of that time gets the ids, records and checksums back that it had there. The others get the
    ids and records that ``docker save`` of today's gives them. Images that are in the graph already, with the same
    record, stay as they are. Each image appears whole and durably, parents before children, names last; when something
    fails all that this sink added is taken out again.

    ``force`` moves names that other images have. ``finish`` raises Conflict (``graph-tag-exists``) otherwise,
    AlreadyExists (``graph-image-differs``) for an id under which the graph has another record, Unsupported for what is
    no image of layers, Integrity for layers that are not the config's, and as Graph does.
    """

    def __init__(
        self,
        path: Path,
        *,
        form: GraphForm | None = None,
        force: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._graph = Graph.open(_place(path), form=form, limits=limits, progress=progress)
        self._force, self._limits, self._progress = force, limits, progress
        self._scratch: Scratch = self._graph.temporary()
        self._spool = Spool(self._scratch)
        self._written: set[Digest] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob was taken already."""
        return descriptor.digest in self._written

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob; ``reader`` stays the caller's. Raises Integrity when the bytes are not the descriptor's."""
        verified = VerifiedReader(reader, descriptor.digest, descriptor.size)
        self._spool.store(verified, digest=descriptor.digest)
        self._written.add(descriptor.digest)

    def finish(self, offers: Iterable[Offer]) -> None:
        """Put the images and their names into the graph. Ends the sink, whatever comes of it."""
        try:
            plan = _Plan()
            for offer in offers:
                self._plan(offer, plan)
            self._check_tags(plan)
            self._carry_out(plan)
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop what was gathered; nothing happens the second time."""
        self._scratch.close()

    # -- planning

    def _plan(self, offer: Offer, plan: _Plan) -> None:
        manifest = self._manifest(offer.descriptor)
        raw = self._spool.read(manifest.config.digest, "image config", self._limits.document_bytes)
        config = ImageConfig.parse(raw, limits=self._limits)
        if len(config.diff_ids) != len(manifest.layers):
            raise Integrity(
                f"the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}",
                code="layer-count-mismatch",
                subject=f"image {config.id.short}",
            )
        records = v1_records(config, kept_chain(manifest, limits=self._limits))
        if not records:
            raise Unsupported("it has no layer", code="graph-no-layer", subject=f"image {config.id.short}")
        for record, layer in zip(records, manifest.layers, strict=True):
            image = GraphImage.from_json(record.json)
            checksum = layer.annotations.get(V1_CHECKSUM, "") if layer.annotations else ""
            self._add(plan, _Planned(image, layer.digest, record.diff_id, checksum))
        if len(records) > _AUFS_BRANCHES:
            self._progress.note(f"image {records[-1].id[:12]} has {len(records)} layers; docker before 0.7.2 mounts 42")
        for name in offer.names:
            reference = Reference.parse(name).without_digest()
            key = (validate_repository(reference.familiar_repository), validate_tag(reference.tag))
            if plan.tags.setdefault(key, records[-1].id) != records[-1].id:
                raise Conflict("two images are to have this name", code="graph-tag-exists", subject=reference.familiar)

    def _add(self, plan: _Plan, planned: _Planned) -> None:
        image = planned.image
        before = plan.images.get(image.id)
        record = before.image if before is not None else self._present(image.id)
        if record is not None and record.record.json != image.record.json:
            raise AlreadyExists(
                "there is another record under this id", code="graph-image-differs", subject=f"image {image.id}"
            )
        plan.images.setdefault(image.id, planned)

    def _present(self, identity: str) -> GraphImage | None:
        """The image of an id that the graph has."""
        has_record = json_path(self._graph.root / identity).exists() and identity in self._graph.ids()
        return self._graph.get(identity) if has_record else None

    def _manifest(self, descriptor: Descriptor) -> Manifest:
        """The manifest of an offer: of an index, the only image of it that was written."""
        if descriptor.is_index:
            raw = self._spool.read(descriptor.digest, "index", self._limits.document_bytes)
            index = Index.parse(raw, descriptor.media_type, limits=self._limits)
            written = [child for child in index.manifests if child.is_manifest and child.digest in self._written]
            if len(written) != 1:
                raise Unsupported(
                    f"{descriptor.digest} is an image of {len(written)} platforms; a graph holds one",
                    code="graph-index",
                    hint="choose a platform",
                )
            descriptor = written[0]
        raw = self._spool.read(descriptor.digest, "manifest", self._limits.document_bytes)
        manifest = Manifest.parse(raw, descriptor.media_type, limits=self._limits)
        if not manifest.is_image:
            raise Unsupported(f"{descriptor.digest} is no runnable image", code="graph-artifact")
        return manifest

    def _check_tags(self, plan: _Plan) -> None:
        there = self._graph.tags.repositories
        for (repository, tag), identity in plan.tags.items():
            found = there.get(repository, {}).get(tag)
            if found not in (None, identity) and not self._force:
                raise Conflict(
                    f"Conflict: Tag {tag} is already set to image {found}, if you want to replace it, please use -f "
                    "option",
                    code="graph-tag-exists",
                    subject=f"{repository}:{tag}",
                )

    # -- carrying out

    def _carry_out(self, plan: _Plan) -> None:
        added: list[str] = []
        before = self._graph.tags.repositories
        try:
            for planned in plan.images.values():  # as the chains go: parents first
                if self._register(planned):
                    added.append(planned.image.id)
            kept = {identity: planned.checksum for identity, planned in plan.images.items() if planned.checksum}
            if kept:
                self._graph.update_checksums(kept)
            for (repository, tag), identity in plan.tags.items():
                self._graph.tags.set(repository, tag, identity, force=self._force)
        except BaseException:
            self._take_back(plan, added, before)
            raise

    def _register(self, planned: _Planned) -> bool:
        """Add one image; False if it is there."""
        image = planned.image
        if self._present(image.id) is not None:
            self._progress.note(f"Image {image.id} already exists")
            return False
        key = image.short_id
        self._progress.start(key, "registering")
        if planned.blob not in self._written:
            raise FailedPrecondition(f"blob {planned.blob} was not written", code="blob-not-written")
        self._check_layer(planned)
        with closing(self._spool.open(planned.blob)) as reader:
            try:
                self._graph.register(image, reader, keep_archive=True)
            except LamellaError:
                self._progress.done(key, "failed")
                raise
        self._progress.done(key)
        return True

    def _check_layer(self, planned: _Planned) -> None:
        """A layer must unpack to what the configuration promises. Raises Integrity."""
        with closing(DecompressReader(self._spool.open(planned.blob), limits=self._limits)) as reader:
            plain = reader.compression is Compression.NONE and planned.diff_id.algorithm == planned.blob.algorithm
            actual = planned.blob if plain else digest_of(reader, planned.diff_id.hasher())
        if actual != planned.diff_id:
            raise Integrity(
                f"the layer unpacks to {actual}, the config promises {planned.diff_id}",
                code="diff-id-mismatch",
                subject=f"image {planned.image.id}",
                layer=str(planned.blob),
            )

    def _take_back(self, plan: _Plan, added: list[str], before: dict[str, dict[str, str]]) -> None:
        """Remove what was added. What cannot be removed stays whole, without the names."""
        with suppress(LamellaError):
            for repository, tag in plan.tags:
                old = before.get(repository, {}).get(tag)
                with suppress(NotFound):
                    if old is None:
                        self._graph.tags.delete(repository, tag)
                    else:
                        self._graph.tags.set(repository, tag, old, force=True)
            for identity in reversed(added):
                self._graph.delete(identity, force=True)


def _place(path: Path) -> Path:
    """The directory to open as a graph: a new one gets the name that it has in docker's own directory."""
    if path.name == "graph" or (path / "graph").is_dir():
        return path
    graph = Graph.open(path, create=False) if path.is_dir() else None
    if graph is not None and graph.ids():
        return path
    return path / "graph"
