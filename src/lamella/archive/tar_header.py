"""The 512-byte header of a tar member: v7, ustar (POSIX.1-1988), GNU and star, decoded.

Formats: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format"; star(5).
"""

from __future__ import annotations

import struct
from zlib import adler32

from lamella.archive.member import Member, MemberType
from lamella.errors import Integrity

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_SIZE = (1 << 63) - 1
"""The largest size, offset or count that is taken for one: what an off_t holds."""
MAX_ID = (1 << 32) - 2
"""The largest owner: 2**32 - 1 means "leave it" to chown(2)."""

_FIELDS = struct.Struct("100s24s12s12s8sc100s6s66x16s155s12x")
_USTAR = b"ustar\0"
GNU = b"ustar "
_NS = 1_000_000_000
_TIMES = (-(1 << 63), (1 << 63) - 1)
_KEPT = 1024

_TYPES = {
    b"0": MemberType.REGULAR,
    b"\0": MemberType.REGULAR,
    b"7": MemberType.REGULAR,
    b"1": MemberType.HARDLINK,
    b"2": MemberType.SYMLINK,
    b"3": MemberType.CHARDEV,
    b"4": MemberType.BLOCKDEV,
    b"5": MemberType.DIRECTORY,
    b"6": MemberType.FIFO,
    b"D": MemberType.DIRECTORY,
    b"S": MemberType.REGULAR,
}
FILE_TYPES = frozenset(_TYPES)
"""The type flags that stand for something in a file system, and not for metadata of the archive."""
_REGULAR = MemberType.REGULAR
_NO_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_LINKS = (MemberType.HARDLINK, MemberType.SYMLINK)
_DEVICES = (MemberType.CHARDEV, MemberType.BLOCKDEV)


class HeaderDecoder:
    """Decodes header blocks into members. Not thread-safe: it remembers owners, modes and times that it has seen."""

    def __init__(self) -> None:
        self._ids: dict[bytes, tuple[int, int, int]] = {}
        self._times: dict[bytes, int] = {}

    def decode(self, block: bytes, offset: int) -> tuple[Member, bytes]:
        """The member whose header is ``block``, found at ``offset``, and its type flag.

        The flag decides what the member is; where it is none of those that stand for a file (``FILE_TYPES``), only
        ``name`` and ``stored_size`` mean something. ``size`` and ``stored_size`` are equal here. Raises Integrity
        (``tar-checksum``, ``tar-header``).
        """
        name, ids, size_field, mtime_field, checksum, flag, link, magic, devices, prefix = _FIELDS.unpack(block)
        # Adler-32's lower half is one plus the sum of the bytes modulo 65521, which 512 of ASCII do not reach:
        # twenty times faster than sum(). The field itself counts as eight blanks; six digits, NUL, blank is usual.
        sum_of = (adler32(block) & 0xFFFF) - (adler32(checksum) & 0xFFFF) + 256
        if not block.isascii() or b"%06o\0 " % sum_of != checksum:
            _check_sum(block, checksum, offset)
        name = name.rstrip(b"\0")
        if 0 in name:
            name = name[: name.index(0)]
        if prefix[0] and magic == _USTAR:
            name = _prefixed(prefix, block, name)
        kind = _TYPES.get(flag, _REGULAR)
        major = minor = size = 0
        linkname = b""
        try:
            owner = self._ids.get(ids) or self._decode_ids(ids)
            mtime = self._times.get(mtime_field)
            if mtime is None:
                mtime = self._decode_time(mtime_field)
            # What has no data has no data, whatever its size field says: links carry the size of their target there.
            if flag not in _NO_DATA:
                digits = size_field[:11]
                size = int(digits, 8) if size_field[11:] == b"\0" and digits.isdigit() else number(size_field)
            elif kind in _LINKS:
                linkname = text(link)
            elif kind in _DEVICES:
                major, minor = number(devices[:8]), number(devices[8:])
        except ValueError as error:
            raise bad_header(f"{error} in the header at {offset}", name) from None
        if size < 0 or size > MAX_SIZE or major < 0 or minor < 0:
            raise bad_header(f"a negative or too large number in the header at {offset}", name)
        start = offset + BLOCK
        member = Member(name, kind, owner[0], owner[1], owner[2], mtime, size, linkname, major, minor, {}, start, size)
        return member, flag

    def _decode_time(self, field: bytes) -> int:
        mtime = number(field) * _NS
        if len(self._times) >= _KEPT:
            self._times.clear()
        found = self._times[field] = mtime if _TIMES[0] <= mtime <= _TIMES[1] else clamp_time(mtime)
        return found

    def _decode_ids(self, ids: bytes) -> tuple[int, int, int]:
        mode, uid, gid = number(ids[:8]), number(ids[8:16]), number(ids[16:])
        if mode < 0 or not 0 <= uid <= MAX_ID or not 0 <= gid <= MAX_ID:
            raise ValueError("an owner or mode out of range")
        if len(self._ids) >= _KEPT:
            self._ids.clear()
        found = self._ids[ids] = (mode & 0o7777, uid, gid)
        return found


def owner_names(block: bytes) -> tuple[bytes, bytes]:
    """The names of owner and group in a header; v7 has none."""
    if block[257:262] != b"ustar":
        return b"", b""
    return text(block[265:297]), text(block[297:329])


def text(field: bytes) -> bytes:
    """A text field: up to its first NUL, or all of it."""
    field = field.rstrip(b"\0")
    return field[: field.index(0)] if 0 in field else field


def number(field: bytes) -> int:
    """A number field: octal digits between blanks and NULs, or base 256. Empty is zero. Raises ValueError."""
    if field[-1:] == b"\0" and field[:-1].isdigit():
        return int(field[:-1], 8)
    digits = field.strip(b" \0")
    if digits.isdigit():
        return int(digits, 8)
    if not digits and not field[0] & 0x80:
        return 0
    if field[0] & 0x80:
        return _base256(field)
    digits = field.lstrip(b" ").replace(b" ", b"\0").partition(b"\0")[0]
    if digits.isdigit():
        return int(digits, 8)
    raise ValueError("a number that is not octal")


def _base256(field: bytes) -> int:
    # Two's complement, big-endian; the topmost bit is only the mark.
    bits = 8 * len(field) - 1
    value = int.from_bytes(field, "big") & ((1 << bits) - 1)
    return value - (1 << bits) if value >> (bits - 1) else value


def clamp_time(mtime: int) -> int:
    """The nearest time (ns) that 64 bits hold: years 1677 to 2262. As kernels do for what a file system cannot hold."""
    return max(_TIMES[0], min(mtime, _TIMES[1]))


def bad_header(reason: str, name: bytes | None) -> Integrity:
    """What to raise for a header that makes no sense."""
    return Integrity(reason, code="tar-header", entry=name)


def _prefixed(prefix: bytes, block: bytes, name: bytes) -> bytes:
    if block[508:] == b"tar\0":  # star keeps times in the last 24 bytes of the prefix
        prefix = prefix[:131]
    return text(prefix) + b"/" + name


def _check_sum(block: bytes, field: bytes, offset: int) -> None:
    """Check a checksum however it is written; the field itself counts as eight blanks. Raises Integrity."""
    try:
        stored = number(field)
    except ValueError:
        stored = -1
    unsigned = sum(block) - sum(field) + 256
    # Old tars summed signed chars. 256 less for each byte above 127, save those of the field.
    high = sum(byte >> 7 for byte in block) - sum(byte >> 7 for byte in field)
    if stored not in (unsigned, unsigned - 256 * high):
        raise Integrity(f"the header at {offset} has a wrong checksum", code="tar-checksum")
