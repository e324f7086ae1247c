"""The one pass over a layer: hash it, inflate it, hash that, write the tar, index it.

A layer's stream is read exactly once, whatever it comes from. What the pass leaves in its staging directory
(``layer.tar``, ``layer.index``) is synced and ready to be renamed into place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamella._sys.files import os_errors
from lamella._sys.writeback import Writeback
from lamella.archive import whiteouts
from lamella.archive.compression import Compression, DecompressReader
from lamella.archive.tar import Member, MemberType, TarScanner
from lamella.archive.tar_header import BLOCK
from lamella.archive.whiteouts import Marker
from lamella.errors import InvalidInput, LamellaError, ResourceExhausted, printable
from lamella.layers.entry import NO_XATTRS, Entry, Kind
from lamella.layers.filedigests import FileHasher
from lamella.layers.hashing import Ahead, Background
from lamella.layers.index import IndexWriter, LayerIndex
from lamella.layers.paths import normalize
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

TAR_NAME = "layer.tar"
INDEX_NAME = "layer.index"
_CHUNK = 1 << 20
_MAGIC_SIZE = 16
_MAJOR_MAX, _MINOR_MAX = (1 << 12) - 1, (1 << 20) - 1
_KINDS = tuple(Kind[member_type.name] for member_type in MemberType)
"""What a member's type is as a kind; the types count from 0."""
_HARDLINK = MemberType.HARDLINK
_DOT = ord(".")
_SHORT = 255
"""Bytes that neither a path nor a name can have too many of."""


@dataclass(frozen=True, slots=True)
class IngestedLayer:
    """What one pass found. ``blob_size`` is of the stream as it came; sizes in bytes."""

    blob_size: int
    diff_id: Digest
    tar_size: int
    compression: Compression
    index: LayerIndex


def ingest_layer(
    reader: Reader,
    staging: Path,
    blob_sink: Callable[[bytes], object],
    *,
    label: str = "",
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = NO_PROGRESS,
    key: str = "",
    file_digests: bool = False,
) -> IngestedLayer:
    """Read a layer to its end, leaving ``layer.tar`` and ``layer.index`` in ``staging``, both synced.

    ``blob_sink`` is given the bytes of a compressed stream as they come, in a thread of its own; an uncompressed one is
    its own tar, and goes to ``staging`` only. ``label`` names the layer in errors. With ``file_digests`` the index gets
    the digest of every file's content. Raises Integrity, InvalidInput or
    ResourceExhausted, naming entry and layer, for a stream that is no sound layer; the staging directory is the
    caller's to remove then.
    """
    run = _Pass(reader, staging, blob_sink, limits, progress, key, FileHasher() if file_digests else None)
    try:
        with os_errors(str(staging)):
            return run.run()
    except LamellaError as error:
        raise error.about(layer=label or None) from error.__cause__
    finally:
        run.close()


class _Pass:
    def __init__(
        self,
        reader: Reader,
        staging: Path,
        blob_sink: Callable[[bytes], object],
        limits: Limits,
        progress: Progress,
        key: str,
        files: FileHasher | None,
    ) -> None:
        self._files = files
        self._source = _Counted(reader, progress, key)
        self._limits, self._progress = limits, progress
        self._directory = staging
        self._hash = hashlib.sha256()
        self._kept = Background(self._keep)
        self._blob = Background(blob_sink)
        self._ahead: Ahead | None = None
        self._tar = -1
        self._tar_size = 0
        self._writeback: Writeback | None = None
        self._chunk = b""
        self._at = 0

    def run(self) -> IngestedLayer:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        self._tar = os.open(self._directory / TAR_NAME, flags, 0o644)
        self._writeback = Writeback(self._tar)
        compression = self._source.peek()
        if compression is not Compression.NONE:
            self._source.copy = self._blob.put
        stream = DecompressReader(self._source, limits=self._limits, compression=compression)
        self._ahead = Ahead(lambda: stream.read(_CHUNK))
        with open(self._directory / INDEX_NAME, "xb") as index_file:
            writer = IndexWriter(index_file, with_digests=self._files is not None)
            scanner = TarScanner(self._read, skip=self._skip, jump=self._jump, limits=self._limits)
            members = iter(scanner) if self._files is None else _announced(scanner, self._files)
            try:
                writer.extend(Translator(self._limits).entries(members))
            except ResourceExhausted as error:
                error.about(entry=writer.last)  # a bomb goes off in the data of the entry before
                raise
            self._drain()
            self._kept.finish()
            diff_id = Digest.finish(self._hash)
            digests = b"" if self._files is None else self._files.finish()
            index = writer.finish(diff_id, self._tar_size, digests)
            index_file.flush()
            os.fsync(index_file.fileno())
        os.fsync(self._tar)
        self._blob.finish()
        return IngestedLayer(self._source.size, diff_id, self._tar_size, compression, index)

    def _read(self, size: int) -> bytes:
        """Up to ``size`` bytes of the tar: a slice of the chunk at hand, or of the next one."""
        at, end = self._at, self._at + size
        if at == len(self._chunk):
            self._chunk, at, end = self._next_chunk(), 0, size
        self._at = min(end, len(self._chunk))
        return self._chunk[at:end]

    def _skip(self, size: int) -> int:
        """Pass over up to ``size`` bytes of the tar without a copy of them; 0 only at the end."""
        if self._at == len(self._chunk):
            self._chunk, self._at = self._next_chunk(), 0
        passed = min(size, len(self._chunk) - self._at)
        self._at += passed
        return passed

    def _jump(self, size: int) -> bytes:
        """The block of the tar behind ``size`` bytes, if all of that is in the chunk at hand; else nothing happens."""
        at = self._at + size
        end = at + BLOCK
        if end > len(self._chunk):
            return b""
        self._at = end
        return self._chunk[at:end]

    def _next_chunk(self) -> bytes:
        assert self._ahead is not None
        if self._files is not None and self._chunk:
            self._files.put(self._chunk)  # whatever begins in it has been announced by now
        data = self._ahead.take()
        if data:
            self._kept.put(data)
        return data

    def _keep(self, data: bytes) -> None:
        """Write and hash a chunk of the tar, in a thread of its own: what is left to the caller's is to scan it."""
        assert self._writeback is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._tar, view) :]
        self._hash.update(data)
        self._tar_size += len(data)
        self._writeback.grown(self._tar_size)

    def _drain(self) -> None:
        """What stands behind the end of the archive belongs to the layer's digest, and to nothing else."""
        strange = False
        while data := self._read(_CHUNK):
            strange = strange or data.count(0) != len(data)
        if strange:
            self._progress.note("the layer has bytes behind the end of its archive; every engine ignores them")

    def close(self) -> None:
        self._source.copy = None
        if self._ahead is not None:
            self._ahead.stop()
        self._kept.stop()
        self._blob.stop()
        if self._files is not None:
            self._files.stop()
        if self._writeback is not None:
            self._writeback.stop()
        if self._tar >= 0:
            os.close(self._tar)
            self._tar = -1


def _announced(members: Iterable[Member], files: FileHasher) -> Iterator[Member]:
    """The members of a tar, each file among them announced to be hashed before its content is passed over."""
    for member in members:
        if member.type is MemberType.REGULAR and member.size and member.sparse is None:
            files.begin(member.data_offset, member.size)
        yield member


class _Counted:
    """The layer's own stream: looked at by its first bytes, counted, and copied to the blob."""

    def __init__(self, reader: Reader, progress: Progress, key: str) -> None:
        self._reader, self._progress, self._key = reader, progress, key
        self._head = b""
        self.copy: Callable[[bytes], object] | None = None
        self.size = 0

    def peek(self) -> Compression:
        while len(self._head) < _MAGIC_SIZE and (more := self._reader.read(_CHUNK)):
            self._head += more
        return Compression.detect(self._head)

    def read(self, size: int, /) -> bytes:
        data = self._head[:size] if self._head else self._reader.read(size)
        self._head = self._head[len(data) :] if self._head else b""
        self.size += len(data)
        self._progress.advance(self._key, len(data))  # at the end too: who cancels may have ended the input
        if data and self.copy is not None:
            self.copy(data)
        return data

    def close(self) -> None:
        self._reader.close()


class Translator:
    """Turns the members of a tar into rows of an index: canonical names, whiteouts told from files."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pseudo: dict[bytes, Entry] = {}
        self._pseudo_first: dict[bytes, bytes] = {}

    def entries(self, members: Iterator[Member]) -> Iterator[Entry]:
        """One row a member, in order; AUFS bookkeeping gives none. Raises InvalidInput naming the entry."""
        canonical, limits, row = normalize, self._limits, _row
        prefix, hard_link = whiteouts.PREFIX, MemberType.HARDLINK
        beside: bytes | None = None  # the directory that the last name was in, as written; and as it is
        directory = b""
        for member in members:
            name = member.name
            parent, _, last = name.rpartition(b"/")
            # Most names are in the directory of the one before, where only what is new has to be looked at.
            if parent == beside and last and last[0] != _DOT and 0 not in last and len(name) <= _SHORT:
                path = directory + last
            else:
                path = canonical(name, limits)
                if prefix in path:
                    marker, subject = whiteouts.classify(path)
                    if marker != Marker.NONE:
                        yield from self._marked(marker, subject, member)
                        continue
                    beside = None
                elif last:
                    beside = parent
                    directory = path[: path.rfind(b"/") + 1]
            if member.type is hard_link:
                yield from self._hard_link(path, member)
                continue
            if not path and member.type is not MemberType.DIRECTORY:
                raise InvalidInput(
                    "the root of an image must be a directory", code="root-not-directory", entry=member.name
                )
            yield row(path, member)

    def _hard_link(self, path: bytes, member: Member) -> Iterator[Entry]:
        target = self._target(path, member)
        if not target:
            raise InvalidInput("a hard link to the root", code="hardlink-to-directory", entry=path)
        if target == path:
            raise InvalidInput("a hard link to itself", code="hardlink-to-itself", entry=path)
        marker, name = whiteouts.classify(target) if whiteouts.PREFIX in target else (Marker.NONE, b"")
        if marker != Marker.PSEUDO_LINK:
            yield Entry(path, Kind.HARDLINK, member.mode, member.uid, member.gid, member.mtime, link=target)
            return
        first = self._pseudo_first.get(name)
        held = self._pseudo.get(name)
        if first is not None:
            yield Entry(path, Kind.HARDLINK, member.mode, member.uid, member.gid, member.mtime, link=first)
        elif held is not None:
            self._pseudo_first[name] = path
            yield msgspec.structs.replace(held, path=path)
            yield Entry(path, Kind.PSEUDO_LINK)
        else:
            raise InvalidInput(
                "a link to an AUFS pseudo-link that is not there", code="hardlink-target-missing", entry=path
            )

    def _target(self, path: bytes, member: Member) -> bytes:
        """The path that a hard link names. Raises InvalidInput, ResourceExhausted, naming the link."""
        try:
            return normalize(member.linkname, self._limits)
        except LamellaError as error:
            error.entry = path
            error.reason = f"a hard link to '{printable(member.linkname[:300])}': {error.reason}"
            raise

    def _marked(self, marker: Marker, subject: bytes, member: Member) -> Iterator[Entry]:
        if marker == Marker.WHITEOUT:
            yield Entry(subject, Kind.WHITEOUT)
        elif marker == Marker.OPAQUE:
            yield Entry(subject, Kind.OPAQUE)
        elif marker == Marker.PSEUDO_LINK:
            if member.type == MemberType.REGULAR:
                self._pseudo[subject] = _row(subject, member)
            elif member.type == MemberType.HARDLINK:
                target = self._target(subject, member)
                self._pseudo_first[subject] = target
                yield Entry(target, Kind.PSEUDO_LINK)


def _row(path: bytes, member: Member) -> Entry:
    xattrs = member.xattrs
    if member.type > _HARDLINK:
        if member.type is MemberType.SYMLINK and not member.linkname:
            raise InvalidInput("a symbolic link to nothing", code="link-target-empty", entry=path)
        if member.major > _MAJOR_MAX or member.minor > _MINOR_MAX:
            raise InvalidInput("a device number that no kernel has", code="device-number", entry=path)
    return Entry(
        path,
        _KINDS[member.type],
        member.mode,
        member.uid,
        member.gid,
        member.mtime,
        member.size,
        member.data_offset,
        member.linkname,
        member.major,
        member.minor,
        {name.encode("utf-8", "surrogateescape"): xattrs[name] for name in sorted(xattrs)} if xattrs else NO_XATTRS,
        member.sparse,
    )
