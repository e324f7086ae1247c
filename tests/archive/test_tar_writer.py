"""Writing tar: our reader, tarfile, GNU tar and bsdtar all find in it what was put there."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tars import content, scan

from lamella.archive.tar import Member, MemberType, TarWriter
from lamella.errors import FailedPrecondition, InvalidInput

T = MemberType
LINKS = (T.HARDLINK, T.SYMLINK)
DEVICES = (T.CHARDEV, T.BLOCKDEV)


def write(members: list[tuple[Member, bytes]]) -> bytes:
    out = bytearray()
    with TarWriter(out.extend) as writer:
        for member, data in members:
            writer.add(member, io.BytesIO(data) if member.type is T.REGULAR else None)
        assert writer.offset == len(out)
    assert writer.offset == len(out)
    return bytes(out)


def same(ours: Member, found: Member) -> bool:
    fields = ("name", "type", "mode", "uid", "gid", "mtime", "size", "linkname", "major", "minor", "xattrs")
    return all(getattr(ours, field) == getattr(found, field) for field in fields)


def assert_same_pieces(ours: Member, data: bytes, found: Member, stored: bytes) -> None:
    """Pieces may have grown into the holes after them, with zeros; nothing else may be different."""
    assert found.sparse is not None
    assert all(length % 512 == 0 or offset + length == found.size for offset, length in found.sparse)
    at = 0
    held = []
    for offset, length in found.sparse:
        held.append((offset, stored[at : at + length]))
        at += length
    at = 0
    for offset, length in ours.sparse or ():
        (place,) = [(o, d) for o, d in held if o <= offset and offset + length <= o + len(d)]
        assert place[1][offset - place[0] :][:length] == data[at : at + length]
        at += length
    assert len(stored) - stored.count(0) == len(data) - data.count(0)


# Any member at all

names = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.text(min_size=1, max_size=120).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.sampled_from([b"a", b"b" * 9, b"c" * 99, b"\xc3\xbc", b"\xff"]), min_size=1, max_size=5).map(b"/".join),
).map(lambda name: name.replace(b"\0", b"0"))
times = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 1 << 33).map((10**9).__mul__), st.just(-1))
ids = st.one_of(st.integers(0, 5000), st.integers(0, (1 << 32) - 2), st.just(0o7777777), st.just(0o10000000))
xattrs = st.dictionaries(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20).map("user.".__add__),
    st.binary(max_size=60),
    max_size=3,
)


@st.composite
def sparse_maps(draw: st.DrawFn) -> tuple[int, tuple[tuple[int, int], ...]]:
    at = 0
    pieces = []
    gaps = st.one_of(st.integers(0, 1 << 40), st.integers(0, 600))
    for gap, length in draw(st.lists(st.tuples(gaps, st.integers(1, 700)), max_size=30)):
        pieces.append((at + gap, length))
        at += gap + length
    return at + draw(gaps), tuple(pieces)


@st.composite
def any_member(draw: st.DrawFn) -> tuple[Member, bytes]:
    kind = draw(st.sampled_from(list(T)))
    member = Member(
        draw(names), kind, draw(st.integers(0, 0o7777)), draw(ids), draw(ids), draw(times), xattrs=draw(xattrs)
    )
    data = b""
    if kind is T.REGULAR:
        member.name = member.name.rstrip(b"/") or b"f"
        if draw(st.booleans()):
            data = draw(st.binary(max_size=2000))
            member.size = len(data)
        else:
            member.size, member.sparse = draw(sparse_maps())
            data = b"piece" * sum(length for _, length in member.sparse)
            data = data[: len(data) // 5]
    if kind in LINKS:
        member.linkname = draw(names)
    if kind in DEVICES:
        member.major, member.minor = draw(st.integers(0, 0o7777777)), draw(st.integers(0, 0o7777777))
    return member, data


@given(st.lists(any_member(), max_size=6))
@example([(Member(b"p" * 155 + b"/" + b"n" * 100, T.DIRECTORY), b"")])
@example([(Member(b"p" * 155 + b"/" + b"n" * 99 + b"/", T.DIRECTORY), b"")])
@example([(Member(b"p" * 156 + b"/" + b"n" * 100, T.DIRECTORY), b"")])
@example([(Member(b"/" + b"n" * 100, T.DIRECTORY), b"")])
@example([(Member(b"n" * 100 + b"/", T.DIRECTORY), b"")])
@settings(max_examples=400, deadline=None)
def test_what_is_written_is_read_back(members):
    archive = write(members)
    found = scan(archive)
    assert len(found) == len(members)
    for (member, data), back in zip(members, found, strict=True):
        assert same(member, back), (member, back)
        stored = archive[back.data_offset : back.data_offset + back.stored_size]
        if member.sparse is not None:
            assert_same_pieces(member, data, back, stored)
        else:
            assert (back.sparse, stored) == (None, data)
    assert scan(archive, step=61) == found


@given(st.lists(any_member(), max_size=6))
@settings(max_examples=150, deadline=None)
def test_tarfile_reads_what_is_written(members):
    archive = write(members)
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as oracle:
        theirs = oracle.getmembers()
        assert len(theirs) == len(members)
        for (our, data), their in zip(members, theirs, strict=True):
            assert os.fsencode(their.name).rstrip(b"/") == our.name.rstrip(b"/")
            assert (their.mode, their.uid, their.gid) == (our.mode, our.uid, our.gid)
            assert their.mtime == pytest.approx(our.mtime / 10**9)
            if our.type in LINKS:
                assert os.fsencode(their.linkname) == our.linkname
            if our.type is T.REGULAR:
                assert their.size == our.size
                if our.sparse is None:
                    stream = oracle.extractfile(their)
                    assert stream is not None
                    assert stream.read() == data


# Trees that can be unpacked

parts = st.binary(min_size=1, max_size=120).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))
disk_times = st.one_of(st.integers(-(2**31), 2**33).map((10**9).__mul__), st.integers(-(10**18), 10**18))


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[Member, bytes]]:
    root = os.geteuid() == 0
    owners = ids if root else st.just(os.geteuid())
    groups = ids if root else st.just(os.getegid())
    kinds = [T.REGULAR, T.SYMLINK, T.FIFO] + ([T.CHARDEV, T.BLOCKDEV] if root else [])
    found: list[tuple[Member, bytes]] = []
    for index, folder in enumerate(draw(st.lists(parts, max_size=3))):
        top = b"%d" % index + folder
        found.append((Member(top + b"/", T.DIRECTORY, 0o755, draw(owners), draw(groups), draw(disk_times)), b""))
        for number, part in enumerate(draw(st.lists(parts, max_size=4))):
            name = top + b"/" + b"%d" % number + part
            kind = draw(st.sampled_from(kinds))
            member = Member(name, kind, draw(st.integers(0, 0o7777)), draw(owners), draw(groups), draw(disk_times))
            data = b""
            if kind is T.REGULAR:
                data = draw(st.binary(max_size=600))
                member.size = len(data)
                if data and draw(st.booleans()):
                    gap = draw(st.sampled_from([1, 510, 511, 512, 8191]))
                    member.sparse = ((7, 1), (8 + gap, len(data) - 1))[: 1 + (len(data) > 1)]
                    member.size = 7 + gap + len(data) + draw(st.sampled_from([0, 1, 511, 512, 100_000]))
            elif kind is T.SYMLINK:
                member.mode, member.linkname = 0o777, draw(parts)
            elif kind in DEVICES:
                member.major, member.minor = draw(st.integers(0, 4000)), draw(st.integers(0, 1_000_000))
            found.append((member, data))
            if kind is T.REGULAR and draw(st.booleans()):
                link = Member(name + b"-link", T.HARDLINK, member.mode, member.uid, member.gid, member.mtime)
                link.linkname = name
                found.append((link, b""))
    return found


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
@given(members=trees())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tools_unpack_what_is_written(tool, members, tmp_path_factory):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    archive = write(members)
    target = tmp_path_factory.mktemp("out")
    done = subprocess.run(
        [tool, "-xpf", "-", "--numeric-owner"],
        input=archive,
        cwd=target,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    for member in scan(archive):
        path = os.path.join(os.fsencode(target), member.name.rstrip(b"/"))
        assert_unpacked(member, archive, path, exact=tool == "tar")
    shutil.rmtree(target)


def assert_unpacked(member: Member, archive: bytes, path: bytes, *, exact: bool) -> None:
    found = os.lstat(path)
    assert (found.st_uid, found.st_gid) == (member.uid, member.gid)
    if member.type is not T.SYMLINK:
        assert stat.S_IMODE(found.st_mode) == member.mode
    # libarchive takes the fraction of a negative time for a positive one.
    if exact or member.mtime >= 0 or member.mtime % 10**9 == 0:
        assert found.st_mtime_ns == member.mtime
    match member.type:
        case T.REGULAR:
            assert Path(os.fsdecode(path)).read_bytes() == content(archive, member)
        case T.HARDLINK:
            assert found.st_nlink == 2
        case T.SYMLINK:
            assert os.readlink(path) == member.linkname
        case T.CHARDEV | T.BLOCKDEV:
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (member.major, member.minor)
        case T.FIFO:
            assert stat.S_ISFIFO(found.st_mode)
        case _:
            assert stat.S_ISDIR(found.st_mode)


@pytest.mark.parametrize("command", [("tar", "--xattrs", "--xattrs-include=*"), ("bsdtar", "--xattrs")])
def test_the_tools_unpack_extended_attributes(tmp_path, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    wanted = {"user.text": b"v", "user.binary": bytes(range(256)), "user.\u00fc": b"\0"}
    if command[0] == "tar":
        wanted |= {"user.a=b%": b"="}
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.text", b"v")
    except OSError as error:
        pytest.skip(f"no extended attributes at {tmp_path}: {error}")
    archive = write([(Member(b"f", T.REGULAR, 0o644, os.geteuid(), os.getegid(), xattrs=wanted), b"")])
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run([*command, "-xpf", "-"], input=archive, cwd=tmp_path, check=True, env=environment)
    assert {name: os.getxattr(tmp_path / "f", name) for name in os.listxattr(tmp_path / "f")} == wanted


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_the_tools_unpack_sparse_files(tmp_path, tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    maps = {
        b"hole": (1_000_000, ()),
        b"start": (1_000_000, ((0, 5000),)),
        b"end": (1_000_000, ((995_000, 5000),)),
        b"both": (1_000_000, ((0, 10), (500_000, 10), (999_990, 10))),
        b"many": (10_000_000, tuple((at * 90_000, 100) for at in range(100))),
        b"nothing": (0, ()),
        b"dir/\xff" + b"n" * 120: (50_000, ((4096, 1),)),
    }
    members = []
    for name, (size, pieces) in maps.items():
        data = hashlib.shake_256(name).digest(sum(length for _, length in pieces))
        members.append((Member(name, T.REGULAR, 0o644, size=size, sparse=pieces), data))
    archive = write(members)
    subprocess.run([tool, "-xf", "-", "--no-same-owner"], input=archive, cwd=tmp_path, check=True)
    for member in scan(archive):
        unpacked = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), member.name)))
        assert unpacked.read_bytes() == content(archive, member)


def test_plain_members_take_one_header():
    plain = Member(b"dir/file", T.REGULAR, 0o644, 1000, 1000, 1_700_000_000 * 10**9, size=3)
    archive = write([(plain, b"abc")])
    assert len(archive) == 512 + 512 + 1024
    assert archive[257:265] == b"ustar\x0000"
    assert archive[265:329] == bytes(64), "no user or group names"
    assert archive[-1024:] == bytes(1024)


def test_the_bytes_are_fixed():
    """What affects a digest is versioned: a change here is a new version of the format of commits."""
    attributes = {"user.x": b"", "user.a": b"2"}
    archive = write(
        [
            (Member(b"d/", T.DIRECTORY, 0o1777, mtime=1_700_000_000 * 10**9), b""),
            (Member(b"d/\xc3\xbc", T.REGULAR, 0o4755, 1 << 21, 5, 1_700_000_000_500_000_000, 4), b"data"),
            (Member(b"d/l", T.SYMLINK, 0o777, linkname=b"t" * 200), b""),
            (Member(b"d/h", T.HARDLINK, 0o4755, linkname=b"d/\xc3\xbc"), b""),
            (Member(b"d/s", T.REGULAR, size=9999, sparse=((4096, 4),), xattrs=attributes), b"hole"),
            (Member(b"d/c", T.CHARDEV, 0o600, major=5, minor=1), b""),
        ]
    )
    assert hashlib.sha256(archive).hexdigest() == "1948b2a9211d040444bbfe431eb9b7505fdde1fafbe617aa5c5cdd78fb2b940d"


def test_sizes_beyond_octal_need_a_record():
    big = Member(b"big", T.REGULAR, size=1 << 40, sparse=((0, 8 << 30),))

    class Zeros:
        left = 8 << 30

        def read(self, size: int, /) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

        def close(self) -> None:
            pass

    head = bytearray()
    writer = TarWriter(lambda data: head.extend(data) if len(head) < 4096 else None)
    writer.add(big, Zeros())
    assert b" size=8589935104\n" in head
    assert writer.offset == 1024 + 512 + 512 + (8 << 30)


@pytest.mark.parametrize(
    ("size", "change"), [(0, 1), *((size, change) for size in (1, 512, 70_000, 600_000) for change in (-1, 1, 1000))]
)
def test_files_that_change_while_they_are_read(size, change):
    out = bytearray()
    writer = TarWriter(out.extend)
    with pytest.raises(FailedPrecondition) as caught:
        writer.add(Member(b"name", T.REGULAR, size=size), io.BytesIO(bytes(size + change)))
    assert caught.value.code == "file-changed"
    assert caught.value.entry == b"name"
    with pytest.raises(InvalidInput):
        writer.add(Member(b"next", T.DIRECTORY))
    before = len(out)
    writer.close()
    assert len(out) == before, "a broken archive gets no end marker"


def test_data_in_small_pieces():
    class Drip:
        def __init__(self, data: bytes) -> None:
            self._stream = io.BytesIO(data)

        def read(self, size: int, /) -> bytes:
            return self._stream.read(min(size, 7))

        def close(self) -> None:
            raise AssertionError("not ours to close")

    data = bytes(range(256)) * 10
    out = bytearray()
    with TarWriter(out.extend) as writer:
        writer.add(Member(b"f", T.REGULAR, size=len(data)), Drip(data))
    (member,) = scan(bytes(out))
    assert content(bytes(out), member) == data


@pytest.mark.parametrize(
    "member",
    [
        Member(b"", T.DIRECTORY),
        Member(b"a\0b", T.DIRECTORY),
        Member(b"a/", T.REGULAR),
        Member(b"a", T.SYMLINK),
        Member(b"a", T.HARDLINK),
        Member(b"a", T.SYMLINK, linkname=b"x\0y"),
        Member(b"a", T.DIRECTORY, size=1),
        Member(b"a", T.REGULAR, size=-1),
        Member(b"a", T.REGULAR, size=1 << 63),
        Member(b"a", T.REGULAR, mode=0o10000),
        Member(b"a", T.REGULAR, uid=-1),
        Member(b"a", T.REGULAR, gid=(1 << 32) - 1),
        Member(b"a", T.CHARDEV, major=-1),
        Member(b"a", T.CHARDEV, minor=0o10000000),
        Member(b"a", T.REGULAR, xattrs={"": b""}),
        Member(b"a", T.REGULAR, xattrs={"user.\0": b""}),
        Member(b"a", T.REGULAR, size=10, sparse=((5, 6),)),
        Member(b"a", T.REGULAR, size=10, sparse=((5, 0),)),
        Member(b"a", T.REGULAR, size=10, sparse=((5, 2), (6, 2))),
        Member(b"a", T.REGULAR, size=10, sparse=((-1, 2),)),
        Member(b"a", T.FIFO, sparse=()),
    ],
    ids=str,
)
def test_members_that_cannot_be_written(member):
    out = bytearray()
    writer = TarWriter(out.extend)
    with pytest.raises(InvalidInput) as caught:
        writer.add(member, io.BytesIO() if member.type is T.REGULAR else None)
    assert caught.value.code == "tar-member"
    assert not out
    writer.add(Member(b"fine", T.DIRECTORY))
    assert [m.name for m in scan(bytes(out))] == [b"fine"]


def test_data_where_there_is_none_and_none_where_there_is():
    writer = TarWriter(bytearray().extend)
    with pytest.raises(InvalidInput):
        writer.add(Member(b"d", T.DIRECTORY), io.BytesIO(b"data"))
    with pytest.raises(InvalidInput):
        writer.add(Member(b"f", T.REGULAR, size=4))
    writer.add(Member(b"empty", T.REGULAR))


def test_a_writer_left_by_an_error_does_not_end_its_archive():
    out = bytearray()
    with pytest.raises(RuntimeError), TarWriter(out.extend) as writer:
        writer.add(Member(b"d", T.DIRECTORY))
        raise RuntimeError
    assert len(out) == 512
