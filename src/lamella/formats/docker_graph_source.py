"""A docker's image graph of 2013 as an endpoint to copy from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression, DecompressReader
from lamella.archive.tar import TarScanner
from lamella.errors import Aborted, AccessDenied, LamellaError, NotFound
from lamella.formats.docker_graph import Graph, GraphImage
from lamella.formats.files import CHUNK, CountedReader, locate, open_file
from lamella.spec import media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.v1image import V1_CHECKSUM, V1Image, V1Layer, parents_first, to_documents


class DockerGraphSource:
    """The images of a graph (an ImageSource), every one of them or those that ``names`` mean, with their ancestors.

    Each is an OCI image that is made here, always the same for the same graph: its layers are the archives that the
    graph keeps, byte by byte, or tars made of the layers' directories; records, ids and checksums stay in annotations
    (see ``spec.v1image``). Parents come before children, and names as the graph's ``repositories`` has them.

    What must be made, layers and documents, is written into ``scratch``, an empty directory of the caller's on a disk
    with room: the documents of a graph grow with the square of its depth. An image that is damaged is an error that
    names it; with ``skip_damaged`` it is left out with all that stands on it, and a note; so are, without a note, the
    images of the ids ``without``. Raises as Graph does.
    """

    def __init__(
        self,
        graph: Graph,
        scratch: Path,
        *,
        names: Sequence[str] = (),
        skip_damaged: bool = False,
        without: Collection[str] = (),
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._graph, self._scratch = graph, scratch
        self._limits, self._progress = limits, progress
        self._without = without
        self._blobs: dict[Digest, Path] = {}
        self._owners: dict[str, str] = {}
        self._offers = self._read(names, skip_damaged=skip_damaged)

    def offers(self) -> Sequence[Offer]:
        """The images, parents before children."""
        return self._offers

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """The bytes of one blob, unverified. Raises NotFound (``blob-not-found``)."""
        found = self._blobs.get(descriptor.digest)
        if found is None:
            raise NotFound(
                f"the graph has no blob {descriptor.digest}", code="blob-not-found", subject=str(self._graph.root)
            )
        return open_file(found)

    def close(self) -> None:
        """Nothing is held; the files in the scratch directory are the caller's to remove."""

    def _read(self, names: Sequence[str], *, skip_damaged: bool) -> tuple[Offer, ...]:
        images, records = self._chosen(names, skip_damaged=skip_damaged)
        checksums = self._graph.checksums()
        tags = self._graph.tags.by_id()
        for identity in sorted(set(tags) - set(images) if not names else ()):
            self._progress.note(f"{', '.join(tags[identity])}: there is no image {identity[:80]}")
        chains: dict[str, tuple[V1Layer, ...]] = {}
        manifests: dict[str, Digest] = {}
        offers: list[Offer] = []
        for record in parents_first(records):
            below = chains.get(record.parent, ()) if record.parent else ()
            if record.parent and record.parent not in chains:
                continue  # the parent was left out
            if record.id in self._without:
                continue
            try:
                kept = checksums.get(record.id, "")
                link = self._layer(images[record.id], record, kept, look_inside=skip_damaged)
                chain = (*below, link)
                config, manifest = to_documents(chain, limits=self._limits)
            except LamellaError as error:
                self._give_up(record.id, error, skip_damaged=skip_damaged)
                continue
            chains[record.id] = chain
            descriptor = manifest.descriptor
            self._owners[f"image {descriptor.digest}"] = record.id
            for document in (config.raw, manifest.raw):
                self._keep(document)
            manifests[record.id] = descriptor.digest
            offers.append(Offer(descriptor, tuple(tags.get(record.id, ())), manifests.get(record.parent)))
        return tuple(offers)

    def _keep(self, document: bytes) -> None:
        digest = Digest.of(document)
        path = self._scratch / f"{digest.hex}.json"
        with os_errors(str(path)):
            path.write_bytes(document)
        self._blobs[digest] = path

    def _chosen(self, names: Sequence[str], *, skip_damaged: bool) -> tuple[dict[str, GraphImage], dict[str, V1Image]]:
        images: dict[str, GraphImage] = {}
        if names:
            for name in names:
                images |= {image.id: image for image in self._graph.tags.lookup(name).walk_history()}
        else:
            give_up = lambda id, error: self._give_up(id, error, skip_damaged=skip_damaged)  # noqa: E731
            images = {image.id: image for image in self._graph.walk(give_up)}
        records: dict[str, V1Image] = {}
        for image in images.values():
            try:
                records[image.id] = V1Image.parse(image.record.json, "the record", limits=self._limits)
            except LamellaError as error:
                self._give_up(image.id, error, skip_damaged=skip_damaged)
        return images, _complete(records, self._progress) if skip_damaged else records

    def _give_up(self, identity: str, error: LamellaError, *, skip_damaged: bool) -> None:
        if not (skip_damaged and _is_damage(error)):
            if identity not in str(error):
                locate(error, f"image {identity}")
            raise error
        self._progress.note(f"image {identity[:12]} is left out: {error}")

    # -- layers

    def culprit(self, error: LamellaError) -> str:
        """The id of the image that an error is about: of the one made here that it names, or else of the first that has
        the layer, by the digest of its blob. Empty if it is about none."""
        return self._owners.get(error.subject) or self._owners.get(error.layer or "", "")

    def _layer(self, image: GraphImage, record: V1Image, checksum: str, *, look_inside: bool) -> V1Layer:
        path = image.layer_archive()
        if path is None:
            path = self._scratch / f"{image.id}.tar"
            self._progress.note(f"image {image.short_id} has no archive of its layer: one is made of its directory")
            with os_errors(str(path)), open(path, "xb") as file:
                image.tar_layer(file.write)
        layer, diff_id = self._hashed(path, image.short_id, look_inside=look_inside)
        self._blobs[layer.digest] = path
        self._owners.setdefault(str(layer.digest), image.id)
        return V1Layer(record, layer, diff_id, {V1_CHECKSUM: checksum} if checksum else {})

    def _hashed(self, path: Path, key: str, *, look_inside: bool) -> tuple[Descriptor, Digest]:
        """The layer of a file; ``look_inside`` makes sure that it is a whole tar."""
        with os_errors(str(path)):
            size = os.stat(path).st_size
        with CountedReader(open_file(path), self._progress, key, "hashing", total=size) as counted:
            blob = _Hashing(counted)
            with closing(DecompressReader(blob, limits=self._limits)) as reader:
                unpacked = _Hashing(reader)
                if look_inside:
                    for _ in TarScanner(unpacked.read, limits=self._limits):
                        pass
                while unpacked.read(CHUNK):
                    pass
                compression = reader.compression
        digest = Digest.finish(blob.hasher)
        diff_id = digest if compression is Compression.NONE else Digest.finish(unpacked.hasher)
        return Descriptor(media.layer(compression.value), digest, blob.size), diff_id


def _is_damage(error: LamellaError) -> bool:
    """Whether an error says that an image is damaged, and not that we are to stop, may not read, or have no room."""
    return not isinstance(error, (Aborted, AccessDenied)) and error.code not in ("disk-full", "os-limit")


def _complete(records: dict[str, V1Image], progress: Progress) -> dict[str, V1Image]:
    """The records whose ancestors are all there, and no circle."""
    whole: dict[str, V1Image] = {}
    for record in records.values():
        path: dict[str, V1Image] = {}
        at: V1Image | None = record
        while at is not None and at.id not in whole and at.id not in path:
            path[at.id] = at
            if not at.parent:
                whole |= path
                break
            at = records.get(at.parent)
        else:
            if at is not None and at.id in whole:
                whole |= path
        if record.id not in whole:
            progress.note(f"image {record.id[:12]} is left out: it has no whole line of ancestors")
    return whole


class _Hashing:
    """A stream whose bytes are hashed and counted as they are read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.hasher, self.size = hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self.hasher.update(data)
        self.size += len(data)
        return data

    def close(self) -> None:
        self._reader.close()
