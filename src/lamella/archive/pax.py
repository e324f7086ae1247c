"""Extended headers (POSIX.1-2001 pax): parsing and building records, and what their values mean.

Formats: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files"; star(5) for ``SCHILY.*``;
libarchive's tar(5) for ``LIBARCHIVE.*``.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator

from lamella.archive.tar_header import MAX_SIZE, bad_header, clamp_time
from lamella.errors import ResourceExhausted

SCHILY_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_XATTRS = (SCHILY_XATTR, _LIBARCHIVE_XATTR)
_SPARSE_LISTS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_PATHS = (b"path", b"linkpath", b"GNU.sparse.name")
_PLAIN = frozenset(b"path linkpath size uid gid uname gname mtime SCHILY.devmajor SCHILY.devminor".split())
_SPARSE = b"GNU.sparse.major GNU.sparse.minor GNU.sparse.size GNU.sparse.realsize GNU.sparse.map GNU.sparse.name"
_KNOWN = frozenset((*_PLAIN, *_SPARSE.split(), *_SPARSE_LISTS))
_DIGITS = 20
"""A number of more digits is out of every range."""
_TIME = 100
"""A time of more characters is none."""


def records(data: bytes, entry: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """The records that Lamella understands, in order; others are passed over, malformed ones are Integrity errors."""
    at = 0
    end = len(data)
    while at < end:
        blank = data.find(b" ", at, at + _DIGITS)
        length = data[at:blank] if blank > at else b""
        stop = at + int(length) if length.isdigit() else 0
        if stop <= blank + 1 or stop > end or data[stop - 1] != 0x0A:
            raise bad_header(f"malformed extended header record at byte {at} of it", entry)
        key, equals, value = data[blank + 1 : stop - 1].partition(b"=")
        if not equals or not key or 0 in key:
            raise bad_header(f"malformed extended header keyword at byte {at} of it", entry)
        if key in _PATHS and 0 in value:
            raise bad_header(f"NUL in {key.decode()} of an extended header", entry)
        if key in _KNOWN or key.startswith(_XATTRS):
            yield key, value
        at = stop


def is_of_one_file(key: bytes) -> bool:
    """Whether a known record can only be meant for one file: an extended attribute or a part of a sparse map."""
    return key not in _PLAIN


class Records:
    """The records in force for one member: a later one replaces an earlier, an empty value removes.

    ``sparse_map`` holds the values of the two keywords that sparse format 0.0 repeats: offset and length in turn.
    ``is_rich`` says that there are extended attributes or parts of a sparse map.
    """

    __slots__ = ("is_rich", "sparse_map", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.is_rich = False
        self.sparse_map: list[bytes] = []

    def update(self, found: Iterable[tuple[bytes, bytes]], entry: bytes | None) -> None:
        """Add records. Raises Integrity when the keywords of a sparse map do not alternate."""
        for key, value in found:
            if key in _PLAIN:
                self.values[key] = value
                continue
            self.is_rich = True
            if key not in _SPARSE_LISTS:
                self.values[key] = value
            elif key == _SPARSE_LISTS[len(self.sparse_map) % 2]:
                self.sparse_map.append(value)
            else:
                raise bad_header("a sparse map whose offsets and lengths do not alternate", entry)

    def text(self, key: bytes) -> bytes:
        """The value; empty when there is none."""
        return self.values.get(key, b"")

    def number(self, key: bytes, entry: bytes | None, *, highest: int = MAX_SIZE) -> int | None:
        """A decimal number from 0 to ``highest``; None when there is none. Raises Integrity."""
        value = self.values.get(key, b"")
        return decimal(value, entry, highest=highest) if value else None

    def mtime(self, entry: bytes | None) -> int | None:
        """``mtime`` in ns, rounded down and clamped to 64 bits; None when there is none."""
        value = self.values.get(b"mtime", b"")
        return parse_time(value, entry) if value else None

    def xattrs(self, entry: bytes | None, *, limit: int) -> dict[str, bytes]:
        """Extended attributes by name; where both dialects give one, the one that needs no decoding counts.

        Raises ResourceExhausted when names and values are more than ``limit`` bytes as they are written.
        """
        written = [(key, value) for key, value in self.values.items() if key.startswith(_XATTRS)]
        if sum(len(key) + len(value) for key, value in written) > limit:
            raise ResourceExhausted(f"extended attributes of more than {limit} bytes", code="xattr-size", entry=entry)
        found: dict[str, bytes] = {}
        for key, value in written:
            if key.startswith(SCHILY_XATTR):
                found[_xattr_name(unescape(key[len(SCHILY_XATTR) :]), entry)] = value
        for key, value in written:
            if key.startswith(_LIBARCHIVE_XATTR):
                name = _xattr_name(_percent_decode(key[len(_LIBARCHIVE_XATTR) :], entry), entry)
                if name not in found:
                    found[name] = _base64(value, entry)
        return found


def decimal(value: bytes, entry: bytes | None, *, highest: int = MAX_SIZE) -> int:
    """A decimal number from 0 to ``highest``. Raises Integrity."""
    if len(value) > _DIGITS or not value.isdigit():
        raise bad_header("an extended header number that is not decimal", entry)
    found = int(value)
    if found > highest:
        raise bad_header(f"an extended header number out of range: {found}", entry)
    return found


def parse_time(value: bytes, entry: bytes | None) -> int:
    """Seconds with any number of decimals as ns, rounded down, clamped to 64 bits. Raises Integrity."""
    negative = value.startswith(b"-")
    whole, _, fraction = value[negative:].partition(b".")
    if not (whole + fraction).isdigit() or len(value) > _TIME:
        raise bad_header("an extended header time that is not decimal", entry)
    ns = int(whole or b"0") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    if negative:
        ns = -ns - (1 if fraction[9:].strip(b"0") else 0)
    return clamp_time(ns)


def format_time(ns: int) -> bytes:
    """Nanoseconds as a pax time, without trailing zeros."""
    sign = b"-" if ns < 0 else b""
    whole, fraction = divmod(abs(ns), 1_000_000_000)
    if not fraction:
        return b"%s%d" % (sign, whole)
    return b"%s%d.%s" % (sign, whole, (b"%09d" % fraction).rstrip(b"0"))


def record(key: bytes, value: bytes) -> bytes:
    """One record, with the length that counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def escape(name: bytes) -> bytes:
    """An attribute's name for a keyword, as GNU tar writes it: a keyword must not hold an equals sign."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def unescape(name: bytes) -> bytes:
    """The inverse of ``escape``; other percent signs stay."""
    return name.replace(b"%3D", b"=").replace(b"%25", b"%") if b"%" in name else name


def _xattr_name(name: bytes, entry: bytes | None) -> str:
    if not name:
        raise bad_header("an extended attribute without a name", entry)
    return name.decode("utf-8", "surrogateescape")


def _percent_decode(name: bytes, entry: bytes | None) -> bytes:
    first, *rest = name.split(b"%")
    try:
        decoded = first + b"".join(binascii.unhexlify(part[:2]) + part[2:] for part in rest)
    except binascii.Error:
        raise bad_header("a malformed escape in the name of an extended attribute", entry) from None
    if 0 in decoded:
        raise bad_header("NUL in the name of an extended attribute", entry)
    return decoded


def _base64(value: bytes, entry: bytes | None) -> bytes:
    digits = value.rstrip(b"=")  # libarchive leaves the padding out
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error:
        raise bad_header("an extended attribute whose value is not base64", entry) from None
