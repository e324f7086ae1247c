"""The store as an endpoint that images are copied to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression
from lamella.catalog.holder import Lease
from lamella.content.local import LocalContent
from lamella.content.protocol import Ingest
from lamella.content.verified import check_whole
from lamella.errors import Aborted, Conflict, Integrity, InvalidInput, Unavailable, one_line
from lamella.images.graph import Graph
from lamella.layers.ingest import TAR_NAME, ingest_layer
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader, RewindableReader
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference

_CHUNK = 1 << 20
_POLL = 0.05
_MAGIC = 16
"""Bytes that tell how a layer is compressed."""


class StoreSink:
    """Takes images into a store. Layers go through the one-pass ingest as they come; nothing is read twice.

    Everything is held by the lease before it is looked for. ``finish`` checks that the layers are those that the
    configurations promise and records documents and names in one transaction. ``cleanup`` is called by ``abort`` with
    what was written, to remove what nobody else came to need.
    """

    def __init__(
        self,
        graph: Graph,
        content: LocalContent,
        lease: Lease,
        *,
        cleanup: Callable[[set[Digest]], None],
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._graph, self._content, self._lease = graph, content, lease
        self._cleanup, self._progress = cleanup, progress
        self._lock = threading.Lock()
        self._written: set[Digest] = set()
        self._registered: set[Digest] = set()
        self._staged = 0
        self.loaded: list[tuple[Descriptor, list[str]]] = []

    # -- blobs

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here; of a layer, whether it is unpacked and indexed too."""
        self._lease.hold(descriptor.digest)
        if not self._content.exists(descriptor.digest, descriptor.size):
            return False
        if not descriptor.is_layer:
            return True
        diff_id = self._graph.catalog.blob_diff(descriptor.digest)
        if diff_id is None:
            return False
        self._lease.hold(diff_id)
        return self._graph.layers.has(diff_id)

    def write_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take one blob. If another process is taking the same one, wait for it and keep what it brought.

        What a run that was killed, cancelled or cut off has left of it is gone on from, if the reader can begin in the
        middle. If that turns out to be other bytes than they should be, all of them are taken anew.
        """
        self._lease.hold(descriptor.digest)
        while (ingest := self._open_ingest(descriptor)) is not None:
            with ingest:
                if self.has_blob(descriptor):  # it was brought between looking for it and locking its place
                    ingest.abort()
                    return
                if self._receive(descriptor, reader, ingest):
                    break
        else:
            return
        with self._lock:
            self._written.add(descriptor.digest)

    def _open_ingest(self, descriptor: Descriptor) -> Ingest | None:
        """The place for a blob; None if somebody else has brought it meanwhile."""
        while True:
            try:
                return self._content.open_ingest(str(descriptor.digest), keep=True)
            except Conflict as conflict:
                if conflict.code != "ingest-busy":
                    raise
                self._progress.advance("", 0)  # raises when the work is to end
                time.sleep(_POLL)
                if self.has_blob(descriptor):
                    return None

    def _receive(self, descriptor: Descriptor, reader: Reader, ingest: Ingest) -> bool:
        """Take a blob into its ingest. False if what was there already was wrong, and is gone: to be tried again."""
        resumable = isinstance(reader, RewindableReader) and reader.resumable
        if ingest.offset and not (resumable and ingest.offset <= descriptor.size):
            ingest.restart()
        resumed = ingest.offset
        try:
            if descriptor.is_layer:
                self._take_layer(descriptor, _Continued(reader, ingest), ingest)
            else:
                self._take_document(descriptor, reader, ingest)
        except BaseException as error:
            interrupted = not isinstance(error, Exception) or isinstance(error, (Unavailable, Aborted))
            if not (resumable and interrupted):
                ingest.abort()
            if resumed and isinstance(error, Integrity) and isinstance(reader, RewindableReader):
                reader.rewind(0)
                return False
            raise
        return True

    def _take_document(self, descriptor: Descriptor, reader: Reader, ingest: Ingest) -> None:
        if ingest.offset and isinstance(reader, RewindableReader):
            reader.rewind(ingest.offset)
        while data := reader.read(_CHUNK):
            ingest.write(data)
        ingest.commit(expected=descriptor.digest, size=descriptor.size)

    def _take_layer(self, descriptor: Descriptor, reader: _Continued, ingest: Ingest) -> None:
        staging = self._new_staging()
        label = str(descriptor.digest)
        notes = _OnlyNotes(self._progress)
        layer = ingest_layer(
            reader,
            staging,
            reader.keep,
            label=label,
            limits=self._graph.limits,
            progress=notes,
            file_digests=self._graph.file_digests,
        )
        plain = layer.compression is Compression.NONE
        actual = layer.diff_id if plain else ingest.digest()
        if descriptor.digest.algorithm != actual.algorithm:
            actual = self._digest_anew(staging / TAR_NAME if plain else None, ingest, descriptor.digest)
        check_whole(actual, layer.blob_size, expected=descriptor.digest, size=descriptor.size)
        if plain:
            self._content.adopt(staging / TAR_NAME, descriptor.digest, descriptor.size, keep=True)
        self._lease.hold(layer.diff_id)
        self._graph.layers.publish(staging, layer.diff_id, layer.index)
        self._graph.catalog.set_blob_diff(descriptor.digest, layer.diff_id)
        with self._lock:
            self._written.add(layer.diff_id)
        # Last, as whoever waits for the blob takes it for whole when its place is free.
        if plain:
            ingest.abort()
        else:
            ingest.commit(expected=descriptor.digest, size=descriptor.size)

    def _digest_anew(self, tar: Path | None, ingest: Ingest, like: Digest) -> Digest:
        """The digest of what came, by another algorithm than the one it was hashed with as it came."""
        if tar is not None:
            return _digest_of(tar, like)
        hasher = like.hasher()
        offset = 0
        while data := ingest.read_back(offset, _CHUNK):
            hasher.update(data)
            offset += len(data)
        return Digest.finish(hasher)

    def _new_staging(self) -> Path:
        with self._lock:
            self._staged += 1
            staging = self._lease.directory / f"layer-{self._staged}"
        with os_errors(str(staging)):
            staging.mkdir(mode=0o755)
        return staging

    # -- documents

    def finish(self, offers: Iterable[Offer]) -> None:
        """Record the images and point their names at them; all at once, or nothing."""
        catalog = self._graph.catalog
        with catalog.transaction():
            for record in catalog.dropped_blobs():
                if record.blob in self._written:  # it has a file again
                    catalog.remove_dropped_blob(record.blob)
            offers = tuple(offers)
            given = self._names(offers)
            for place, offer in enumerate(offers):
                self._register(offer.descriptor, offer.parent)
                names = []
                for reference in given[place]:
                    catalog.set_name(str(reference), offer.descriptor.digest)
                    names.append(reference.familiar)
                self.loaded.append((offer.descriptor, names))

    def _names(self, offers: Sequence[Offer]) -> list[list[Reference]]:
        """The names that each offer gets. Of several images with one name the last gets it, as with docker."""
        given: list[list[Reference]] = [[] for _ in offers]
        owners: dict[Reference, int] = {}
        for place, offer in enumerate(offers):
            for text in offer.names:
                reference = _name_or_none(text)
                if reference is None:
                    self._progress.note(one_line(f"'{text[:200]}' is no image name and was not kept"))
                    continue
                if reference.tag or reference.digest != offer.descriptor.digest:
                    reference = reference.without_digest()
                before = owners.get(reference)
                if before is not None:
                    if offers[before].descriptor.digest == offer.descriptor.digest:
                        continue
                    given[before].remove(reference)
                    self._progress.note(f"{reference.familiar} is the name of several images; the last of them has it")
                owners[reference] = place
                given[place].append(reference)
        return given

    def _register(self, descriptor: Descriptor, parent: Digest | None) -> None:
        if descriptor.digest in self._registered and parent is None:
            return  # indexes can name each other any number of times
        self._registered.add(descriptor.digest)
        if descriptor.is_index:
            index = self._graph.index(descriptor.digest)
            for child in index.manifests:
                if (child.is_index or child.is_manifest) and self._content.exists(child.digest, child.size):
                    self._register(child, None)
            self._graph.register_index(index)
            return
        manifest = self._graph.manifest(descriptor.digest)
        if not manifest.is_image:
            self._graph.register_artifact(descriptor, manifest)
            return
        config = self._graph.checked_config(manifest, lambda blob: self._graph.catalog.blob_diff(blob.digest))
        self._graph.register_image(manifest, config, config.diff_ids, parent=parent)

    def abort(self) -> None:
        """Remove what was written, unless somebody else came to need it."""
        self._cleanup(self._written)


def _name_or_none(text: str) -> Reference | None:
    """The reference that an archive's name means, or None for what no image can be called."""
    try:
        return Reference.parse(text)
    except InvalidInput:
        return None


class _Continued:
    """What an ingest has of a layer, and behind it what comes from elsewhere; ``keep`` stores the latter.

    Used by two threads: one reads, another keeps what was read. A plain layer, which is its own tar and is not kept by
    the other thread, is kept while it is read, so that it can be gone on with too.
    """

    def __init__(self, reader: Reader, ingest: Ingest) -> None:
        self._reader, self._ingest = reader, ingest
        self._kept = ingest.offset
        self._at = 0
        self._passed = 0
        self._resumable = isinstance(reader, RewindableReader) and reader.resumable
        self._plain: bool | None = None

    def read(self, size: int, /) -> bytes:
        data = self._next(size)
        if self._plain is None:
            while 0 < len(data) < _MAGIC and (more := self._next(size)):
                data += more
            self._plain = self._resumable and Compression.detect(data) is Compression.NONE
        if self._plain:
            self.keep(data)
        return data

    def _next(self, size: int) -> bytes:
        if self._at < self._kept:
            data = self._ingest.read_back(self._at, min(size, self._kept - self._at))
            self._at += len(data)
            if self._at == self._kept and isinstance(self._reader, RewindableReader):
                self._reader.rewind(self._kept)
            return data
        return self._reader.read(size)

    def keep(self, data: bytes) -> None:
        """Store bytes, unless they came from the ingest."""
        skipped = min(len(data), self._kept - self._passed)
        self._passed += skipped
        if skipped < len(data):
            self._ingest.write(memoryview(data)[skipped:] if skipped else data)

    def close(self) -> None:
        self._reader.close()


class _OnlyNotes:
    """Passes notes on. The bytes are counted where they are moved."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, key: str, action: str, *, total: int | None = None, unit: str = "bytes") -> None:
        pass

    def advance(self, key: str, amount: int) -> None:
        pass

    def done(self, key: str, outcome: str = "done") -> None:
        pass

    def note(self, text: str) -> None:
        self._progress.note(text)


def _digest_of(path: Path, like: Digest) -> Digest:
    """The digest of a file by the algorithm of ``like``."""
    hasher = like.hasher()
    with os_errors(str(path)), open(path, "rb") as file:
        while data := file.read(_CHUNK):
            hasher.update(data)
    return Digest.finish(hasher)
