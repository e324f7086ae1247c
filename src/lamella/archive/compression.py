"""Compressed streams: what they are (by their first bytes, never by a name), and reading and writing them.

The formats: gzip (RFC 1952, any number of members, zero padding after the last), bzip2, xz (any number of streams,
stream padding) and zstd (RFC 8878, any number of frames, skippable ones too).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from lamella.archive._codecs import Decoder, Encoder, decoder_for, encoder_for
from lamella.errors import Integrity, ResourceExhausted
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits

_INPUT = 256 << 10
"""Compressed bytes asked of the source at a time."""
_FEED = 4 << 10
"""Compressed bytes that a new member gets first: streams of a thousand tiny members are not copied a thousand times."""
_OUTPUT = 256 << 10
"""Uncompressed bytes made at a time."""
_OUTPUT_MAX = 1 << 20
"""The same for those who ask for more, and never more than this: what bounds the memory of a bomb."""
_HEAD = 10
"""Bytes that tell the formats apart."""

_GZIP = b"\x1f\x8b"
_BZIP2 = b"BZh"
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_XZ = b"\xfd7zXZ\x00"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"


class Compression(enum.Enum):
    """How a stream is compressed."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"

    @classmethod
    def detect(cls, head: bytes) -> Compression:
        """What the first bytes of a stream say; ten are enough. What no format claims is NONE.

        Fewer bytes (all that a cut-off stream has) are taken for a format when they begin as it does.
        """
        if head[:2] == _GZIP and head[2:3] in (b"", b"\x08"):
            return cls.GZIP
        if len(head) >= 3 and (_ZSTD.startswith(head[:4]) or _is_skippable(head)):
            return cls.ZSTD
        if len(head) >= 3 and _XZ.startswith(head[:6]):
            return cls.XZ
        if head[:3] == _BZIP2 and _is_bzip2(head[3:]):
            return cls.BZIP2
        return cls.NONE

    @property
    def extension(self) -> str:
        """The extension of a tar compressed so: ``.tar``, ``.tar.gz``, ``.tar.bz2``, ``.tar.xz``, ``.tar.zst``."""
        return _EXTENSIONS[self]


_EXTENSIONS = {
    Compression.NONE: ".tar",
    Compression.GZIP: ".tar.gz",
    Compression.BZIP2: ".tar.bz2",
    Compression.XZ: ".tar.xz",
    Compression.ZSTD: ".tar.zst",
}


def _is_bzip2(rest: bytes) -> bool:
    # "BZh9" alone could be the name of a tar's first entry; the magic of the first block cannot.
    return rest[:1] in b"123456789" and any(magic.startswith(rest[1:7]) for magic in _BZIP2_BLOCKS)


def _is_skippable(head: bytes) -> bool:
    return head[0] & 0xF0 == 0x50 and _ZSTD_SKIPPABLE.startswith(head[1:4])


class DecompressReader:
    """The uncompressed bytes of a compressed source; a ``Reader``.

    ``compression`` is detected from the first bytes unless given. The source may return short reads and is read to
    its end: the last ``read``, the one that returns nothing, vouches that the stream was whole and that nothing came
    after it. Memory is bounded by constants (a zstd window or an xz dictionary of 128 MiB at most).

    ``consumed`` counts compressed bytes taken from the source, ``produced`` uncompressed bytes made of them; both may
    run ahead of what was returned by one buffer.

    Raises Integrity (``compression-truncated``, ``compression-corrupt``, ``compression-trailing``) and
    ResourceExhausted (``compression-bomb`` for a ratio over the limit, ``layer-size``, ``compression-memory``). After
    an error, further reads raise it again.
    """

    def __init__(
        self, source: Reader, *, limits: Limits = DEFAULT_LIMITS, compression: Compression | None = None
    ) -> None:
        self.consumed = 0
        self.produced = 0
        self._source = source
        self._limits = limits
        self._input = b""
        self._at = 0
        self._feed = _FEED
        self._decoder: Decoder | None = None
        self._output = b""
        self._output_at = 0
        self._ended = False
        self._closed = False
        self._error: Integrity | ResourceExhausted | None = None
        self.compression = compression or Compression.detect(self._peek(_HEAD))
        self._corrupt: tuple[type[Exception], ...] = ()
        if self.compression is not Compression.NONE:
            self._decoder, self._corrupt = decoder_for(self.compression.value)

    def __enter__(self) -> DecompressReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source and drop what is buffered."""
        self._decoder = None
        self._input = self._output = b""
        self._closed = True
        self._source.close()

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, possibly fewer; empty only at the end (or for a ``size`` of zero)."""
        if self._closed:
            raise ValueError("read of a closed reader")
        if size <= 0:
            return b""
        at = self._output_at
        if at < len(self._output):
            data = self._output[at : at + size]
            self._output_at = at + len(data)
        elif size >= _OUTPUT:
            return self._produce(min(size, _OUTPUT_MAX))
        else:
            # Small reads are served from one larger piece: a call into a decoder costs as much as a kilobyte of data.
            self._output = self._produce(_OUTPUT)
            data = self._output[:size]
            self._output_at = len(data)
        return data

    def _produce(self, size: int) -> bytes:
        if self._error:
            raise self._error
        try:
            data = self._copy(size) if self.compression is Compression.NONE else self._decode(size)
            self._account(len(data))
        except (Integrity, ResourceExhausted) as error:
            self._error = error
            self._decoder = None  # its window may be the larger part of the process
            raise
        return data

    def _account(self, size: int) -> None:
        self.produced += size
        limits = self._limits
        if self.produced > limits.layer_bytes:
            raise ResourceExhausted(f"more than {limits.layer_bytes} bytes uncompressed", code="layer-size")
        if self.consumed > 2 * limits.layer_bytes + _INPUT:  # members without end that give nothing
            raise ResourceExhausted(f"more than {2 * limits.layer_bytes} bytes compressed", code="layer-size")
        if self.produced > limits.ratio_floor and self.produced > self.consumed * limits.ratio:
            raise ResourceExhausted(
                f"{self.consumed} compressed bytes make more than {limits.ratio} times as many", code="compression-bomb"
            )

    def _copy(self, size: int) -> bytes:
        if self._at < len(self._input) or self._fill():
            data = self._input[self._at : self._at + size]
            self._at += len(data)
            return data
        return b""

    def _decode(self, size: int) -> bytes:
        while not self._ended:
            if self._decoder is None:
                if self._at_end():
                    self._ended = True
                    break
                self._decoder, _ = decoder_for(self.compression.value)
                self._feed = _FEED
            decoder = self._decoder
            piece = self._piece() if decoder.needs_input else b""
            data = self._decompress(decoder, piece, size)
            if decoder.eof:
                self._give_back(decoder.unused_data)
                self._decoder = None
                self._account(0)
            elif not data and not piece and not decoder.needs_input:
                raise Integrity(f"corrupt {self.compression.value} data: it leads nowhere", code="compression-corrupt")
            if data:
                return data
        return b""

    def _decompress(self, decoder: Decoder, piece: bytes, size: int) -> bytes:
        try:
            return decoder.decompress(piece, size)
        except self._corrupt as error:
            if "memory" in str(error).lower():
                raise ResourceExhausted(
                    "decompressing would take too much memory (a window over 128 MiB)", code="compression-memory"
                ) from error
            raise Integrity(f"corrupt {self.compression.value} data: {error}", code="compression-corrupt") from error

    def _piece(self) -> bytes:
        if self._at >= len(self._input) and not self._fill():
            raise Integrity(f"the {self.compression.value} stream ends too early", code="compression-truncated")
        piece = self._input[self._at : self._at + self._feed]
        self._at += len(piece)
        self._feed = min(self._feed * 4, _INPUT)
        return piece

    def _give_back(self, unused: bytes) -> None:
        if len(unused) <= self._at:
            self._at -= len(unused)
        else:  # bytes of a piece before this one, which the decoder had kept
            self._input = unused + self._input[self._at :]
            self._at = 0

    def _at_end(self) -> bool:
        """After a member: skip the padding that its format allows, and tell whether another member follows."""
        padding = 0
        while head := self._peek(4):
            if head[0] or self.compression not in (Compression.GZIP, Compression.XZ):
                break
            rest = self._input[self._at :]
            zeros = len(rest) - len(rest.lstrip(b"\0"))
            self._at += zeros
            padding += zeros
        if padding and self.compression is Compression.XZ and padding % 4:
            raise Integrity("xz stream padding is not a multiple of four bytes", code="compression-corrupt")
        if not head:
            return True
        if self._begins_member(head) and not (padding and self.compression is Compression.GZIP):
            return False
        raise Integrity(f"the {self.compression.value} stream is followed by other bytes", code="compression-trailing")

    def _begins_member(self, head: bytes) -> bool:
        match self.compression:
            case Compression.GZIP:
                return head[:2] == _GZIP
            case Compression.BZIP2:
                return head[:3] == _BZIP2
            case Compression.XZ:
                return head == _XZ[:4]
            case _:
                return head == _ZSTD or (len(head) == 4 and _is_skippable(head))

    def _peek(self, size: int) -> bytes:
        """The next bytes of the source, fewer only at its end; they stay where they are."""
        while len(self._input) - self._at < size:
            more = self._source.read(_INPUT)
            if not more:
                break
            self.consumed += len(more)
            self._input = self._input[self._at :] + more
            self._at = 0
        return self._input[self._at : self._at + size]

    def _fill(self) -> bool:
        self._input = self._source.read(_INPUT)
        self._at = 0
        self.consumed += len(self._input)
        return bool(self._input)


class CompressWriter:
    """Compresses what is written and hands it to ``sink``, a function that takes bytes.

    The bytes are a function of the input, the compression, the level and the versions of Lamella and of the
    compression library: nothing depends on time, names, load, or how the input was cut into writes. Two things do on
    the machine: gzip levels 1 and 2 give other bytes on aarch64 than on x86-64, and those above come from the zlib
    that Python was built with.

    Levels are those of each tool: gzip 1 to 9 (default 2), bzip2 1 to 9 (9), xz 0 to 9 (6), zstd 1 to 22 (3). gzip
    levels 1 and 2 are ISA-L's: fifteen times as fast as zlib's 6, for layers about an eighth larger; 3 to 9 are
    zlib's. Raises InvalidInput (``compression-level``) for any other. Memory is bounded by constants.
    """

    def __init__(self, sink: Callable[[bytes], object], compression: Compression, *, level: int | None = None) -> None:
        self.compression = compression
        self._sink = sink
        self._encoder: Encoder | None = None
        self._pending: list[bytes] = []
        self._size = 0
        self._closed = False
        if compression is not Compression.NONE:
            self._encoder = encoder_for(compression.value, level)

    def __enter__(self) -> CompressWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()

    def write(self, data: bytes, /) -> int:
        """Take all of ``data``; returns its length. The sink sees it some time before ``close`` returns."""
        if self._encoder is None:
            if data:
                self._sink(data)
            return len(data)
        self._pending.append(bytes(data))  # a copy only of what could still change
        self._size += len(data)
        if self._size >= _OUTPUT:
            self._drain()
        return len(data)

    def close(self) -> None:
        """Write the end of the stream. The sink stays open. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._encoder is not None:
            self._drain(whole=True)
            if tail := self._encoder.flush():
                self._sink(tail)
            self._encoder = None

    def _drain(self, *, whole: bool = False) -> None:
        # Encoders may cut blocks where a call ends, so they always get pieces of one size: same input, same bytes.
        data = memoryview(b"".join(self._pending))
        end = len(data) if whole else len(data) - len(data) % _OUTPUT
        encoder = self._encoder
        assert encoder is not None
        for start in range(0, end, _OUTPUT):
            if out := encoder.compress(data[start : min(start + _OUTPUT, end)]):
                self._sink(out)
        rest = bytes(data[end:])
        self._pending = [rest] if rest else []
        self._size = len(rest)
