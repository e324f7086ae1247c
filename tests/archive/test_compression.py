"""Compressed streams: what other tools write is read, what is written other tools read, what is broken says so."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import sys
import textwrap
import zlib

import pytest

from lamella.archive.compression import Compression, CompressWriter, DecompressReader
from lamella.errors import Integrity, InvalidInput, ResourceExhausted
from lamella.spec.limits import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKED = [Compression.GZIP, Compression.BZIP2, Compression.XZ, Compression.ZSTD]
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"notes"


class Steps:
    """A source that returns at most ``step`` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._stream = io.BytesIO(data)
        self._step = step
        self.closed = False

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._step))

    def close(self) -> None:
        self.closed = True


def mixed(size: int, seed: int = 1) -> bytes:
    """Bytes that compress, but not too well."""
    generator = random.Random(seed)
    words = [generator.randbytes(generator.randrange(2, 40)) for _ in range(300)]
    return b"".join(generator.choices(words, k=size // 20 + 1))[:size]


def pack(data: bytes, compression: Compression, level: int | None = None, step: int = 0) -> bytes:
    out = bytearray()
    with CompressWriter(out.extend, compression, level=level) as writer:
        for start in range(0, len(data), step or len(data) or 1):
            writer.write(data[start : start + step] if step else data)
    return bytes(out)


def unpack(data: bytes, compression: Compression | None = None, *, step: int = 1 << 20, size: int = 1 << 16) -> bytes:
    reader = DecompressReader(Steps(data, step), compression=compression)
    out = bytearray()
    while piece := reader.read(size):
        assert len(piece) <= size
        out += piece
    assert reader.read(size) == b""
    assert reader.consumed == len(data)
    assert reader.produced == len(out)
    return bytes(out)


def tool(*command: str, data: bytes) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def by_library(data: bytes, compression: Compression) -> bytes:
    match compression:
        case Compression.GZIP:
            return gzip.compress(data, 6)
        case Compression.BZIP2:
            return bz2.compress(data)
        case Compression.XZ:
            return lzma.compress(data)
        case _:
            return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("size", [0, 1, 511, 70_000, 600_001])
def test_what_is_written_is_read_back(compression, size):
    data = mixed(size)
    packed = pack(data, compression, step=50_000)
    assert Compression.detect(packed[:10]) is compression
    assert unpack(packed) == data
    assert unpack(packed, size=1000) == data
    assert unpack(packed, size=1 << 20) == data


@pytest.mark.parametrize("compression", list(Compression))
def test_sources_that_return_one_byte_at_a_time(compression):
    data = mixed(3000)
    assert unpack(pack(data, compression), step=1) == data
    assert unpack(pack(data, compression), step=1, size=1) == data


@pytest.mark.parametrize(
    "command",
    [
        ("gzip", "-1"),
        ("gzip", "-9n"),
        ("bzip2", "-1"),
        ("xz", "-0"),
        ("xz", "-9"),
        ("xz", "--check=none"),
        ("xz", "--check=crc32"),
        ("xz", "--check=sha256"),
        ("xz", "--block-size=10000"),
        ("xz", "--x86", "--lzma2"),
        ("xz", "--delta=dist=4", "--lzma2"),
        ("zstd", "-1"),
        ("zstd", "-19"),
        ("zstd", "--ultra", "-22"),
        ("zstd", "--no-check"),
        ("zstd", "--long=27"),
    ],
    ids=" ".join,
)
def test_what_the_tools_write_is_read(command):
    data = mixed(400_000)
    assert unpack(tool(*command, "-c", data=data)) == data


@pytest.mark.parametrize(
    ("compression", "command"),
    [(Compression.GZIP, "gzip"), (Compression.BZIP2, "bzip2"), (Compression.XZ, "xz"), (Compression.ZSTD, "zstd")],
)
@pytest.mark.parametrize("size", [0, 700_000])
def test_what_is_written_the_tools_read(compression, command, size):
    data = mixed(size)
    packed = pack(data, compression)
    assert tool(command, "-dc", data=packed) == data
    assert tool(command, "-tq", data=packed) == b""


@pytest.mark.parametrize("level", range(1, 10))
def test_gzip_levels_are_read_by_others(level):
    data = mixed(600_000)
    packed = pack(data, Compression.GZIP, level)
    assert gzip.decompress(packed) == data
    assert zlib.decompress(packed, 31) == data


@pytest.mark.parametrize("compression", PACKED)
def test_several_members_are_one_stream(compression):
    one, two = mixed(5000, 1), mixed(70_000, 2)
    members = by_library(one, compression) + pack(two, compression) + by_library(b"", compression)
    for step in (1 << 20, 1):
        assert unpack(members, step=step) == one + two


@pytest.mark.parametrize("compression", PACKED)
def test_thousands_of_tiny_members(compression):
    count = 300 if compression is Compression.XZ else 20_000
    members = by_library(b"x", compression) * count
    assert unpack(members) == b"x" * count


@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_gzip_header_fields_are_passed_over_wherever_they_are_cut(flags):
    payload = b"payload" * 3
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\1\2\3\4" + b"\2\3"
    head += struct.pack("<H", 5) + b"extra" if flags & 4 else b""
    head += b"name\0" if flags & 8 else b""
    head += b"comment\0" if flags & 16 else b""
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if flags & 2 else b""
    body = zlib.compress(payload, wbits=-15) + struct.pack("<II", zlib.crc32(payload), len(payload))
    for step in range(1, len(head) + 2):
        assert unpack((head + body) * 3, step=step) == payload * 3
    for cut in range(len(head)):
        with pytest.raises(Integrity) as caught:
            unpack(head[:cut], Compression.GZIP)
        assert caught.value.code == "compression-truncated"
    if flags & 2:
        with pytest.raises(Integrity) as caught:
            unpack(head[:-1] + bytes([head[-1] ^ 1]) + body)
        assert caught.value.code == "compression-corrupt"


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\x20" + bytes(6), b"\x1f\x8b\x08\x08" + b"n" * 600_000])
def test_gzip_headers_that_are_none(head):
    with pytest.raises(Integrity) as caught:
        unpack(head + zlib.compress(b"payload", wbits=-15))
    assert caught.value.code == "compression-corrupt"


def test_zstd_skippable_frames_hold_nothing():
    frame = by_library(b"payload", Compression.ZSTD)
    for data in (SKIPPABLE + frame, frame + SKIPPABLE, SKIPPABLE + frame + SKIPPABLE + frame):
        for step in (1 << 20, 1):
            assert unpack(data, step=step) == b"payload" * data.count(frame)
    assert unpack(SKIPPABLE) == b""


def test_padding_after_the_last_member():
    assert unpack(by_library(b"abc", Compression.GZIP) + bytes(10_001)) == b"abc"
    assert unpack(by_library(b"abc", Compression.GZIP) + bytes(10_001), step=1) == b"abc"
    stream = by_library(b"abc", Compression.XZ)
    assert unpack(stream + bytes(8)) == b"abc"
    assert unpack(stream + bytes(8) + stream, step=3) == b"abcabc"
    with pytest.raises(Integrity) as caught:
        unpack(stream + bytes(7))
    assert caught.value.code == "compression-corrupt"
    for compression in (Compression.BZIP2, Compression.ZSTD):
        with pytest.raises(Integrity) as caught:
            unpack(by_library(b"abc", compression) + bytes(4))
        assert caught.value.code == "compression-trailing"


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("garbage", [b"x", b"garbage", b"\x1f", b"\x1e\x8b\x08", b"\0\0\0\0garbage", b"PK\3\4" * 9])
def test_other_bytes_after_the_end(compression, garbage):
    for step in (1 << 20, 1):
        reader = DecompressReader(Steps(by_library(b"abc", compression) + garbage, step))
        out = b""
        with pytest.raises(Integrity) as caught:
            while piece := reader.read(100):
                out += piece
        assert caught.value.code == "compression-trailing"
        assert out in (b"", b"abc")


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("size", [0, 1, 900])
def test_a_stream_cut_off_anywhere(compression, size):
    data = mixed(size)
    for packed in (by_library(data, compression), pack(data, compression)):
        for cut in range(len(packed)):
            for step in (1 << 20, 1):
                reader = DecompressReader(Steps(packed[:cut], step), compression=compression)
                out = b""
                with pytest.raises(Integrity) as caught:
                    while piece := reader.read(100):
                        out += piece
                assert caught.value.code == "compression-truncated"
                assert data.startswith(out)
                with pytest.raises(Integrity):
                    reader.read(1)


@pytest.mark.parametrize("compression", PACKED)
def test_a_second_member_cut_off_anywhere(compression):
    first, second = by_library(b"one", compression), by_library(b"two" * 50, compression)
    for cut in range(1, len(second)):
        with pytest.raises(Integrity) as caught:
            unpack(first + second[:cut])
        assert caught.value.code in ("compression-truncated", "compression-trailing")


@pytest.mark.parametrize("compression", PACKED)
def test_no_flipped_bit_goes_unnoticed(compression):
    data = mixed(400)
    packed = by_library(data, compression)
    for position in range(len(packed)):
        for bit in range(8):
            broken = bytearray(packed)
            broken[position] ^= 1 << bit
            out = b""
            with contextlib.suppress(Integrity, ResourceExhausted):
                out = unpack(bytes(broken), compression)
            assert out in (b"", data), f"bit {bit} of byte {position}"


def test_tar_names_are_not_taken_for_magic():
    assert Compression.detect(b"BZh9-backup/file") is Compression.NONE
    assert Compression.detect(b"BZhang/.........") is Compression.NONE
    assert Compression.detect(b"PS*M not a frame") is Compression.NONE
    assert Compression.detect(b"") is Compression.NONE
    assert Compression.detect(b"\x1f\x8b\x00") is Compression.NONE
    assert unpack(b"BZh9-backup" + bytes(600)) == b"BZh9-backup" + bytes(600)


@pytest.mark.parametrize("compression", PACKED)
def test_the_magic_decides(compression):
    assert Compression.detect(by_library(b"data", compression)[:10]) is compression
    assert Compression.detect(by_library(b"", compression)[:10]) is compression
    assert Compression.detect(by_library(b"data", compression)[:4]) is compression


def test_extensions():
    assert [c.extension for c in Compression] == [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"]


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.BZIP2, Compression.ZSTD])
def test_a_bomb_stops_at_the_ratio(compression):
    bomb = pack(bytes(8 << 20), compression, 9)
    reader = DecompressReader(Steps(bomb, 512), limits=Limits(ratio=100, ratio_floor=1 << 20))
    with pytest.raises(ResourceExhausted) as caught:
        while reader.read(1 << 16):
            pass
    assert caught.value.code == "compression-bomb"
    assert reader.produced <= (1 << 20) + max(reader.consumed * 100, 1 << 18) + (1 << 18)


@pytest.mark.parametrize("compression", list(Compression))
def test_a_layer_may_not_be_larger_than_the_limit(compression):
    packed = pack(mixed(50_000), compression)
    assert len(drain(packed, Limits(layer_bytes=50_000))) == 50_000
    with pytest.raises(ResourceExhausted) as caught:
        drain(packed, Limits(layer_bytes=49_999))
    assert caught.value.code == "layer-size"


def drain(data: bytes, limits: Limits) -> bytes:
    reader = DecompressReader(Steps(data, 1 << 20), limits=limits)
    out = bytearray()
    while piece := reader.read(777):
        out += piece
    return bytes(out)


def test_windows_that_would_fill_the_memory_are_refused():
    # A frame header that asks for a window of 2 GiB (exponent 21 of RFC 8878, 3.1.1.1.2), with one empty block.
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x01\x00\x00"
    with pytest.raises(ResourceExhausted) as caught:
        unpack(frame)
    assert caught.value.code == "compression-memory"
    stream = bytearray(lzma.compress(b"abc", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    # The dictionary size is the last byte of the filter flags in the block header; its CRC-32 follows the padding.
    header = 12
    size = (stream[header] + 1) * 4
    assert stream[header + 2 : header + 4] == b"\x21\x01"
    stream[header + 4] = 34
    stream[header + size - 4 : header + size] = struct.pack("<I", zlib.crc32(stream[header : header + size - 4]))
    with pytest.raises(ResourceExhausted) as caught:
        unpack(bytes(stream))
    assert caught.value.code == "compression-memory"


BOMB = """
    import resource, sys
    from lamella.archive.compression import Compression, CompressWriter, DecompressReader
    from lamella.spec.limits import Limits

    compression = Compression(sys.argv[1])
    pieces = []
    with CompressWriter(lambda data: pieces.append(bytes(data)), compression, level=9) as writer:
        for _ in range(256):
            writer.write(bytes(1 << 20))

    class Source:
        def read(self, size, /):
            return pieces.pop(0) if pieces else b""
        def close(self):
            pass

    reader = DecompressReader(Source(), limits=Limits(ratio=1 << 40))
    reader.read(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 1
    while data := reader.read(1 << 30):
        total += len(data)
        assert len(data) <= 1 << 20
    assert total == 256 << 20, total
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
def test_a_bomb_takes_no_memory(compression):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BOMB), compression], stdout=subprocess.PIPE, check=True, text=True
    )
    assert int(done.stdout) < 24 << 10, "kilobytes beyond what the first byte took"


@pytest.mark.parametrize("compression", list(Compression))
def test_the_bytes_do_not_depend_on_how_they_were_written(compression):
    data = mixed(900_000)
    whole = pack(data, compression)
    assert pack(data, compression, step=100_000) == whole
    assert pack(data, compression, step=4_097) == whole
    out = bytearray()
    with CompressWriter(out.extend, compression) as writer:
        writer.write(b"")
        writer.write(data[:1])
        writer.write(data[1:700_000])
        writer.write(data[700_000:])
    assert out == whole


def test_a_gzip_header_tells_nothing():
    for level in (None, 1, 6, 9):
        assert pack(b"data", Compression.GZIP, level)[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


@pytest.mark.parametrize(
    ("compression", "level"),
    [
        (Compression.GZIP, 0),
        (Compression.GZIP, 10),
        (Compression.BZIP2, 0),
        (Compression.XZ, -1),
        (Compression.ZSTD, 23),
    ],
)
def test_levels_that_do_not_exist(compression, level):
    with pytest.raises(InvalidInput) as caught:
        CompressWriter(bytearray().extend, compression, level=level)
    assert caught.value.code == "compression-level"


def test_closing():
    source = Steps(by_library(b"abc", Compression.GZIP), 1)
    with DecompressReader(source) as reader:
        assert reader.read(1) == b"a"
    assert source.closed
    with pytest.raises(ValueError, match="closed"):
        reader.read(1)
    out: list[bytes] = []
    writer = CompressWriter(out.append, Compression.ZSTD)
    writer.close()
    writer.close()
    assert zstd.decompress(b"".join(out)) == b""


def test_a_writer_left_by_an_error_does_not_end_its_stream():
    out = bytearray()
    with pytest.raises(RuntimeError), CompressWriter(out.extend, Compression.GZIP) as writer:
        writer.write(mixed(1 << 20))
        raise RuntimeError
    with pytest.raises(Integrity):
        unpack(bytes(out), Compression.GZIP)
