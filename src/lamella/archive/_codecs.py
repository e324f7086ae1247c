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


def decoder_for(compression: str) -> tuple[Decoder, type[Exception]]:
    """A decoder of one member, not begun yet, and what its ``decompress`` raises when the data is corrupt."""
    match compression:
        case "gzip":
            from isal import igzip_lib

            error: Any = igzip_lib.IsalError  # its stub calls the class an instance
            return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), error
        case "bzip2":
            import bz2

            return bz2.BZ2Decompressor(), OSError
        case "xz":
            import lzma

            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY), lzma.LZMAError
        case "zstd":
            zstd = _zstd()
            options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
            return zstd.ZstdDecompressor(options=options), zstd.ZstdError
        case _:
            raise ValueError(compression)


_LEVELS = {"gzip": (1, 9, 2), "bzip2": (1, 9, 9), "xz": (0, 9, 6), "zstd": (1, 22, 3)}
_ISAL_LEVELS = 3
"""gzip levels up to this one are ISA-L's, those above zlib's."""
_ISAL_MEM_LEVEL = 4
"""ISA-L's "medium" buffer: measured as the smallest output at full speed."""


def encoder_for(compression: str, level: int | None) -> Encoder:
    """An encoder of one stream. Raises InvalidInput when the level is none of the format's."""
    lowest, highest, default = _LEVELS[compression]
    if level is None:
        level = default
    if not lowest <= level <= highest:
        raise InvalidInput(
            f"{compression} has no level {level}, only {lowest} to {highest}", code="compression-level"
        )
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


class _GzipEncoder:
    """One gzip member with our own header: no name, no time, operating system "unknown" (RFC 1952, 2.3.1)."""

    _HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

    def __init__(self, level: int) -> None:
        from isal import isal_zlib

        self._crc32 = isal_zlib.crc32
        self._deflate: Encoder
        if level <= _ISAL_LEVELS:
            self._deflate = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15, _ISAL_MEM_LEVEL)
        else:
            self._deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
        self._head = self._HEADER
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
