"""Fetching one layer: resumed where the connection broke, checked against every checksum that is known for it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression, DecompressReader
from lamella.archive.tar import TarScanner
from lamella.errors import Integrity, LamellaError, ResourceExhausted, Unavailable
from lamella.registry.transport import BROKEN, Response
from lamella.registry.v1.client import Client, Record
from lamella.spec import media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader
from lamella.spec.limits import Limits
from lamella.spec.progress import Progress

Checker: TypeAlias = "Callable[[bytes, BinaryIO], str]"
"""Computes a checksum of a record (its bytes) and a layer (as it was sent): text such as ``tarsum+sha256:...``."""

Checkers: TypeAlias = "Mapping[str, Checker]"
"""Checkers by the label that their checksums begin with, before the ``+`` or the ``:``."""

_CHUNK = 1 << 20
_BREAKS = 100
"""How often one layer may be taken up again."""

_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_SIMPLE = "sha256:"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A layer in a file: its descriptor, what it unpacks to, and which of the checksums stated for it were verified."""

    layer: Descriptor
    diff_id: Digest
    verified: tuple[str, ...]


def fetch_layer(
    client: Client, record: Record, checksums: Iterable[str], path: Path, checkers: Checkers, progress: Progress
) -> Fetched:
    """Bring the layer of ``record`` to ``path``.

    A connection that breaks is taken up where it broke, if the registry can do that. ``checksums`` are those stated for
    the image; each that can be computed must be right, or all is fetched once more, from the start. What none of them
    vouches for must be a whole tar at least. Raises Integrity (``v1-checksum``, and what a broken compression or a
    broken tar raises), Unavailable, ResourceExhausted.
    """
    stated = [text for text in dict.fromkeys(checksums) if text]
    transfer = _Transfer(client, record.image.id, path, client.limits, progress)
    for again in (True, False):
        transfer.run()
        try:
            return _checked(record, stated, path, checkers, client.limits)
        except Integrity:
            if not again:
                raise
            progress.note(f"the layer of {record.image.id} came damaged and is fetched once more")
    raise AssertionError


class _Transfer:
    """The bytes of one layer on their way to a file."""

    def __init__(self, client: Client, identity: str, path: Path, limits: Limits, progress: Progress) -> None:
        self._client, self._id, self._path = client, identity, path
        self._limits, self._progress = limits, progress
        self._resumable = False

    def run(self) -> None:
        """Fetch all of it, in as many pieces as it takes."""
        key = self._id[:12]
        with os_errors(str(self._path)), open(self._path, "wb", buffering=0) as file:
            self._progress.start(key, "downloading")
            try:
                self._fetch_all(file, key)
            except BaseException:
                self._progress.done(key, "failed")
                raise
        self._progress.done(key)

    def _fetch_all(self, file: BinaryIO, key: str) -> None:
        """Failures with a byte between them are not in a row."""
        failures = breaks = 0
        while True:
            offset = file.tell()
            try:
                self._fetch(file, key)
                return
            except Unavailable as error:
                if error.code not in BROKEN:
                    raise
                failures, breaks = failures + 1 if file.tell() <= offset else 1, breaks + 1
                if failures >= self._client.attempts or breaks > _BREAKS:
                    raise
                if not self._resumable:
                    file.seek(0)
                    file.truncate()
            self._client.pause(failures)

    def _fetch(self, file: BinaryIO, key: str) -> None:
        """One request. Raises Unavailable when it breaks; what came until then is in the file."""
        offset = file.tell()
        response = self._client.open_layer(self._id, offset)
        try:
            self._resumable = response.header("Accept-Ranges").strip().lower() == "bytes" or response.status == 206
            if (offset or response.status == 206) and not self._continues(response, offset):
                file.seek(0)
                file.truncate()
                offset = 0
            while data := response.read(_CHUNK):
                offset += len(data)
                if offset > self._limits.layer_bytes:
                    raise ResourceExhausted(
                        f"the layer has more than {self._limits.layer_bytes} bytes", code="layer-size", layer=self._id
                    )
                file.write(data)
                self._progress.advance(key, len(data))
            if offset < _total(response):
                raise Unavailable(
                    "the answer ends before the layer does", code="registry-connection", subject=response.url
                )
        finally:
            response.close()

    def _continues(self, response: Response, offset: int) -> bool:
        """Whether an answer goes on at ``offset``. Raises Unavailable for one that goes on elsewhere."""
        if response.status == 200:
            return False
        found = _RANGE.fullmatch(response.header("Content-Range").strip())
        if found is None or int(found[1]) != offset:
            raise Unavailable(
                f"it was asked for the bytes from {offset} on and sends others",
                code="registry-protocol",
                subject=response.url,
            )
        return True


def _total(response: Response) -> int:
    """The size of the layer, if the answer is a part of it and says so: a part may be less than was asked for."""
    found = _RANGE.fullmatch(response.header("Content-Range").strip()) if response.status == 206 else None
    return int(found[2]) if found is not None and found[2] != "*" else 0


def _checked(record: Record, stated: list[str], path: Path, checkers: Checkers, limits: Limits) -> Fetched:
    raw, identity = record.image.raw, record.image.id
    with os_errors(str(path)), open(path, "rb", buffering=0) as file:
        tee = _Tee(file, raw)
        try:
            reader = DecompressReader(tee, limits=limits)
            plain = hashlib.sha256()
            while data := reader.read(_CHUNK):
                plain.update(data)
        except LamellaError as error:
            raise error.about(subject=f"the layer of {identity}") from None
        simple, verified = _SIMPLE + tee.simple.hexdigest(), []
        for text in stated:
            found = simple if text.startswith(_SIMPLE) else _computed(text, raw, file, checkers)
            if found is None:
                continue
            if found != text:
                raise Integrity(
                    f"the checksum is {found}, the registry states {text[:120]}",
                    code="v1-checksum",
                    subject=f"image {identity}",
                )
            verified.append(text)
        if not verified:
            _look_inside(file, identity, limits)
    compression = reader.compression
    digest = Digest.finish(tee.whole)
    diff_id = Digest.finish(plain) if compression is not Compression.NONE else digest
    return Fetched(Descriptor(media.layer(compression.value), digest, tee.size), diff_id, tuple(verified))


def _look_inside(file: BinaryIO, identity: str, limits: Limits) -> None:
    """Raise Integrity for what is no tar, or was cut off."""
    file.seek(0)
    try:
        for _ in TarScanner(DecompressReader(file, limits=limits).read, limits=limits):
            pass
    except LamellaError as error:
        raise error.about(subject=f"the layer of {identity}") from None


def _computed(text: str, raw: bytes, file: BinaryIO, checkers: Checkers) -> str | None:
    """The checksum of the kind that ``text`` is; None if nobody can compute it."""
    checker = checkers.get(text.partition(":")[0]) or checkers.get(text.partition("+")[0])
    if checker is None:
        return None
    file.seek(0)
    return checker(raw, file)


class _Tee:
    """A file that is hashed as it is read: whole, and behind the record as the simple checksum has it."""

    def __init__(self, file: BinaryIO, raw: bytes) -> None:
        self._file = file
        self.whole, self.simple, self.size = hashlib.sha256(), hashlib.sha256(raw + b"\n"), 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.size += len(data)
        self.whole.update(data)
        self.simple.update(data)
        return data

    def close(self) -> None:
        """The file is the caller's."""


class FileReader:
    """A file as a stream; owns it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with os_errors(str(path)):
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        with os_errors(str(self._path)):
            return self._file.read(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def simple_checksum(raw: bytes, reader: Reader) -> str:
    """``sha256:`` and the sha256 of a record, a newline and a layer; the reader is read to its end and stays open."""
    hasher = hashlib.sha256(raw + b"\n")
    while data := reader.read(_CHUNK):
        hasher.update(data)
    return f"sha256:{hasher.hexdigest()}"
