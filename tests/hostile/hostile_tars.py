"""The archive itself: cut off, lengthened, with numbers that lie; sparse maps; compression that lies or explodes."""

from __future__ import annotations

import bz2
import lzma
import sys

from build import (
    BLOCK,
    END,
    base256,
    directory,
    file,
    gnu_long,
    gz,
    header,
    layout,
    padded,
    pax,
    pax_raw,
    symlink,
    tar,
)
from hostile_case import (
    Holds,
    Place,
    Refused,
    Stream,
    Table,
    a_directory,
    a_file,
    a_link,
    layers,
    members,
)

from lamella import Limits
from lamella.errors import Integrity, InvalidInput, ResourceExhausted, Unsupported

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TABLE = Table()

# -- cut off, at every kind of boundary

_LONG = b"long/" + b"n" * 150
_WHOLE = tar(directory(b"d"), file(b"d/f", b"x" * 700), file(_LONG, b"y"), pax((b"uid", b"7")), file(b"g", b"z" * 10))
_CUTS = {
    "in the first header": (100, b""),
    "in the second header": (BLOCK + 511, b"d"),
    "after a header that promises data": (2 * BLOCK, b"d/f"),
    "in the data": (2 * BLOCK + 300, b"d/f"),
    "in the data, at a block": (3 * BLOCK, b"d/f"),
    "in the padding of the data": (2 * BLOCK + 800, b"d/f"),
    "after the header of a long name": (5 * BLOCK, b"././@LongLink"),
    "in a long name": (5 * BLOCK + 100, b"././@LongLink"),
    "after a long name": (6 * BLOCK, b"././@LongLink"),
    "after the header of pax records": (9 * BLOCK, b"PaxHeaders/x"),
    "in pax records": (9 * BLOCK + 5, b"PaxHeaders/x"),
    "after pax records": (10 * BLOCK, b"PaxHeaders/x"),
}
for _title, (_length, _entry) in _CUTS.items():
    TABLE.add(
        f"cut off {_title}",
        layers(_WHOLE[:_length]),
        Refused(Integrity, "tar-truncated", _entry or None),
    )
TABLE.add(
    "without an end marker",
    layers(tar(file(b"f", b"1"), end=b"")),
    Holds({b"f": a_file(b"1")}),
)
TABLE.add("with half an end marker", layers(tar(file(b"f"), end=bytes(BLOCK))), Holds({b"f": a_file()}))
TABLE.add(
    "with half an end marker and then more",
    layers(tar(file(b"f"), bytes(BLOCK), file(b"g"))),
    Refused(Integrity, "tar-header", b"f"),
)
TABLE.add("nothing but an end marker", layers(END), Holds({}))
TABLE.add("nothing at all", Stream(b""), Refused(InvalidInput, "import-empty"))
TABLE.add("no archive", Stream(b"#!/bin/sh\nexit 1\n" * 100), Refused(Integrity, "tar-checksum"))
TABLE.add("less than a block of something", Stream(b"hello"), Refused(Integrity, "tar-truncated"))

# -- lengthened

TABLE.add(
    "two archives one after the other",
    layers(tar(file(b"f", b"1")) + tar(file(b"f", b"2"), file(b"../evil"))),
    Holds({b"f": a_file(b"1")}, notes=("behind the end",)),
)
TABLE.add(
    "garbage behind the end",
    layers(tar(file(b"f", b"1")) + b"garbage" * 1000),
    Holds({b"f": a_file(b"1")}, notes=("behind the end",)),
)
TABLE.add("a megabyte of zeros behind the end", layers(tar(file(b"f")) + bytes(1 << 20)), Holds({b"f": a_file()}))

# -- headers

TABLE.add(
    "a wrong checksum in the first header",
    members(file(b"f", checksum=b"000001\0 ")),
    Refused(Integrity, "tar-checksum"),
)
TABLE.add(
    "a wrong checksum in the second header",
    members(file(b"f"), file(b"g", checksum=b"077777\0 ")),
    Refused(Integrity, "tar-checksum"),
)
TABLE.add("a checksum of no digits", members(file(b"f", checksum=b"????????")), Refused(Integrity, "tar-checksum"))
TABLE.add(
    "data that is a header, where the size is a lie",
    members(file(b"f", header(b"../evil") + header(b"g"), size=0)),
    Refused(InvalidInput, "entry-name-escapes", b"../evil"),
)
for _title, _size in {
    "negative": base256(-1),
    "the most negative": base256(-(1 << 63)),
    "of 2**70": b"\x80" + (1 << 70).to_bytes(11, "big"),
    "of no digits": b"size unknown",
    "of octal and more": b"0000000001x\0",
}.items():
    TABLE.add(f"a size {_title}", members(file(b"f", b"x", size=_size)), Refused(Integrity, "tar-header", b"f"))
for _title, _size in {"of 8 gigabytes": b"77777777777\0", "of 8 exabytes": base256((1 << 63) - 1)}.items():
    TABLE.add(
        f"a size {_title} in an archive of 2 kilobytes",
        members(file(b"f", b"x", size=_size)),
        Refused(Integrity, "tar-truncated", b"f"),
    )
TABLE.add("an owner that is negative", members(file(b"f", uid=base256(-1, 8))), Refused(Integrity, "tar-header", b"f"))
TABLE.add(
    "an owner of 2**32 - 1, which means none",
    members(file(b"f", gid=base256((1 << 32) - 1, 8))),
    Refused(Integrity, "tar-header", b"f"),
)
TABLE.add(
    "the largest owner", members(file(b"f", uid=base256((1 << 32) - 2, 8))), Holds({b"f": a_file(uid=(1 << 32) - 2)})
)
TABLE.add("a mode of all bits", members(file(b"f", mode=b"7777777\0")), Holds({b"f": a_file(mode=0o7777)}))
TABLE.add("a mode of file type bits", members(file(b"f", mode=b"0120755\0")), Holds({b"f": a_file(mode=0o755)}))
TABLE.add("a member of an unknown type", members(header(b"f", b"Z")), Refused(Unsupported, "tar-type", b"f"))
TABLE.add("a member of a part of a file", members(header(b"f", b"M")), Refused(Unsupported, "tar-type", b"f"))
TABLE.add("a name for a volume", members(header(b"my volume", b"V"), file(b"f")), Holds({b"f": a_file()}))
TABLE.add("a contiguous file", members(header(b"f", b"7", size=1) + padded(b"x")), Holds({b"f": a_file(b"x")}))
TABLE.add(
    "a dump directory with data",
    members(header(b"d", b"D", mode=0o755, size=6) + padded(b"Yfile\0"), file(b"f")),
    Holds({b"d": a_directory(), b"f": a_file()}),
)
TABLE.add(
    "a link with data",
    members(symlink(b"l", b"f", size=512), file(b"f")),
    Holds({b"l": a_link(b"f"), b"f": a_file()}),
)
TABLE.add(
    "a directory with data",
    members(directory(b"d", size=512), file(b"f")),
    Holds({b"d": a_directory(), b"f": a_file()}),
)
TABLE.add(
    "a file a thousand times, the last one counts",
    members(*(file(b"f", b"%d" % i) for i in range(1000))),
    Holds({b"f": a_file(b"999")}),
)
TABLE.add(
    "a directory twice, the last one counts and what is in it stays",
    members(directory(b"d", mode=0o700), file(b"d/f"), directory(b"d", mode=0o711)),
    Holds({b"d": a_directory(0o711), b"d/f": a_file()}),
)
TABLE.add(
    "more entries than the limit given",
    members(*(file(b"f%d" % i) for i in range(11)), limits=Limits(layer_entries=10)),
    Refused(ResourceExhausted, "layer-entries", b"f10"),
)
TABLE.add(
    "more bytes than the limit given",
    members(file(b"f", bytes(100_000)), limits=Limits(layer_bytes=50_000)),
    Refused(ResourceExhausted, "layer-size"),
)

# -- extended headers

TABLE.add(
    "a pax header of a gigabyte",
    members(pax_raw(b"", size=1 << 30), file(b"f")),
    Refused(ResourceExhausted, "tar-header-size", b"PaxHeaders/x"),
)
TABLE.add(
    "a long name of a gigabyte",
    members(header(b"././@LongLink", b"L", size=1 << 30), file(b"f")),
    Refused(ResourceExhausted, "tar-header-size", b"././@LongLink"),
)
TABLE.add(
    "twelve thousand pax headers for one file",
    members(*[pax((b"comment", b"c" * 400))] * 12_000, file(b"f")),
    Refused(ResourceExhausted, "tar-header-size", b"PaxHeaders/x"),
)
TABLE.add(
    "twelve thousand global headers",
    members(*[pax((b"comment", b"c" * 400), flag=b"g")] * 12_000, file(b"f")),
    Refused(ResourceExhausted, "tar-header-size", b"PaxHeaders/x"),
)
for _title, _body in {
    "with a length of zero": b"0 path=x\n",
    "with a negative length": b"-9 path=x\n",
    "with a length beyond its end": b"99 path=x\n",
    "with a length of a thousand digits": b"9" * 1000 + b" path=x\n",
    "with a length of no digits": b"ten path=x\n",
    "without a line's end": b"9 path=xx",
    "without an equals sign": b"10 pathxx\n",
    "without a keyword": b"6 =xx\n",
    "with a NUL in its keyword": b"11 pa\0th=x\n",
}.items():
    TABLE.add(
        f"a pax record {_title}",
        members(pax_raw(_body), file(b"f")),
        Refused(Integrity, "tar-header", b"PaxHeaders/x"),
    )
for _title, _pair in {
    "a negative size": (b"size", b"-1"),
    "a size of 1e30": (b"size", b"1e30"),
    "a size of 30 digits": (b"size", b"9" * 30),
    "an owner of 2**32": (b"uid", b"4294967296"),
    "a time that is none": (b"mtime", b"nan"),
    "a time in hexadecimal": (b"mtime", b"0x10"),
    "a time with two points": (b"mtime", b"1.2.3"),
}.items():
    TABLE.add(f"pax with {_title}", members(pax(_pair), file(b"f")), Refused(Integrity, "tar-header", b"f"))
TABLE.add(
    "a pax size that is less than the header's",
    members(pax((b"size", b"0")), file(b"f", header(b"inner", size=0), size=BLOCK)),
    Holds({b"f": a_file(), b"inner": a_file()}),
)
TABLE.add(
    "a pax size that is more than the header's",
    members(pax((b"size", b"1024")), header(b"f", size=0), header(b"../evil"), header(b"inner")),
    Holds({b"f": a_file(header(b"../evil") + header(b"inner"))}),
)
TABLE.add(
    "a pax size over the end of the archive",
    members(pax((b"size", b"9999999")), file(b"f", b"x")),
    Refused(Integrity, "tar-truncated", b"f"),
)
TABLE.add(
    "a time of 10,000 digits", members(pax((b"mtime", b"9" * 10_000)), file(b"f")),
    Refused(Integrity, "tar-header", b"f"),
)  # fmt: skip
TABLE.add(
    "a pax path and a GNU long name that disagree: the long name counts, as for Go",
    members(pax((b"path", b"pax")), gnu_long(b"gnu"), file(b"header", b"1")),
    Holds({b"gnu": a_file(b"1")}),
)
TABLE.add(
    "an empty pax path removes nothing but itself",
    members(pax((b"path", b"")), file(b"honest")),
    Holds({b"honest": a_file()}),
)
TABLE.add(
    "a path for everybody, in a global header",
    members(pax((b"path", b"same"), flag=b"g"), file(b"a", b"1"), file(b"b", b"2")),
    Holds({b"same": a_file(b"2")}),
)

# -- sparse files


def _sparse_10(text: bytes, data: bytes, size: int) -> bytes:
    """pax 1.0: the map stands before the data."""
    body = padded(text) + data
    records = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"))
    return pax(*records, (b"GNU.sparse.realsize", b"%d" % size)) + file(b"GNUSparseFile.0/s", body)


def _sparse_01(text: bytes, data: bytes, size: bytes) -> bytes:
    return pax((b"GNU.sparse.size", size), (b"GNU.sparse.map", text), (b"GNU.sparse.name", b"s")) + file(b"x", data)


def _sparse_old(pairs: list[tuple[bytes, bytes]], size: bytes, data: bytes) -> bytes:
    """GNU's first format: the map stands in the header."""
    fields = b"".join(offset.ljust(12, b"\0") + length.ljust(12, b"\0") for offset, length in pairs)
    tail = bytes(41) + fields.ljust(96, b"\0") + b"\0" + size.ljust(12, b"\0")
    return header(b"s", b"S", magic=b"ustar  \0", tail=tail, size=len(data)) + padded(data)


for _title, _text, _size in (
    ("that overlaps", b"2\n0\n600\n512\n424\n", 4096),
    ("that goes back", b"2\n2048\n512\n0\n512\n", 4096),
    ("out of range", b"1\n4000\n1024\n", 4096),
    ("of more than is stored", b"1\n0\n2048\n", 4096),
    ("of less than is stored", b"1\n0\n100\n", 4096),
    ("with a negative number", b"1\n-5\n1024\n", 4096),
    ("with a number of 400 digits", b"1\n" + b"1" * 400 + b"\n1\n", 4096),
    ("without an end", b"9\n0\n1\n", 4096),
    ("of no numbers", b"one\n", 4096),
):
    TABLE.add(
        f"a sparse map {_title}", members(_sparse_10(_text, b"x" * 1024, _size)), Refused(Integrity, "tar-header", b"s")
    )
TABLE.add(
    "a sparse map that says it has a billion pieces",
    members(_sparse_10(b"1000000000\n", b"", 4096)),
    Refused(ResourceExhausted, "sparse-segments", b"s"),
)
TABLE.add(
    "a sparse map of two million pieces",
    members(_sparse_01(b",".join([b"0,0"] * 400_000), b"", b"10"), limits=Limits(sparse_segments=100_000)),
    Refused(ResourceExhausted, "sparse-segments", b"s"),
)
TABLE.add(
    "a sparse map of an odd number of numbers",
    members(_sparse_01(b"0,512,1024", b"x" * 512, b"4096")),
    Refused(Integrity, "tar-header", b"s"),
)
TABLE.add(
    "a sparse file without a size",
    members(pax((b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.name", b"s")), file(b"x", b"1")),
    Refused(Integrity, "tar-header", b"s"),
)
TABLE.add(
    "a sparse file whose name climbs out",
    members(pax((b"GNU.sparse.size", b"1"), (b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.name", b"../evil")),
            file(b"x", b"1")),
    Refused(InvalidInput, "entry-name-escapes", b"../evil"),
)  # fmt: skip
TABLE.add(
    "an old sparse file of a negative size",
    members(_sparse_old([], base256(-5), b"")),
    Refused(Integrity, "tar-header", b"s"),
)
TABLE.add(
    "an old sparse file with a negative piece",
    members(_sparse_old([(base256(-512), b"00000001000")], b"00000010000", b"x" * 512)),
    Refused(Integrity, "tar-header", b"s"),
)
TABLE.add(
    "an old sparse file whose map goes on for ever",
    members(_sparse_old([(b"0", b"0")], b"00000010000", b"")[:482] + b"\1"),
    Refused(Integrity, "tar-checksum", None),
)
TABLE.add(
    "a sparse file of zeros only",
    members(_sparse_01(b"100000,0", b"", b"100000")),
    Holds({b"s": a_file(bytes(100_000))}),
)
_HUGE = b"%d" % ((1 << 63) - 1)
TABLE.add(
    "three sparse files of 8 exabytes, more than 64 bits together",
    members(*(_sparse_01(b"0,0", b"", _HUGE) for _ in range(3)), file(b"f", b"1"), file(b"s", b"2")),
    Holds({b"s": a_file(b"2"), b"f": a_file(b"1")}),
)
TABLE.add(
    "a sparse file of 2**63 bytes",
    members(_sparse_01(b"0,0", b"", b"%d" % (1 << 63))),
    Refused(Integrity, "tar-header", b"s"),
)

# -- compression


def _import(data: bytes, limits: Limits | None = None) -> Stream:
    return Stream(data, limits)


_PLAIN = tar(file(b"f", b"1" * 5000))
_SMALL = Limits(ratio=20, ratio_floor=1 << 20)
_ZEROS = tar(file(b"zeros", bytes(8 << 20)))
for _title, _compress in {
    "gzip": gz, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd.compress,
}.items():  # fmt: skip
    TABLE.add(
        f"a bomb of {_title}",
        _import(_compress(_ZEROS), _SMALL),
        Refused(ResourceExhausted, "compression-bomb", b"zeros"),
    )
    TABLE.add(
        f"{_title} cut off in the middle",
        _import(_compress(_PLAIN)[:-20]),
        Refused(Integrity, "compression-truncated"),
    )
    TABLE.add(
        f"{_title} with garbage behind it",
        _import(_compress(_PLAIN) + b"garbage that is no member"),
        Refused(Integrity, "compression-trailing"),
    )
    TABLE.add(f"{_title} of {_title}", _import(_compress(_compress(_PLAIN))), Refused(Integrity, "tar-truncated"))
TABLE.add(
    "a bomb of gzip as a layer",
    Place(
        lambda place: layout(_ZEROS, name="hostile").write(place / "layout"), _SMALL,
    ),
    Refused(ResourceExhausted, "compression-bomb", b"zeros"),
)  # fmt: skip
TABLE.add(
    "gzip with a wrong checksum",
    _import(gz(_PLAIN)[:-8] + b"\0\0\0\0" + gz(_PLAIN)[-4:]),
    Refused(Integrity, "compression-corrupt"),
)
TABLE.add(
    "gzip with a wrong length",
    _import(gz(_PLAIN)[:-4] + b"\1\0\0\0"),
    Refused(Integrity, "compression-corrupt"),
)
TABLE.add(
    "gzip whose second member is corrupt",
    _import(gz(_PLAIN[:1024]) + gz(_PLAIN[1024:])[:10] + b"\xff" * 50),
    Refused(Integrity, "compression-corrupt"),
)
TABLE.add(
    "gzip of a thousand members, most of them empty",
    _import(gz(_PLAIN[:700]) + gz(b"") * 1000 + gz(_PLAIN[700:])),
    Holds({b"f": a_file(b"1" * 5000)}),
)
TABLE.add(
    "gzip members without end, which give nothing",
    _import(gz(_PLAIN[:700]) + gz(b"") * 40_000 + gz(_PLAIN[700:]), Limits(layer_bytes=100_000)),
    Refused(ResourceExhausted, "layer-size", b"f"),
)
TABLE.add(
    "zstd that says another size than it has",
    _import(b"\x28\xb5\x2f\xfd\x60" + b"\x01\x00" + zstd.compress(_PLAIN)[7:]),
    Refused(Integrity, "compression-corrupt"),
)
TABLE.add(
    "zstd with a window of two terabytes",
    _import(b"\x28\xb5\x2f\xfd\x00\xf8" + b"\0" * 20),
    Refused(ResourceExhausted, "compression-memory"),
)
TABLE.add(
    "zstd with ten thousand frames to skip",
    _import(zstd.compress(_PLAIN[:700]) + b"\x50\x2a\x4d\x18\0\0\0\0" * 10_000 + zstd.compress(_PLAIN[700:])),
    Holds({b"f": a_file(b"1" * 5000)}),
)
TABLE.add(
    "a gzip header without an end",
    _import(b"\x1f\x8b\x08\x08" + b"\0" * 6 + b"n" * 1_000_000),
    Refused(Integrity, "compression-corrupt"),
)
