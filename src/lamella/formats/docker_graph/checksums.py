"""The checksums of 2013: the one kept in ``graph/checksums``, and TarSum, which 0.6 put in its place.

Neither is a proof of content: TarSum does not see the order of members, version 0 does not see xattrs (moby#9719).
They are computed so that what was published with them can be checked; nothing of today's rests on them.
"""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lamella.archive.compression import DecompressReader
from lamella.archive.member import Member, MemberType
from lamella.archive.tar import TarScanner
from lamella.archive.tar_header import number, text
from lamella.errors import InvalidInput, ResourceExhausted
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from hashlib import _Hash

TarSumVersion = Literal["0", "1", "dev"]

_LABELS: dict[str, str] = {"0": "tarsum", "1": "tarsum.v1", "dev": "tarsum.dev"}
_ALGORITHMS = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")
_CHUNK = 256 << 10
_FEW = 7
_ZEROS = bytes(_CHUNK)
_SECOND = 1_000_000_000


def checksum(json: bytes, layer: Reader) -> str:
    """``sha256:`` and the digest of the record's bytes, a newline, and the layer's archive as it is (read, not closed).

    What docker 0.3 to 0.5 kept for an image, and what a v1 registry calls the payload's checksum.
    """
    digest = hashlib.sha256(json + b"\n")
    while data := layer.read(_CHUNK):
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


def tarsum(
    layer: Reader,
    extra: bytes = b"",
    *,
    version: TarSumVersion = "0",
    algorithm: str = "sha256",
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """The TarSum of a layer (compressed or not; read, not closed) with ``extra``, the record of its image.

    Raises InvalidInput for an unknown version or algorithm, ResourceExhausted (``layer-size``) for sparse files with
    more bytes in holes than ``limits`` lets a layer have, and what reading a damaged archive raises.
    """
    if version not in _LABELS:
        raise InvalidInput(f"no version of TarSum: {version!r}", code="tarsum-version")
    if algorithm not in _ALGORITHMS:
        raise InvalidInput(f"TarSum does not use {algorithm!r}", code="tarsum-algorithm")
    total = hashlib.new(algorithm, extra)
    for entry in _ordered(_Sums(layer, version, algorithm, limits).run()):
        total.update(entry.digest.encode())
    return f"{_LABELS[version]}+{algorithm}:{total.hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Sum:
    name: bytes
    digest: str
    position: int


def _ordered(sums: list[_Sum]) -> list[_Sum]:
    """By digest; but what has one name by its place in the archive.

    With a name twice among three or more that is no order, and what comes of it hangs on how one sorts. A few are
    inserted one after the other here, as Go's sort did; with more, what has one name changes places among itself, and
    no docker need agree.
    """
    if len({entry.name for entry in sums}) == len(sums):
        return sorted(sums, key=lambda entry: entry.digest)
    return _inserted(sums) if len(sums) <= _FEW else _rearranged(sums)


def _inserted(sums: list[_Sum]) -> list[_Sum]:
    result: list[_Sum] = []
    for entry in sums:
        at = len(result)
        while at and result[at - 1].name != entry.name and entry.digest < result[at - 1].digest:
            at -= 1
        result.insert(at, entry)
    return result


def _rearranged(sums: list[_Sum]) -> list[_Sum]:
    result = sorted(sums, key=lambda entry: (entry.digest, entry.position))
    places: dict[bytes, list[int]] = {}
    for place, entry in enumerate(result):
        places.setdefault(entry.name, []).append(place)
    for same in places.values():
        if len(same) > 1:
            in_order = sorted((result[place] for place in same), key=lambda entry: entry.position)
            for place, entry in zip(same, in_order, strict=True):
                result[place] = entry
    return result


class _Sums:
    """One pass over an archive: a digest for each member, of its headers and its bytes."""

    def __init__(self, layer: Reader, version: str, algorithm: str, limits: Limits) -> None:
        self._stream = DecompressReader(layer, limits=limits)
        self._version, self._algorithm = version, algorithm
        self._scanner = TarScanner(self._read, limits=limits)
        self._offset = 0
        self._holes_left = limits.layer_bytes
        self._body: _Body | None = None
        self._from = self._until = 0

    def run(self) -> list[_Sum]:
        sums: list[_Sum] = []
        for member in self._scanner:
            self._end_member(sums)
            self._check_holes(member)
            digest = hashlib.new(self._algorithm, _headers(self._scanner, member, self._version))
            self._body = _Body(digest, member)
            self._from, self._until = member.data_offset, member.data_offset + member.stored_size
        self._end_member(sums)
        while self._stream.read(_CHUNK):
            pass  # the end of a compressed stream vouches for the rest of it
        return sums

    def _end_member(self, sums: list[_Sum]) -> None:
        if self._body is not None:
            sums.append(_Sum(self._body.name, self._body.hexdigest(), len(sums)))

    def _check_holes(self, member: Member) -> None:
        """Count the zeros that no byte of the archive stands for: a header alone can ask for any number of them."""
        if member.sparse is None:
            return
        self._holes_left -= member.size - member.stored_size
        if self._holes_left < 0:
            raise ResourceExhausted("holes of more bytes than a layer may have", code="layer-size", entry=member.name)

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        start = max(self._from - self._offset, 0)
        end = self._until - self._offset
        if self._body is not None and start < end and start < len(data):
            self._body.update(data[start:end])
        self._offset += len(data)
        return data


class _Body:
    """The digest of a member, fed with its stored bytes in order; the holes of a sparse file count as zeros."""

    def __init__(self, digest: _Hash, member: Member) -> None:
        self.name = posixpath.normpath(b"/" + member.name).lstrip(b"/")
        self._digest = digest
        self._pieces = iter(((0, member.stored_size),) if member.sparse is None else member.sparse)
        self._size = member.size
        self._at = self._left = 0

    def update(self, data: bytes) -> None:
        while data:
            if not self._left:
                start, self._left = next(self._pieces)
                self._zeros(start)
            taken = data[: self._left]
            self._digest.update(taken)
            self._at += len(taken)
            self._left -= len(taken)
            data = data[len(taken) :]

    def hexdigest(self) -> str:
        self._zeros(self._size)
        return self._digest.hexdigest()

    def _zeros(self, until: int) -> None:
        while self._at < until:
            piece = _ZEROS[: until - self._at]
            self._digest.update(piece)
            self._at += len(piece)


def _headers(scanner: TarScanner, member: Member, version: str) -> bytes:
    """Keys and values of what counts of a member, one after the other."""
    block = scanner.header
    is_link = member.type in (MemberType.HARDLINK, MemberType.SYMLINK)
    fields: list[tuple[bytes, bytes | int]] = [
        (b"name", member.name),
        (b"mode", number(block[100:108])),  # all of it: docker's own archives have had the bits of the type there
        (b"uid", member.uid),
        (b"gid", member.gid),
        (b"size", _size(block, member)),
        (b"mtime", member.mtime // _SECOND),
        (b"typeflag", block[156:157]),
        (b"linkname", member.linkname if is_link else text(block[157:257])),
        (b"uname", scanner.uname),
        (b"gname", scanner.gname),
        (b"devmajor", member.major),
        (b"devminor", member.minor),
    ]
    if version != "0":
        fields = [(key, value) for key, value in fields if key != b"mtime"]
        encoded = ((key.encode("utf-8", "surrogateescape"), value) for key, value in member.xattrs.items())
        fields += sorted(encoded)
    return b"".join(key + (value if isinstance(value, bytes) else b"%d" % value) for key, value in fields)


def _size(block: bytes, member: Member) -> int:
    """The size as it is written, which for what has no data (links, directories) need not be zero, nor a number."""
    if member.type is MemberType.REGULAR:
        return member.size
    try:
        return member.stored_size or number(block[124:136])
    except ValueError:
        return 0
