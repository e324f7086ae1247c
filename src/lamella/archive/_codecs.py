"""One decoder and one encoder interface over the compression libraries, each imported only when it is used."""

from __future__ import annotations

import sys
import zlib
from typing import Any, Protocol

from lamella.errors import InvalidInput

MEMORY = 128 << 20
"""The largest window (zstd) or decoder (xz) in bytes: room for ``zstd --ultra -22``, ``zstd --long=27``, ``xz -9``."""
_WINDOW_LOG = 27


class Decoder(Protocol):
    """One member, stream or frame, as ``bz2.BZ2Decompressor`` describes it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Encoder(Protocol):
    """One whole stream."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def decoder_for(compression: str) -> tuple[Decoder, tuple[type[Exception], ...]]:
    """A decoder of one member, not begun yet, and what its ``decompress`` raises when the data is corrupt."""
    match compression:
        case "gzip":
            from isal import igzip_lib

            error: Any = igzip_lib.IsalError  # its stub calls the class an instance
            inflate = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP_NO_HDR_VER)
            return _GzipDecoder(inflate), (error, _BadGzipHeader)
        case "bzip2":
            import bz2

            return bz2.BZ2Decompressor(), (OSError,)
        case "xz":
            import lzma

            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY), (lzma.LZMAError,)
        case "zstd":
            zstd = _zstd()
            options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
            return zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)
        case _:
            raise ValueError(compression)


class _BadGzipHeader(Exception):
    """The header of a gzip member breaks RFC 1952."""


class _GzipDecoder:
    """One gzip member: its header is read here, the rest, trailer included, by ISA-L.

    ISA-L 2.32.1 loses its place in a header of several optional fields that arrives in more than one piece.
    """

    _EXTRA, _NAME, _COMMENT, _CHECK, _RESERVED = 0x04, 0x08, 0x10, 0x02, 0xE0
    _LONGEST = 256 << 10

    def __init__(self, inflate: Decoder) -> None:
        self._inflate = inflate
        self._head: bytes | None = b""
        """What has arrived of the header; None once it is complete."""

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return self._inflate.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._head is not None:
            self._head += data
            length = self._header_length(self._head)
            if not length:
                return b""
            data, self._head = self._head[length:], None
        return self._inflate.decompress(data, max_length)

    def _header_length(self, head: bytes) -> int:
        """The length of the header that ``head`` begins with, or 0 while it is not all there."""
        flags = head[3] if len(head) > 3 else 0
        if not b"\x1f\x8b\x08".startswith(head[:3]) or flags & self._RESERVED:
            raise _BadGzipHeader("a header that is not one of gzip")
        if len(head) > self._LONGEST:
            raise _BadGzipHeader("a header without an end")
        at = 10
        if flags & self._EXTRA:
            at += 2 + int.from_bytes(head[at : at + 2], "little")
        for flag in (self._NAME, self._COMMENT):
            if flags & flag:
                at = head.find(b"\0", at) + 1
                if not at:
                    return 0
        if flags & self._CHECK:
            at += 2
            if len(head) >= at and zlib.crc32(head[: at - 2]) & 0xFFFF != int.from_bytes(head[at - 2 : at], "little"):
                raise _BadGzipHeader("a wrong header checksum")
        return at if len(head) >= max(at, 10) else 0


LEVELS = {"gzip": (1, 9, 2), "bzip2": (1, 9, 9), "xz": (0, 9, 6), "zstd": (1, 22, 3)}
_ISAL_LEVELS = 2
"""gzip levels up to this one are ISA-L's, those above zlib's.

ISA-L's level 3 is left out: it gives other bytes with AVX-512 than with AVX2. Levels 1 and 2 give the same on every
x86-64 with SSE 4.2, and others on aarch64 (measured with 2.32.1).
"""
_ISAL_MEM_LEVEL = 4
"""ISA-L's "medium" buffer: measured as the smallest output at full speed."""


def library_of(compression: str, level: int) -> str:
    """The library that ``encoder_for`` takes, with its version, and the machine where that matters to the bytes."""
    match compression:
        case "gzip" if level <= _ISAL_LEVELS:
            import os

            import isal

            return f"isal {isal.ISAL_VERSION} {os.uname().machine}"
        case "gzip":
            return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
        case "zstd":
            return f"zstd {_zstd().zstd_version}"
        case _:
            return f"python {sys.version_info.major}.{sys.version_info.minor}"


def encoder_for(compression: str, level: int | None) -> Encoder:
    """An encoder of one stream. Raises InvalidInput when the level is none of the format's."""
    lowest, highest, default = LEVELS[compression]
    if level is None:
        level = default
    if not lowest <= level <= highest:
        raise InvalidInput(f"{compression} has no level {level}, only {lowest} to {highest}", code="compression-level")
    match compression:
        case "gzip":
            return _GzipEncoder(level)
        case "bzip2":
            import bz2

            return bz2.BZ2Compressor(level)
        case "xz":
            import lzma

            return lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=level)
        case _:
            zstd = _zstd()
            parameter = zstd.CompressionParameter
            encoder: Encoder = zstd.ZstdCompressor(
                options={parameter.compression_level: level, parameter.checksum_flag: 1}
            )
            return encoder


GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""What each gzip stream that is written here begins with."""


class _GzipEncoder:
    """One gzip member with our own header: no name, no time, operating system "unknown" (RFC 1952, 2.3.1)."""

    def __init__(self, level: int) -> None:
        from isal import isal_zlib

        self._crc32 = isal_zlib.crc32
        self._deflate: Encoder
        if level <= _ISAL_LEVELS:
            self._deflate = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15, _ISAL_MEM_LEVEL)
        else:
            self._deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
        self._head = GZIP_HEADER
        self._crc = 0
        self._size = 0

    def compress(self, data: bytes | memoryview, /) -> bytes:
        self._crc = self._crc32(data, self._crc)
        self._size += len(data)
        head, self._head = self._head, b""
        return head + self._deflate.compress(data)

    def flush(self) -> bytes:
        trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        head, self._head = self._head, b""
        return head + self._deflate.flush() + trailer
