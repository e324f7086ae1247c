"""The golden vectors of TarSum and of the checksum of 2013."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import subprocess
import tarfile
from dataclasses import replace

import pytest

from lamella import errors
from lamella.formats.docker_graph import checksum, tarsum
from lamella.spec.limits import DEFAULT_LIMITS
from support.needs import needs_tool

WHO = {"uid": 1000, "gid": 1000, "uname": "slartibartfast", "gname": "users"}
ONE = {
    "sha256": "8bf12d7e67c51ee2e8306cba569398b1b9f419969521a12ffb9d8875e8836738",
    "md5": "0d7529ec7a8360155b48134b8e599f53",
    "sha1": "f1fee39c5925807ff75ef1925e7a23be444ba4df",
    "sha224": "6319390c0b061d639085d8748b14cd55f697cf9313805218b21cf61c",
    "sha384": "a578ce3ce29a2ae03b8ed7c26f47d0f75b4fc849557c62454be4b5ffd66ba021e713b48ce71e947b43aab57afd5a7636",
    "sha512": (
        "e9bfb90ca5a4dfc93c46ee061a5cf9837de6d2fdf82544d6460d3147290aecfabf7b5e415b9b6e72db9b8941f149d5d69fb17a394cbfaf2"
        "eac523bd9eae21855"
    ),
}


def archive(*members, pax=None):
    """An archive of (name, content, attributes, xattrs), each with the ``pax`` records."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for name, content, attributes, xattrs in members:
            info = tarfile.TarInfo(name)
            info.mode = info.mtime = 0
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in xattrs.items()} | (pax or {})
            writer.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


@pytest.mark.parametrize("algorithm", ONE)
def test_a_megabyte_of_zeros_of_the_old_type(algorithm):
    member = ("/testdata0", bytes(1 << 20), {"mode": 0o755, "type": b"\0"}, {})
    assert tarsum(archive(member), algorithm=algorithm) == f"tarsum+{algorithm}:{ONE[algorithm]}"


@pytest.mark.parametrize(
    ("member", "version", "expected"),
    [
        (
            ("file.txt", b"", {}, {}),
            "0",
            "tarsum+sha256:626c4a2e9a467d65c33ae81f7f3dedd4de8ccaee72af73223c4bc4718cbc7bbd",
        ),
        (
            ("file.txt", b"", {}, {}),
            "dev",
            "tarsum.dev+sha256:6ffd43a1573a9913325b4918e124ee982a99c0f3cba90fc032a65f5e20bdd465",
        ),
        (
            ("another.txt", b"test", WHO, {}),
            "dev",
            "tarsum.dev+sha256:b38166c059e11fb77bef30bf16fba7584446e80fcc156ff46d47e36c5305d8ef",
        ),
        (
            ("xattrs.txt", b"test", WHO, {"user.key1": "value1", "user.key2": "value2"}),
            "dev",
            "tarsum.dev+sha256:4cc2e71ac5d31833ab2be9b4f7842a14ce595ec96a37af4ed08f87bc374228cd",
        ),
        (
            ("xattrs.txt", b"test", WHO, {"user.KEY1": "value1", "user.key2": "value2"}),
            "dev",
            "tarsum.dev+sha256:65f4284fa32c0d4112dd93c3637697805866415b570587e4fd266af241503760",
        ),
        (
            ("xattrs.txt", b"test", WHO, {"user.NOT": "CALCULATED"}),
            "0",
            "tarsum+sha256:c12bb6f1303a9ddbf4576c52da74973c00d14c109bcfa76b708d5da1154a07fa",
        ),
    ],
)
def test_vectors_of_one_member(member, version, expected):
    assert tarsum(archive(member), version=version) == expected


def test_version_1_is_dev_with_its_own_label():
    member = ("xattrs.txt", b"test", WHO, {"user.key1": "value1"})
    dev, one = (tarsum(archive(member), version=version) for version in ("dev", "1"))
    assert one == dev.replace("tarsum.dev", "tarsum.v1")


def test_an_empty_archive():
    assert tarsum(io.BytesIO(bytes(1024))) == f"tarsum+sha256:{hashlib.sha256(b'').hexdigest()}"
    assert tarsum(io.BytesIO(b""), b"{}") == f"tarsum+sha256:{hashlib.sha256(b'{}').hexdigest()}"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_compression_does_not_count(compress):
    plain = archive(("a", b"a" * 100_000, {}, {}), ("b", b"", {}, {}))
    assert tarsum(io.BytesIO(compress(plain.getvalue()))) == tarsum(plain)


def test_the_order_of_members_does_not_count_but_what_they_are_does():
    a, b = ("a", b"1", {}, {}), ("b", b"2", {}, {})
    assert tarsum(archive(a, b)) == tarsum(archive(b, a))
    sums = [
        tarsum(archive(("a", b"1", {**WHO, **change}, {})))
        for change in ({}, {"uid": 1}, {"gname": "x"}, {"mode": 1}, {"mtime": 1}, {"linkname": "x"})
    ]
    assert len(set(sums)) == len(sums)


def test_names_that_come_twice_stay_apart_and_in_order():
    first, second = ("a", b"1", {}, {}), ("a", b"2", {}, {})
    assert len({tarsum(archive(*members)) for members in ([first], [first, second], [second, first], [second])}) == 4


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((0, 1, 2, 3), "549b803ef3dfa13cad327e717cac8171913b801a24ab18b8c4fc0e2502073b8d"),
        ((1, 0, 2, 3), "e76584c514ea2bec61a7d4a9c5cde73990335267b37a19a336506986dc5234c9"),
        ((1, 2, 3, 0), "6350f1df7bebc304fa210644bfaaa9978dec785f54b6eb659470a627e14fe95b"),
    ],
)
def test_a_name_that_comes_twice_among_others(order, expected):
    """What docker's package of that name gives: with so few members its sort inserts one after the other."""
    members = [("a", b"0", {}, {}), ("a", b"1", {}, {}), ("b", b"2", {}, {}), ("c", b"3", {}, {})]
    assert tarsum(archive(*(members[number] for number in order))) == f"tarsum+sha256:{expected}"


def test_a_name_that_comes_twice_among_many():
    many = [(f"{number}", b"", {}, {}) for number in range(12)]
    first, second = ("a", b"1", {}, {}), ("a", b"2", {}, {})
    orders = [first, *many, second], [*reversed(many), first, second], [second, *many, first]
    here, also_here, there = (tarsum(archive(*members)) for members in orders)
    assert here == also_here != there


@pytest.mark.parametrize("other", ["a", "/a", ".//a", "b/../a", "../a", "a/."])
def test_one_name_in_two_spellings_comes_twice(other):
    first, second = ("./a", b"1", {}, {}), (other, b"2", {}, {})
    assert tarsum(archive(first, second)) != tarsum(archive(second, first))


def test_owners_in_extended_headers():
    long = {**WHO, "uname": "u" * 40}
    assert tarsum(archive(("a", b"", long, {}))) != tarsum(archive(("a", b"", {**WHO, "uname": "u" * 32}, {})))


def test_the_time_counts_in_whole_seconds_only_in_version_0():
    members = [("a", b"", {"mtime": time}, {}) for time in (7, 7.5, 8)]
    assert len({tarsum(archive(member)) for member in members}) == 2
    assert len({tarsum(archive(member), version="1") for member in members}) == 1


@needs_tool("tar")
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_the_holes_of_a_sparse_file_count_as_the_zeros_that_they_are(tmp_path, version):
    with open(tmp_path / "file", "wb") as file:
        for start in (0, 1 << 20, 3 << 20):
            file.seek(start)
            file.write(b"data" * 1024)
        file.truncate(4 << 20)

    def made(*options):
        command = ["tar", "-C", tmp_path, "--format=posix", "--pax-option=delete=?time", *options, "-cf-", "file"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    plain, sparse = made(), made("--sparse", f"--sparse-version={version}")
    assert len(sparse) < len(plain) / 4
    assert tarsum(io.BytesIO(sparse)) == tarsum(io.BytesIO(plain))


def test_a_sparse_file_of_holes_only_is_hashed_to_its_end_or_refused():
    def hollow(size):
        return archive(("a", b"", {}, {}), pax={"GNU.sparse.map": f"{size},0", "GNU.sparse.size": str(size)})

    zeros = archive(("a", bytes(700_000), {}, {}))
    limits = replace(DEFAULT_LIMITS, layer_bytes=700_000)
    assert tarsum(hollow(700_000), limits=limits) == tarsum(zeros)
    with pytest.raises(errors.ResourceExhausted) as caught:
        tarsum(hollow(700_001), limits=limits)
    assert caught.value.code == "layer-size"


@pytest.mark.parametrize(
    ("flag", "name", "field", "mode", "size"),
    [
        (b"1", b"h", b"00000010000\0", b"0000644\0", 4096),  # star and cpio give a link the size of its target
        (b"2", b"s", b"00000000005\0", b"0000777\0", 5),
        (b"5", b"d/", b"00000010000\0", b"0040755\0", 4096),
        (b"5", b"d", b"\x80" + bytes(10) + b"\x07", b"\x80" + bytes(5) + b"\x81\xa4", 7),
        (b"6", b"p", b"no number  \0", b"0000644\0", 0),
    ],
)
def test_sizes_and_modes_count_as_they_are_written(flag, name, field, mode, size):
    blank = name.ljust(100, b"\0") + mode + b"0000000\x000000000\0" + field + b"00000000000\0" + 8 * b" " + flag
    blank += bytes(100) + b"ustar\x0000" + bytes(247)
    header = blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]
    number = int.from_bytes(mode[1:], "big") if mode[0] == 0x80 else int(mode[:7], 8)
    fields = b"name%bmode%duid0gid0size%dmtime0typeflag%blinknameunamegnamedevmajor0devminor0"
    entry = hashlib.sha256(fields % (name, number, size, flag)).hexdigest()
    expected = hashlib.sha256(entry.encode()).hexdigest()
    assert tarsum(io.BytesIO(header + bytes(1024))) == f"tarsum+sha256:{expected}"


def test_sums_of_nothing_known():
    with pytest.raises(errors.InvalidInput):
        tarsum(io.BytesIO(b""), version="2")
    with pytest.raises(errors.InvalidInput):
        tarsum(io.BytesIO(b""), algorithm="crc32")
    with pytest.raises(errors.Integrity):
        tarsum(io.BytesIO(b"garbage" * 200))


def test_the_checksum_is_of_the_record_a_newline_and_the_archive_as_it_is():
    json, layer = b'{"id":"x"}', gzip.compress(b"layer", mtime=0)
    assert checksum(json, io.BytesIO(layer)) == f"sha256:{hashlib.sha256(json + bytes([10]) + layer).hexdigest()}"
