"""Copies images from one endpoint to another: what a document names first, the document after it, names last."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from lamella.content.verified import VerifiedReader
from lamella.errors import (
    Aborted,
    FailedPrecondition,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import Index, Manifest
from lamella.spec.endpoint import ImageSink, ImageSource, Offer, Reader, ResumableSource
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress

_WORKERS = 3
_CHUNK = 1 << 20
_PATIENCE = 0.2
"""Seconds between the looks at whether the copy is to be cancelled while nothing comes."""
_LAST_PATIENCE = 2.0
"""Seconds for a sink to end what it is at by itself when the copy is given up."""
_KEPT_DOCUMENTS = 32 << 20
"""Bytes of documents that are kept until they are written; those beyond it are read again from where they came."""
_Key: TypeAlias = "tuple[str, Digest, int]"


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy moved, and what the source says about it that the user should know."""

    offers: tuple[Offer, ...]
    notes: tuple[str, ...]


def copy_images(
    source: ImageSource,
    sink: ImageSink,
    *,
    offers: Sequence[Offer] | None = None,
    platform: Platform | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = NO_PROGRESS,
) -> Copied:
    """Copy ``offers`` (all that the source has, if None) to ``sink``; all appear at once, or none.

    Every byte is checked against the descriptor that led to it. An index whose source lacks some of its images is
    copied whole as a document, with the images that are there; lacking all of them is an error. With ``platform`` the
    image that fits it is copied in place of an index. Any failure aborts the sink and is raised, the first of several.
    """
    chosen = tuple(source.offers() if offers is None else offers)
    job = _Copy(source, sink, limits, progress)
    try:
        if platform is not None:
            chosen = tuple(job.for_platform(offer, platform) for offer in chosen)
        for offer in chosen:
            job.document(offer.descriptor, depth=0)
        job.finish(chosen)
    except BaseException as error:
        job.cancel(error)
        sink.abort()
        raise
    notes = [note for offer in chosen for note in offer.notes]
    return Copied(chosen, tuple(dict.fromkeys([*notes, *job.notes])))


class _Copy:
    def __init__(
        self,
        source: ImageSource,
        sink: ImageSink,
        limits: Limits,
        progress: Progress,
    ) -> None:
        self._source, self._sink = source, sink
        self._limits, self._progress = limits, progress
        workers = max(_WORKERS, *(getattr(endpoint, "parallel", 0) for endpoint in (source, sink)))
        self._pool = ThreadPoolExecutor(workers, "transfer")
        self._stopped: LamellaError | None = None
        self._action = next((e.action for e in (sink, source) if hasattr(e, "action")), "copying")
        self._blobs: dict[_Key, Future[None]] = {}
        self._documents: list[tuple[Descriptor, bytes | None]] = []
        self._room = _KEPT_DOCUMENTS
        self._seen: set[_Key] = set()
        self.notes: list[str] = []

    def for_platform(self, offer: Offer, platform: Platform) -> Offer:
        """The offer of the one image of an index that fits; what is no index stays. Raises NotFound if none does."""
        descriptor = offer.descriptor
        while descriptor.is_index:
            index = Index.parse(self._read(descriptor), descriptor.media_type, limits=self._limits)
            children = [child for child in index.manifests if child.platform is not None]
            at = platform.choose([child.platform for child in children if child.platform is not None])
            if at is None:
                have = ", ".join(sorted({str(child.platform) for child in children})) or "none"
                raise NotFound(
                    f"no image for {platform}",
                    code="platform-not-found",
                    subject=str(descriptor.digest),
                    hint=f"there is one for: {have}",
                )
            descriptor = children[at]
        return replace(offer, descriptor=descriptor)

    def document(self, descriptor: Descriptor, *, depth: int) -> None:
        """Plan a manifest or an index: its blobs start at once, it is written itself when all blobs are there."""
        if depth > 4:
            raise InvalidInput("indexes are nested too deeply", code="index-depth", subject=str(descriptor.digest))
        key = _key(descriptor)
        if key in self._seen:
            return
        self._seen.add(key)
        raw = self._read(descriptor)
        if descriptor.is_index:
            self._index(Index.parse(raw, descriptor.media_type, limits=self._limits), depth)
        else:
            manifest = Manifest.parse(raw, descriptor.media_type, limits=self._limits)
            for blob in sorted((manifest.config, *manifest.layers), key=lambda blob: -blob.size):
                self._start(blob)
        self._room -= len(raw)
        self._documents.append((descriptor, raw if self._room >= 0 else None))

    def _index(self, index: Index, depth: int) -> None:
        wanted = [child for child in index.manifests if child.is_index or child.is_manifest]
        missing: list[Descriptor] = []
        for child in wanted:
            try:
                self.document(child, depth=depth + 1)
            except NotFound:
                missing.append(child)
        if wanted and len(missing) == len(wanted):
            raise NotFound(
                "none of the images of the index is there", code="index-empty", subject=str(missing[0].digest)
            )
        self.notes.extend(f"{child.digest} ({child.platform or 'no platform'}) is not there" for child in missing)

    def _read(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > self._limits.document_bytes:
            raise ResourceExhausted(
                f"a document of {descriptor.size} bytes, over the limit of {self._limits.document_bytes}",
                code="document-size",
                subject=str(descriptor.digest),
            )
        with VerifiedReader(self._source.open_blob(descriptor), descriptor.digest, descriptor.size) as reader:
            return reader.read()

    def _start(self, descriptor: Descriptor) -> None:
        key = _key(descriptor)
        if key not in self._blobs:
            self._blobs[key] = self._pool.submit(self._blob, descriptor)

    def _blob(self, descriptor: Descriptor) -> None:
        key = descriptor.digest.short
        self._progress.start(key, self._action, total=descriptor.size)
        try:
            if self._sink.has_blob(descriptor):
                self._progress.done(key, "exists")
                return
            reader = _Moving(self, descriptor, key)
            try:
                self._sink.write_blob(descriptor, reader)
            finally:
                reader.close()
        except BaseException:
            self._progress.done(key, "failed")
            raise
        self._progress.done(key)

    def finish(self, offers: Iterable[Offer]) -> None:
        pending = set(self._blobs.values())
        while pending:
            done, pending = wait(pending, _PATIENCE, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._progress.advance("", 0)
        self._pool.shutdown()
        for descriptor, raw in self._documents:
            if not self._sink.has_blob(descriptor):
                self._sink.write_blob(descriptor, io.BytesIO(self._read(descriptor) if raw is None else raw))
        self._sink.finish(offers)

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        """A blob from ``offset`` on."""
        if isinstance(self._source, ResumableSource):
            return self._source.open_blob_at(descriptor, offset)
        reader = self._source.open_blob(descriptor)
        try:
            while offset and (data := reader.read(min(offset, _CHUNK))):
                offset -= len(data)
        except BaseException:
            reader.close()
            raise
        return reader

    @property
    def resumable(self) -> bool:
        """Whether blobs can be opened in the middle."""
        return isinstance(self._source, ResumableSource)

    def moved(self, key: str, amount: int) -> None:
        """Report bytes. When another blob has failed it raises, Aborted if it makes sense to go on another time."""
        if self._stopped is not None:
            raise self._stopped
        self._progress.advance(key, amount)

    def cancel(self, cause: BaseException) -> None:
        again = not isinstance(cause, Exception) or isinstance(cause, (Aborted, Unavailable))
        why = "another blob could not be copied"
        self._stopped = Aborted(why, code="copy-stopped") if again else FailedPrecondition(why, code="copy-failed")
        self._interrupt(self._source)
        self._pool.shutdown(wait=False, cancel_futures=True)
        running = [future for future in self._blobs.values() if not future.cancelled()]
        if wait(running, _LAST_PATIENCE).not_done:
            self._interrupt(self._sink)
        self._pool.shutdown()
        for future in self._blobs.values():
            with suppress(BaseException):
                future.exception(0)

    def _interrupt(self, endpoint: object) -> None:
        """End what an endpoint waits for, if it can do that."""
        interrupt = getattr(endpoint, "interrupt", None)
        if interrupt is not None:
            interrupt()


def _key(descriptor: Descriptor) -> _Key:
    """What tells a blob from another: annotations and platform do not."""
    return descriptor.media_type, descriptor.digest, descriptor.size


class _Moving:
    """A blob on its way: opened when its first byte is wanted, reported as it goes, and rewound at will.

    One that is longer than announced fails as soon as that shows. What is read a second time is reported once.
    """

    def __init__(self, job: _Copy, descriptor: Descriptor, key: str) -> None:
        self._job, self._descriptor, self._key = job, descriptor, key
        self._reader: Reader | None = None
        self._at = 0
        self._reported = 0
        self.resumable = job.resumable

    def read(self, size: int, /) -> bytes:
        try:
            if self._reader is None:
                self._reader = self._job.open(self._descriptor, self._at)
            data = self._reader.read(size)
        except LamellaError:
            self._job.moved(self._key, 0)  # if the others are stopped, that is the reason
            raise
        self._at += len(data)
        if self._at > self._descriptor.size:
            raise Integrity(
                f"it has more than its {self._descriptor.size} bytes",
                code="size-mismatch",
                subject=f"blob {self._descriptor.digest}",
            )
        before = self._reported
        self._reported = max(before, self._at)
        self._job.moved(self._key, self._reported - before)
        return data

    @property
    def verifies(self) -> bool:
        """Whether what it reads from checks the bytes itself, before it hands out the last of them."""
        return isinstance(self._reader, VerifiedReader)

    def rewind(self, offset: int, /) -> None:
        if offset != self._at:
            self.close()
            self._at = offset

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
