"""Archives that are broken, on purpose or not: a typed error that names the entry, and nothing else."""

from __future__ import annotations

import contextlib
import io
import random

import pytest
from tars import END, content, extended, extended_raw, header, padded, scan, with_checksum

from lamella.archive.tar import Member, MemberType, TarScanner, TarWriter
from lamella.errors import Integrity, LamellaError, ResourceExhausted, Unsupported
from lamella.spec.limits import Limits

GNU = b"ustar  \0"


def old_sparse(pairs: list[tuple[int, int]], *, stored: int, size: int, more: bytes = b"\0") -> bytes:
    """An old GNU sparse header with at most four pairs."""
    fields = b"".join(b"%011o\0%011o\0" % pair for pair in pairs)
    tail = bytes(41) + fields.ljust(96, b"\0") + more + b"%011o\0" % size
    return header(b"sparse", b"S", size=stored, magic=GNU, tail=tail)


def extension(pairs: list[tuple[int, int]], more: bytes = b"\0") -> bytes:
    return (b"".join(b"%011o\0%011o\0" % pair for pair in pairs).ljust(504, b"\0") + more).ljust(512, b"\0")


def sparse_1_0(text: bytes, *, stored: int, size: bytes = b"100000", blocks: int = 1) -> bytes:
    records = extended(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", size),
    )
    leading = text.ljust(512 * blocks, b"\0")
    return records + header(b"GNUSparseFile/sparse", size=len(leading) + stored) + leading + padded(b"x" * stored)


def rich() -> bytes:
    """A small archive with a bit of everything."""
    out = bytearray()
    with TarWriter(out.extend) as writer:
        writer.add(Member(b"dir/", MemberType.DIRECTORY, 0o755, 1, 2, 3_000_000_000))
        writer.add(Member(b"dir/f", MemberType.REGULAR, 0o4755, mtime=1_500_000_001, size=5), io.BytesIO(b"hello"))
        writer.add(Member(b"l" * 120, MemberType.SYMLINK, 0o777, linkname=b"t" * 120, xattrs={"user.a": b"b"}))
        holes = Member(b"holes", MemberType.REGULAR, 0o644, size=100_000, sparse=((512, 3), (99_000, 700)))
        writer.add(holes, io.BytesIO(b"z" * 703))
    out = out[:-1024]
    out += header(b"././@LongLink", b"L", size=4, magic=GNU) + padded(b"abc\0") + header(b"short", magic=GNU, size=1)
    out += padded(b"x") + old_sparse([(0, 5), (4096, 5), (8192, 5), (12288, 5)], stored=25, size=20_000, more=b"\1")
    out += extension([(16_384, 5)]) + padded(b"s" * 25) + extended((b"uid", b"5"), flag=b"g") + header(b"last")
    return bytes(out) + END


def collect(data: bytes) -> tuple[list[Member], LamellaError | None]:
    found = []
    try:
        for member in TarScanner(io.BytesIO(data).read):
            found.append(member)
    except LamellaError as error:
        return found, error
    return found, None


def test_an_archive_cut_off_anywhere():
    whole = rich()
    members = scan(whole)
    assert len(members) == 7
    starts = {0, *(m.data_offset + -(-m.stored_size // 512) * 512 for m in members), whole.index(header(b"last"))}
    for cut in range(len(whole)):
        found, error = collect(whole[:cut])
        assert found == members[: len(found)]
        if error is None:
            # A whole number of members, or those and a zero block; nothing tells that there were more.
            assert cut in starts or len(found) == len(members)
        else:
            assert error.code == "tar-truncated"


def test_no_flipped_bit_of_a_header_goes_unnoticed():
    whole = header(b"name", mode=b"0000755\0", size=3) + padded(b"abc") + header(b"\xff\x80", b"2", link=b"t") + END
    members = scan(whole)
    for position in (*range(512), *range(1024, 1536)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[position] ^= 1 << bit
            found, error = collect(bytes(broken))
            if error is None:
                assert found == members, "a blank for a NUL after the checksum changes nothing"
                assert position % 512 in range(148, 156)
            else:
                assert error.code == "tar-checksum"
                assert found == members[: len(found)]


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_ends_in_typed_errors(seed):
    generator = random.Random(seed)
    whole = rich()
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(generator.randrange(1, 8)):
            match generator.randrange(4):
                case 0:
                    broken[generator.randrange(len(broken))] = generator.randrange(256)
                case 1:
                    start = generator.randrange(0, len(broken), 512)
                    del broken[start : start + 512]
                case 2:
                    start, source = (generator.randrange(0, len(broken), 512) for _ in range(2))
                    broken[start:start] = broken[source : source + 512]
                case 3:
                    start = generator.randrange(len(broken))
                    broken[start : start + 4] = generator.randbytes(4)
            if not broken:
                break
        if generator.random() < 0.7:  # past the checksums
            for start in range(0, len(broken) - 511, 512):
                block = bytes(broken[start : start + 512])
                if block[257:262] == b"ustar":
                    broken[start : start + 512] = with_checksum(block)
        found, _ = collect(bytes(broken))
        for member in found:
            assert_sane(member)


def assert_sane(member: Member) -> None:
    assert 0 <= member.mode <= 0o7777
    assert 0 <= member.uid < (1 << 32) - 1
    assert 0 <= member.gid < (1 << 32) - 1
    assert -(1 << 63) <= member.mtime < 1 << 63
    assert 0 <= member.size < 1 << 63
    assert member.stored_size >= 0
    assert 0 not in member.name
    assert 0 not in member.linkname
    if member.sparse is not None:
        assert sum(length for _, length in member.sparse) == member.stored_size
        assert all(a + length <= b for (a, length), (b, _) in zip(member.sparse, member.sparse[1:], strict=False))
        assert all(offset + length <= member.size and length > 0 for offset, length in member.sparse)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": b"0000888\0"},
        {"mode": b"-000644\0"},
        {"mode": b"0o00644\0"},
        {"mode": b"00_0644\0"},
        {"mode": b"0x1ff\0\0\0"},
        {"mode": b"\xff" * 8},
        {"uid": b"abcdefg\0"},
        {"uid": b"\xff" * 8},
        {"uid": b"\x80\0\0\0\xff\xff\xff\xff"},
        {"uid": b"\x80\0\0\1\0\0\0\0"},
        {"gid": b"\xbf" + b"\xff" * 7},
        {"size": b"-0000000001\0"},
        {"size": b"\xff" * 12},
        {"size": b"\x80" + bytes(3) + b"\x80" + bytes(7)},
        {"size": b"\xbf" + b"\xff" * 11},
        {"size": b"12e4\0\0\0\0\0\0\0\0"},
        {"mtime": b"yesterday\0\0\0"},
        {"flag": b"3", "devices": b"xxxxxxx\x000000001\0"},
        {"flag": b"4", "devices": b"\xff" * 16},
    ],
    ids=str,
)
def test_numbers_that_are_none(fields):
    with pytest.raises(Integrity) as caught:
        scan(header(b"good") + header(b"bad", **fields) + END)
    assert caught.value.code == "tar-header"
    assert caught.value.entry == b"bad"


def test_sizes_larger_than_the_archive():
    for size in (513, 1 << 33, (1 << 33) - 1):
        with pytest.raises(Integrity) as caught:
            scan(header(b"big", size=b"\x80" + size.to_bytes(11, "big")) + bytes(100))
        assert caught.value.code == "tar-truncated"
        assert caught.value.entry == b"big"
    with pytest.raises(Integrity) as caught:
        scan(extended((b"size", b"9223372036854775807")) + header(b"big") + bytes(100))
    assert caught.value.code == "tar-truncated"


def test_a_member_that_hides_behind_a_smaller_size():
    """The size of the pax record counts, so what it covers is data and no header."""
    hidden = header(b"hidden")
    data = extended((b"size", b"512")) + header(b"outer", size=0) + hidden + END
    (outer,) = scan(data)
    assert content(data, outer) == hidden


def test_lone_zero_blocks():
    with pytest.raises(Integrity) as caught:
        scan(header(b"a") + bytes(512) + header(b"b") + END)
    assert caught.value.code == "tar-header"
    with pytest.raises(Integrity) as caught:
        scan(header(b"a") + bytes(512) + bytes(100))
    assert caught.value.code == "tar-truncated"


def test_what_is_no_tar_at_all():
    for data in (b"x" * 512, b"\x7fELF" + bytes(508), bytes(511) + b"\1", b"PK\3\4" * 300, bytes(range(256)) * 2):
        with pytest.raises(Integrity) as caught:
            scan(data)
        assert caught.value.code == "tar-checksum"
    with pytest.raises(Integrity) as caught:
        scan(b"short")
    assert caught.value.code == "tar-truncated"


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"\n",
        b"0 \n",
        b"1 \n",
        b"3 =\n",
        b"4 =\n",
        b"5 a=\n"[:-1] + b"x",
        b"6 abc\n",
        b"6 a=b",
        b"7 a=b\n",
        b"99999 a=b\n",
        b"-6 a=b\n",
        b"+6 a=b\n",
        b"6\ta=b\n",
        b" 6 a=b\n",
        b"0x6 a=b\n",
        b"6  a=b\n",
        b"99999999999999999999999 a=b\n",
        b"9" * 5000 + b" a=b\n",
        b"6 a=b\n\0\0",
        b"6 a=b\n6 a=b",
    ],
)
def test_malformed_extended_headers(body):
    with pytest.raises(Integrity) as caught:
        scan(extended_raw(body) + header(b"name") + END)
    assert caught.value.code == "tar-header"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"a\0b", b"c"),
        (b"path", b"a\0b"),
        (b"linkpath", b"a\0b"),
        (b"GNU.sparse.name", b"a\0b"),
        (b"size", b"-1"),
        (b"size", b"1x"),
        (b"size", b"0x1"),
        (b"size", b"1_0"),
        (b"size", b" 1"),
        (b"size", b"9223372036854775808"),
        (b"size", b"9" * 5000),
        (b"uid", b"-1"),
        (b"uid", b"4294967295"),
        (b"uid", b"1.5"),
        (b"gid", b"a"),
        (b"mtime", b"a"),
        (b"mtime", b"1.a"),
        (b"mtime", b"--1"),
        (b"mtime", b"1e10"),
        (b"mtime", b"-"),
        (b"mtime", b"."),
        (b"mtime", b"+1"),
        (b"mtime", b"1.2.3"),
        (b"mtime", b"0." + b"1" * 99),
        (b"SCHILY.xattr.", b"v"),
        (b"LIBARCHIVE.xattr.", b"YQ"),
        (b"LIBARCHIVE.xattr.user.a", b"a"),
        (b"LIBARCHIVE.xattr.user.a", b"YQ*\xff"),
        (b"LIBARCHIVE.xattr.user.%zz", b"YQ"),
        (b"LIBARCHIVE.xattr.user.%2", b"YQ"),
        (b"LIBARCHIVE.xattr.user.%00", b"YQ"),
    ],
)
def test_extended_header_values_that_mean_nothing(key, value):
    with pytest.raises(Integrity) as caught:
        scan(extended((key, value)) + header(b"name") + END)
    assert caught.value.code == "tar-header"


def test_global_records_that_are_of_one_file():
    for key in (b"GNU.sparse.offset", b"GNU.sparse.map", b"SCHILY.xattr.user.a", b"LIBARCHIVE.xattr.user.a"):
        with pytest.raises(Unsupported) as caught:
            scan(extended((key, b"0"), flag=b"g") + header() + END)
        assert caught.value.code == "tar-global"


def test_extended_headers_that_describe_nothing():
    for tail in (b"", END, bytes(512)):
        with pytest.raises(Integrity) as caught:
            scan(header(b"a") + extended((b"path", b"b")) + tail)
        assert caught.value.code == "tar-truncated"
    with pytest.raises(Integrity) as caught:
        scan(extended((b"path", b"b"))[:-1])
    assert caught.value.code == "tar-truncated"


def test_extended_headers_without_end():
    for flag in (b"x", b"g", b"L", b"K"):
        with pytest.raises(ResourceExhausted) as caught:
            scan(header(b"h", flag, size=b"\x80" + (1 << 40).to_bytes(11, "big")) + bytes(512))
        assert caught.value.code == "tar-header-size"
    big = extended((b"comment", b"c" * 3000))
    with pytest.raises(ResourceExhausted) as caught:
        scan(big * 4 + header(), limits=Limits(header_bytes=10_000))
    assert caught.value.code == "tar-header-size"
    assert len(scan((big * 3 + header()) * 10, limits=Limits(header_bytes=10_000))) == 10
    with pytest.raises(ResourceExhausted) as caught:
        scan((extended((b"comment", b"c" * 3000), flag=b"g") + header()) * 4, limits=Limits(header_bytes=10_000))
    assert caught.value.code == "tar-header-size"


def test_limits():
    with pytest.raises(ResourceExhausted) as caught:
        scan(header() * 11, limits=Limits(layer_entries=10))
    assert caught.value.code == "layer-entries"
    assert len(scan(header() * 10, limits=Limits(layer_entries=10))) == 10
    for records in (extended((b"path", b"p" * 4097)), extended((b"linkpath", b"p" * 4097))):
        with pytest.raises(ResourceExhausted) as caught:
            scan(records + header(b"x", b"2", link=b"y"))
        assert caught.value.code == "path-length"
    with pytest.raises(ResourceExhausted) as caught:
        scan(extended((b"SCHILY.xattr.user.a", b"v" * 1000)) + header(), limits=Limits(xattr_bytes=1000))
    assert caught.value.code == "xattr-size"


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 10), (5, 10)],
        [(100, 10), (0, 10)],
        [(0, 10), (0, 10)],
        [(990, 20)],
        [(2000, 20)],
        [(0, 10)],
        [(0, 30)],
        [],
        [(8 << 30, 20)],
        [(0, 20), (1001, 0)],
    ],
    ids=str,
)
def test_sparse_maps_that_are_wrong(pairs):
    """A file of 1000 bytes of which 20 are stored, in each of the four formats."""
    numbers = [b"%d" % number for pair in pairs for number in pair]
    size = (b"GNU.sparse.size", b"1000")
    lists = [((b"GNU.sparse.offset", b"GNU.sparse.numbytes")[at % 2], number) for at, number in enumerate(numbers)]
    data = padded(b"x" * 20) + END
    archives = [
        old_sparse([pair for pair in pairs if pair[0] < 8 << 30] or [(1001, 1)], stored=20, size=1000) + data,
        sparse_1_0(b"%d\n" % len(pairs) + b"".join(number + b"\n" for number in numbers), stored=20, size=b"1000"),
    ]
    if pairs:
        archives += [
            extended(size, (b"GNU.sparse.map", b",".join(numbers))) + header(b"sparse", size=20) + data,
            extended(size, *lists) + header(b"sparse", size=20) + data,
        ]
    for archive in archives:
        with pytest.raises(Integrity) as caught:
            scan(archive)
        assert caught.value.code == "tar-header"
        assert caught.value.entry == b"sparse"
        assert "sparse map" in caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x\n",
        b"-1\n",
        b"1\n0\n",
        b"1\n0\n20",
        b"1\n\n20\n",
        b"1\n+0\n20\n",
        b"1\n0\n-20\n",
        b"1\n0 20\n",
        b"9" * 400,
        b"9" * 400 + b"\n",
        b"1\n" + b"0" * 300 + b"\n20\n",
    ],
)
def test_leading_sparse_maps_that_are_malformed(text):
    with pytest.raises(Integrity) as caught:
        scan(sparse_1_0(text, stored=20) + END)
    assert caught.value.code == "tar-header"
    assert caught.value.entry == b"sparse"


@pytest.mark.parametrize("text", [b"0", b"0,20,5", b"a,20", b"0,20,", b",", b"-0,20", b"0,\xb2", b"0;20", b"0, 20"])
def test_sparse_maps_in_a_record_that_are_malformed(text):
    records = extended((b"GNU.sparse.size", b"1000"), (b"GNU.sparse.map", text))
    with pytest.raises(Integrity) as caught:
        scan(records + header(size=20) + padded(b"x" * 20) + END)
    assert caught.value.code == "tar-header"


def test_sparse_files_that_contradict_themselves():
    good = ((b"GNU.sparse.size", b"1000"), (b"GNU.sparse.map", b"0,20"))
    wrong = [
        extended(good[1]) + header(size=20),
        extended((b"GNU.sparse.offset", b"0"), (b"GNU.sparse.offset", b"5"), good[0]) + header(size=20),
        extended((b"GNU.sparse.numbytes", b"0"), good[0]) + header(size=20),
        extended((b"GNU.sparse.size", b"9223372036854775808"), good[1]) + header(size=20),
        extended((b"GNU.sparse.size", b"-5"), good[1]) + header(size=20),
        extended(*good) + old_sparse([(0, 20)], stored=20, size=1000),
        old_sparse([(0, 20)], stored=20, size=1000).replace(GNU, b"ustar\x0000"),
        old_sparse([(0, 20)], stored=20, size=1000).replace(b"%011o\0" % 1000, b"\xff" * 12),
        old_sparse([(0, 20)], stored=20, size=1000).replace(b"%011o\0" % 1000, b"\xbf" + b"\xff" * 11),
    ]
    for archive in wrong:
        blocks = archive[:-512] + with_checksum(archive[-512:])
        with pytest.raises(Integrity) as caught:
            scan(blocks + padded(b"x" * 20) + END)
        assert caught.value.code == "tar-header"
    for version in ((b"2", b"0"), (b"1", b"1"), (b"0", b"2")):
        records = extended(*good, (b"GNU.sparse.major", version[0]), (b"GNU.sparse.minor", version[1]))
        with pytest.raises(Unsupported) as unsupported:
            scan(records + header(size=20) + padded(b"x" * 20) + END)
        assert unsupported.value.code == "tar-sparse"


def test_sparse_maps_without_end():
    few = Limits(sparse_segments=50)
    for archive in (
        sparse_1_0(b"51\n", stored=20),
        sparse_1_0(b"99999999999999\n", stored=20),
        old_sparse([], stored=0, size=10, more=b"\1") + extension([(9, 0)] * 21, b"\1") * 10,
        extended((b"GNU.sparse.size", b"1000"), (b"GNU.sparse.map", b"9,0," * 51 + b"10,0")) + header(),
    ):
        with pytest.raises(ResourceExhausted) as caught:
            scan(archive, limits=few)
        assert caught.value.code == "sparse-segments"


def test_sparse_maps_longer_than_their_file():
    for archive in (
        sparse_1_0(b"30\n" + b"1000\n0\n" * 20, stored=0),
        extended((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"5"))
        + header(size=100)
        + padded(b"1\n0\n5\n"),
    ):
        with pytest.raises(Integrity) as caught:
            scan(archive + END)
        assert caught.value.code == "tar-header"


def test_a_sparse_map_on_what_is_no_file_is_passed_over():
    records = extended((b"GNU.sparse.size", b"1000"), (b"GNU.sparse.map", b"0,20"), (b"size", b"20"))
    (member,) = scan(records + header(b"d/", b"5") + END)
    assert (member.type, member.size, member.sparse) == (MemberType.DIRECTORY, 0, None)


def test_errors_of_the_source_come_through():
    class Broken(Exception):
        pass

    def read(_: int) -> bytes:
        raise Broken

    with pytest.raises(Broken):
        next(TarScanner(read))


def test_after_an_error_there_is_nothing_more():
    scanner = TarScanner(io.BytesIO(header(b"a") + b"x" * 512).read)
    with contextlib.suppress(Integrity):
        for _ in scanner:
            pass
    assert list(scanner) == []
    assert scanner.end_offset is None
