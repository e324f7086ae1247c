"""What the tests of tar archives share: building odd archives block by block, and reading them whole."""

from __future__ import annotations

import io

from lamella.archive.tar import Member, TarScanner
from lamella.spec.limits import DEFAULT_LIMITS, Limits

END = bytes(1024)


def scan(data: bytes, *, limits: Limits = DEFAULT_LIMITS, step: int = 0) -> list[Member]:
    """All members; with ``step``, from a source that never returns more bytes than that at a time."""
    stream = io.BytesIO(data)
    return list(TarScanner(lambda size: stream.read(min(size, step) if step else size), limits=limits))


def content(archive: bytes, member: Member) -> bytes:
    """The logical bytes of a member, holes filled in."""
    stored = archive[member.data_offset : member.data_offset + member.stored_size]
    if member.sparse is None:
        return stored
    out = bytearray(member.size)
    at = 0
    for offset, length in member.sparse:
        out[offset : offset + length] = stored[at : at + length]
        at += length
    assert at == len(stored)
    return bytes(out)


def header(
    name: bytes = b"file",
    flag: bytes = b"0",
    *,
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    gid: bytes = b"0000000\0",
    size: int | bytes = 0,
    mtime: bytes = b"00000000000\0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    devices: bytes = b"",
    tail: bytes = b"",
    signed: bool = False,
) -> bytes:
    """One header block with a correct checksum; ``tail`` begins where ustar has its prefix (byte 345)."""
    size_field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = name.ljust(100, b"\0") + mode + uid + gid + size_field + mtime + b" " * 8 + flag + link.ljust(100, b"\0")
    block += magic.ljust(8, b"\0") + bytes(64) + devices.ljust(16, b"\0") + tail.ljust(167, b"\0")
    assert len(block) == 512
    return with_checksum(block, signed=signed)


def with_checksum(block: bytes, *, signed: bool = False) -> bytes:
    block = block[:148] + b" " * 8 + block[156:]
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    return block[:148] + b"%06o\0 " % total + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    for digits in range(1, 8):
        length = digits + len(key) + len(value) + 3
        if len(str(length)) == digits:
            return b"%d %s=%s\n" % (length, key, value)
    raise AssertionError


def extended(*pairs: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    """A pax extended header with these records."""
    return extended_raw(b"".join(record(key, value) for key, value in pairs), flag=flag)


def extended_raw(body: bytes, *, flag: bytes = b"x") -> bytes:
    return header(b"PaxHeaders/x", flag, size=len(body)) + padded(body)
