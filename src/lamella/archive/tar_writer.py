"""Writing a tar archive: ustar where a member fits it, a pax extended header before it where it does not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from lamella.archive import pax
from lamella.archive.member import Member, MemberType
from lamella.archive.tar_header import BLOCK, MAX_ID, MAX_SIZE
from lamella.errors import FailedPrecondition, InvalidInput
from lamella.spec.endpoint import Reader

_PIECE = 256 << 10
"""Bytes read and written at a time."""
_SMALL = 64 << 10
"""Files up to this size are written together with their header."""
_NAME = 100
_PREFIX = 155
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_NS = 1_000_000_000
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_MAGIC = b"ustar\x0000"
_LINKS = (MemberType.HARDLINK, MemberType.SYMLINK)


class TarWriter:
    """Hands an archive to ``write``, a function that takes bytes, piece by piece and front to back.

    The bytes are a function of the members and their data: no user names, no times of its own, pax records sorted by
    keyword. What ustar cannot say goes into pax records: names of more than 100 bytes that do not split, names that
    are not ASCII (but those that are not UTF-8 either stay in the header while they fit), times that are not whole
    seconds, large numbers, extended attributes (``SCHILY.xattr``), sparse files (``GNU.sparse`` 1.0). The end is two
    zero blocks, with no padding after them.

    Names are written as given: a directory's is expected to end in a slash, as other tools write it. ``offset`` is the
    number of bytes written so far.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.offset = 0
        self._write = write
        self._closed = False

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()

    def add(self, member: Member, data: Reader | None = None) -> None:
        """Write one member; ``data`` delivers its ``size`` bytes, or the pieces of a sparse file back to back.

        ``data`` is read to its end and not closed. Raises InvalidInput (``tar-member``) for a member that cannot be
        written, before anything is, and FailedPrecondition (``file-changed``) when ``data`` has fewer or more bytes
        than announced: the archive is then broken and takes no more members.
        """
        if self._closed:
            raise InvalidInput("the archive is closed", code="tar-closed", entry=member.name)
        if data is not None and member.type is not MemberType.REGULAR:
            raise _invalid(member, "only a regular file has data")
        head, runs = _encode(member)
        if data is None and runs:
            raise _invalid(member, "its data is missing")
        self._closed = True  # stays so when the data fails
        self._copy(head, data, runs, member.name)
        self._closed = False

    def close(self) -> None:
        """Write the end marker, once. Does nothing after a failure: the archive stays visibly incomplete."""
        if not self._closed:
            self._closed = True
            self._put(bytes(2 * BLOCK))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self.offset += len(data)

    def _copy(self, head: bytes, data: Reader | None, runs: list[_Run], name: bytes) -> None:
        pieces = [head]
        held = len(head)
        total = 0
        for length, zeros in runs:
            left = length
            while left and data is not None:
                piece = data.read(min(left, _PIECE))
                if not piece:
                    raise _changed(name, f"it ended {left} bytes early")
                left -= len(piece)
                held += len(piece)
                pieces.append(piece)
                if held > _SMALL:
                    self._put(b"".join(pieces))
                    pieces.clear()
                    held = 0
            pieces.append(bytes(zeros))
            held += zeros
            total += length + zeros
        pieces.append(bytes(-total % BLOCK))
        self._put(b"".join(pieces))
        if data is not None and data.read(1):
            raise _changed(name, "it has more bytes than announced")


_Run = tuple[int, int]
"""Bytes to take from the data, and zeros to write after them."""


def _encode(member: Member) -> tuple[bytes, list[_Run]]:
    """The headers of a member, a sparse map included, and what follows them."""
    _check(member)
    records = {
        pax.SCHILY_XATTR + pax.escape(key.encode("utf-8", "surrogateescape")): value
        for key, value in member.xattrs.items()
    }
    if member.sparse is None:
        header = _header(member, member.size, records)
        runs = [(member.size, 0)] if member.size else []
        return (_extended(records, member.name) if records else b"") + header, runs
    pieces, runs = _sparse_pieces(member)
    text = b"".join(b"%d\n%d\n" % piece for piece in pieces)
    leading = b"%d\n%s" % (len(pieces), text)
    leading += bytes(-len(leading) % BLOCK)
    records[b"GNU.sparse.major"], records[b"GNU.sparse.minor"] = b"1", b"0"
    records[b"GNU.sparse.realsize"] = b"%d" % member.size
    header = _header(member, len(leading) + sum(length for _, length in pieces), records)
    return _extended(records, member.name) + header + leading, runs


def _sparse_pieces(member: Member) -> tuple[list[tuple[int, int]], list[_Run]]:
    """The pieces to write, and what to write into them.

    GNU tar keeps every piece in whole blocks of its own, others keep pieces back to back: so that all read the same,
    every piece is made whole blocks long, with zeros of the hole after it, and joined with the next where that one
    begins too soon. Last comes an empty piece at the end of the file, from which GNU tar learns the size.
    """
    pieces: list[tuple[int, int]] = []
    runs: list[_Run] = []
    start = end = 0
    for offset, length in (*(member.sparse or ()), (member.size, 0)):
        wanted = end + -(end - start) % BLOCK
        if runs:
            runs[-1] = (runs[-1][0], min(wanted, offset) - end)
        if wanted <= offset:
            if runs:
                pieces.append((start, wanted - start))
            start = offset
        end = offset + length
        if length:
            runs.append((length, 0))
    pieces.append((start, end - start))
    return pieces, runs


def _header(member: Member, size: int, records: dict[bytes, bytes]) -> bytes:
    """The ustar header; adds to ``records`` what does not fit."""
    name = member.name
    if member.sparse is not None:
        # Who knows no sparse files shall not take the pieces for the file.
        _add_path(b"GNU.sparse.name", name, records)
        directory, slash, base = name.rpartition(b"/")
        name = directory + slash + b"GNUSparseFile.0/" + base
    split = _split(name) if _is_plain(name) else None
    if split is None:
        if member.sparse is None:
            _add_path(b"path", name, records)
        split = b"", _ascii(name)[:_NAME]
    link = member.linkname if member.type in _LINKS else b""
    if len(link) > _NAME or not _is_plain(link):
        _add_path(b"linkpath", link, records)
        link = _ascii(link)[:_NAME]
    seconds, fraction = divmod(member.mtime, _NS)
    if fraction or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = pax.format_time(member.mtime)
        seconds = max(0, min(seconds, _OCTAL_11))
    uid = _fitting(b"uid", member.uid, _OCTAL_7, records)
    gid = _fitting(b"gid", member.gid, _OCTAL_7, records)
    size = _fitting(b"size", size, _OCTAL_11, records)
    ids = (member.mode, uid, gid)
    return _block(split, ids, size, seconds, b"%d" % member.type, link, (member.major, member.minor))


def _is_plain(name: bytes) -> bool:
    """Whether readers take a name in the header for the same bytes: not if it is UTF-8 beyond ASCII.

    A header says no encoding and most readers let bytes be bytes; a pax record is UTF-8, and some readers (libarchive)
    complain when it is not.
    """
    return name.isascii() or not _is_utf8(name)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _add_path(key: bytes, name: bytes, records: dict[bytes, bytes]) -> None:
    records[key] = name
    if not _is_utf8(name):
        records[b"hdrcharset"] = b"BINARY"


def _fitting(key: bytes, value: int, highest: int, records: dict[bytes, bytes]) -> int:
    if value <= highest:
        return value
    records[key] = b"%d" % value
    return 0


def _extended(records: dict[bytes, bytes], name: bytes) -> bytes:
    body = b"".join(pax.record(key, records[key]) for key in sorted(records))
    base = _ascii(name.rstrip(b"/").rpartition(b"/")[2])
    head = _block((b"", (b"PaxHeaders.0/" + base)[:_NAME]), (0o644, 0, 0), len(body), 0, b"x", b"", (0, 0))
    return head + body + bytes(-len(body) % BLOCK)


def _block(
    name: tuple[bytes, bytes],
    ids: tuple[int, int, int],
    size: int,
    mtime: int,
    flag: bytes,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    mode, uid, gid = (b"%07o" % number for number in ids)
    major, minor = (b"%07o" % number for number in device)
    rest = (b"%011o" % size, b"%011o" % mtime, b"        ", flag, link, _MAGIC, major, minor, name[0])
    block = _HEADER.pack(name[1], mode, uid, gid, *rest)
    # Of ASCII, Adler-32's lower half is the sum of the bytes, plus one (see the reader).
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    return b"%s%06o\0 %s" % (block[:148], total, block[156:])


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """``name`` as the prefix and name of a ustar header; None when it does not fit."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.rfind(b"/", 1, min(_PREFIX + 1, len(name) - 1))
    if cut < 0 or len(name) - cut - 1 > _NAME:
        return None
    return name[:cut], name[cut + 1 :]


def _ascii(name: bytes) -> bytes:
    """What an old reader, which knows no pax, shall see of a name."""
    return bytes(byte for byte in name if byte < 0x80)


def _check(member: Member) -> None:
    kind = member.type
    if not member.name or 0 in member.name or 0 in member.linkname:
        raise _invalid(member, "a name is empty or holds a NUL")
    if kind in _LINKS and not member.linkname:
        raise _invalid(member, "a link to nothing")
    if kind is MemberType.REGULAR and member.name.endswith(b"/"):
        raise _invalid(member, "a file whose name ends in a slash")
    if kind is not MemberType.REGULAR and (member.size or member.sparse is not None):
        raise _invalid(member, "only a regular file has a size")
    if not 0 <= member.mode <= 0o7777 or not 0 <= member.uid <= MAX_ID or not 0 <= member.gid <= MAX_ID:
        raise _invalid(member, "an owner or mode out of range")
    numbers_fit = 0 <= member.major <= _OCTAL_7 and 0 <= member.minor <= _OCTAL_7
    if not numbers_fit or not 0 <= member.size <= MAX_SIZE:
        raise _invalid(member, "a size or device number out of range")
    if not _is_map(member.sparse or (), member.size):
        raise _invalid(member, "its sparse map overlaps or is out of range")
    if any(not key or "\0" in key for key in member.xattrs):
        raise _invalid(member, "the name of an extended attribute is empty or holds a NUL")


def _is_map(pieces: tuple[tuple[int, int], ...], size: int) -> bool:
    end = 0
    for offset, length in pieces:
        if offset < end or length <= 0:
            return False
        end = offset + length
    return end <= size


def _invalid(member: Member, reason: str) -> InvalidInput:
    return InvalidInput(f"cannot be written to a tar: {reason}", code="tar-member", entry=member.name)


def _changed(name: bytes, reason: str) -> FailedPrecondition:
    return FailedPrecondition(f"the file changed while it was read: {reason}", code="file-changed", entry=name)
