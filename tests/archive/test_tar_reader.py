"""Reading tar: what GNU tar and bsdtar write in every format, against the files it was made of and against tarfile."""

from __future__ import annotations

import base64
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from tars import END, content, extended, header, padded, scan, with_checksum

from lamella.archive.tar import Member, MemberType, TarScanner
from lamella.errors import Unsupported

LONG = b"n" * 180
GNU = ("tar", "--numeric-owner", "--no-recursion", "--null", "-T-")
BSD = ("bsdtar", "--no-recursion", "--null", "-T-")
LIMITED = [
    *[(*GNU, f"--format={name}") for name in ("v7", "oldgnu", "gnu", "ustar", "posix")],
    *[(*BSD, f"--format={name}") for name in ("v7", "ustar", "gnutar", "pax", "paxr")],
]
UNLIMITED = [
    *[(*GNU, f"--format={name}") for name in ("oldgnu", "gnu", "posix")],
    *[(*GNU, "--format=posix", "--sparse", f"--sparse-version={version}") for version in ("0.0", "0.1", "1.0")],
    *[(*GNU, f"--format={name}", "--sparse") for name in ("oldgnu", "gnu")],
    (*GNU, "--format=posix", "--pax-option=globexthdr.name=g,comment=x,gname:=n"),
    *[(*BSD, f"--format={name}") for name in ("gnutar", "pax", "paxr")],
    (*BSD, "--format=pax", "--no-read-sparse"),
]
SUBSECOND = ("--format=posix", "--format=pax")


def is_root() -> bool:
    return os.geteuid() == 0


def make_plain(root: Path) -> None:
    """What every format can say."""
    (root / "dir").mkdir(mode=0o755)
    (root / "dir/file").write_bytes(b"content\n" * 1000)
    (root / "empty").touch()
    (root / "exactly").write_bytes(bytes(range(256)) * 2)
    (root / "large").write_bytes(b"0123456789abcdef" * 50_000)
    (root / ("d" * 40)).mkdir()
    (root / ("d" * 40) / ("f" * 50)).write_bytes(b"x")
    (root / "link").symlink_to("dir/file")
    os.link(root / "dir/file", root / "other")
    (root / "setuid").write_bytes(b"s")
    (root / "setuid").chmod(0o6755)
    (root / "dir").chmod(0o1777)
    (root / "secret").write_bytes(b"s")
    (root / "secret").chmod(0 if is_root() else 0o400)
    (root / "exactly").touch()
    os.utime(root / "exactly", (0, 1_234_567_890))
    os.utime(root / "empty", (0, 0))


def make_odd(root: Path) -> None:
    """What needs extensions, devices aside."""
    make_plain(root)
    deep = os.path.join(os.fsencode(root), LONG, LONG)
    os.makedirs(deep)
    Path(os.fsdecode(os.path.join(deep, LONG))).write_bytes(b"deep")
    os.symlink(b"t" * 300, os.path.join(os.fsencode(root), b"longlink"))
    os.link(os.path.join(deep, LONG), os.path.join(os.fsencode(root), b"longhard"))
    for name in ("\u00fcn\u00ef".encode(), b"not \xff\xfe utf8", b"new\nline", b"back\\slash", b"-dash", b"q'\"*?[a]"):
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(name)
    os.mkfifo(root / "fifo", 0o640)
    for name, ns in (("old", -1_500_000_000), ("older", -86_400 * 10**9 * 9000), ("late", 40_000_000_000 * 10**9)):
        (root / name).touch()
        os.utime(root / name, ns=(0, min(ns, 9_000_000_000 * 10**9)))
    (root / "fine").touch()
    os.utime(root / "fine", ns=(0, 1_700_000_000_123_456_789))
    with (root / "sparse").open("wb") as file:
        for piece in range(60):
            file.seek(piece * 131_072 + 4096)
            file.write(b"data %d\n" % piece)
        file.truncate(10_000_000)
    with (root / "hole").open("wb") as file:
        file.truncate(5_000_001)
    with (root / "ends").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"x")
    if is_root():
        os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
        os.chown(root / "fine", 3_000_000_000, 4_000_000_000)
        os.chown(root / "link", 2_097_152, 2_097_151, follow_symlinks=False)


def archive(command: tuple[str, ...], root: Path) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    top = os.fsencode(root)
    paths = (os.path.join(base, name) for base, dirs, files in os.walk(top) for name in dirs + files)
    names = sorted(os.path.relpath(path, top) for path in paths)
    done = subprocess.run([*command, "-cf", "-"], input=b"\0".join(names) + b"\0", cwd=root, capture_output=True)
    assert done.stdout, done.stderr.decode()
    return done.stdout


def assert_is_the_file(member: Member, data: bytes, path: bytes, *, ns: bool, members: dict[bytes, Member]) -> None:
    found = os.lstat(path)
    kinds = {
        stat.S_IFREG: MemberType.REGULAR,
        stat.S_IFLNK: MemberType.SYMLINK,
        stat.S_IFCHR: MemberType.CHARDEV,
        stat.S_IFBLK: MemberType.BLOCKDEV,
        stat.S_IFDIR: MemberType.DIRECTORY,
        stat.S_IFIFO: MemberType.FIFO,
    }
    if member.type is MemberType.HARDLINK:
        assert os.lstat(os.path.join(path[: -len(member.name)], member.linkname)).st_ino == found.st_ino
        assert members[member.linkname].type is MemberType.REGULAR
    else:
        assert member.type is kinds[stat.S_IFMT(found.st_mode)]
    assert (member.uid, member.gid) == (found.st_uid, found.st_gid)
    if member.type is not MemberType.SYMLINK:
        assert member.mode == stat.S_IMODE(found.st_mode)
    if ns or member.mtime % 10**9:
        assert member.mtime == found.st_mtime_ns
    else:
        assert member.mtime == found.st_mtime_ns // 10**9 * 10**9
    if member.type is MemberType.SYMLINK:
        assert member.linkname == os.readlink(path)
    if member.type in (MemberType.CHARDEV, MemberType.BLOCKDEV):
        assert (member.major, member.minor) == (os.major(found.st_rdev), os.minor(found.st_rdev))
    if member.type is MemberType.REGULAR:
        assert member.size == found.st_size
        assert content(data, member) == Path(os.fsdecode(path)).read_bytes()
    else:
        assert (member.size, member.stored_size, member.sparse) == (0, 0, None)


def assert_as_tarfile(members: list[Member], data: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as oracle:
        theirs = oracle.getmembers()
        assert [m.name.rstrip(b"/") for m in members] == [os.fsencode(m.name) for m in theirs]
        for our, their in zip(members, theirs, strict=True):
            assert (our.mode, our.uid, our.gid) == (their.mode & 0o7777, their.uid, their.gid)
            assert our.linkname == os.fsencode(their.linkname)
            assert bytes([48 + our.type]) == (their.type if their.type in b"123456" else b"0")
            assert our.mtime // 10**9 == their.mtime // 1
            if their.isreg():
                assert our.size == their.size
                stream = oracle.extractfile(their)
                assert stream is not None
                assert content(data, our) == stream.read()


def title(command: tuple[str, ...]) -> str:
    return " ".join((command[0], *(word for word in command if "=" in word or "sparse" in word)))


@pytest.mark.parametrize("command", LIMITED, ids=title)
def test_plain_trees_in_every_format(tmp_path, command):
    make_plain(tmp_path)
    data = archive(command, tmp_path)
    members = scan(data)
    names = {m.name.rstrip(b"/"): m for m in members}
    assert len(names) == len(members) == sum(len(d) + len(f) for _, d, f in os.walk(tmp_path))
    for name, member in names.items():
        path = os.path.join(os.fsencode(tmp_path), name)
        assert_is_the_file(member, data, path, ns=command[-1] in SUBSECOND, members=names)
    assert_as_tarfile(members, data)
    assert scan(data, step=100) == members


@pytest.mark.parametrize("command", UNLIMITED, ids=title)
def test_odd_trees_in_every_format_that_can(tmp_path, command):
    make_odd(tmp_path)
    data = archive(command, tmp_path)
    members = scan(data)
    names = {m.name.rstrip(b"/"): m for m in members}
    assert len(names) == len(members) == sum(len(d) + len(f) for _, d, f in os.walk(tmp_path))
    for name, member in names.items():
        if command[0] == "bsdtar" and name in (b"old", b"older", b"late"):
            continue  # libarchive writes -1.5 as -2.5, and times that octal cannot say as 0 or as the largest
        path = os.path.join(os.fsencode(tmp_path), name)
        subsecond = any(word in SUBSECOND for word in command)
        assert_is_the_file(member, data, path, ns=subsecond, members=names)
    assert_as_tarfile(members, data)
    assert scan(data, step=1000) == members
    if "--sparse" in command or command[-1] == "--format=pax":
        assert len(names[b"sparse"].sparse or ()) == 60
        assert names[b"hole"].sparse == ()


@pytest.mark.parametrize(
    "command",
    [
        ("tar", "--format=posix", "--xattrs", "--xattrs-include=*"),
        ("bsdtar", "--format=pax", "--xattrs"),
        ("bsdtar", "--format=pax", "--xattrs", "--options=pax:xattrheader=SCHILY"),
        ("bsdtar", "--format=pax", "--xattrs", "--options=pax:xattrheader=LIBARCHIVE"),
    ],
    ids=lambda c: " ".join((c[0], c[-1])),
)
def test_extended_attributes(tmp_path, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    wanted = {"user.text": b"value", "user.binary": bytes(range(256)), "user.100%": b"percent=%3D", "user.empty": b""}
    if is_root():
        wanted["security.capability"] = b"\1\0\0\2" + b"\0\x20" + bytes(14)
        wanted["trusted.overlay.opaque"] = b"y"
    if "SCHILY" not in command[-1] and command[0] == "tar":
        wanted["user.a=b"] = b"equals"
    (tmp_path / "file").write_bytes(b"x")
    try:
        for name, value in wanted.items():
            os.setxattr(tmp_path / "file", name, value)
    except OSError as error:
        pytest.skip(f"no extended attributes at {tmp_path}: {error}")
    done = subprocess.run([*command, "-cf", "-", "file"], cwd=tmp_path, capture_output=True)
    if done.returncode and b"options" in done.stderr:
        pytest.skip(f"this bsdtar does not know {command[-1]}")
    (member,) = scan(done.stdout)
    assert member.xattrs == wanted


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "old"])
def test_sparse_files_of_many_pieces(tmp_path, version):
    if shutil.which("tar") is None:
        pytest.skip("tar is not installed")
    for name, pieces in (("none", 0), ("four", 4), ("five", 5), ("twentyfive", 25), ("twentysix", 26), ("many", 700)):
        with (tmp_path / name).open("wb") as file:
            for piece in range(pieces):
                file.seek(piece * 8192 + 4096)
                file.write(b"%d" % piece * 100)
            file.truncate(pieces * 8192 + 8192 + 17)
    how = ["--format=gnu"] if version == "old" else ["--format=posix", f"--sparse-version={version}"]
    names = sorted(os.listdir(tmp_path))
    data = subprocess.run(["tar", *how, "-S", "-cf", "-", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    members = scan(data)
    assert [m.name.decode() for m in members] == names
    for member in members:
        assert content(data, member) == (tmp_path / member.name.decode()).read_bytes()
        assert member.sparse is not None
    assert scan(data, step=77) == members


def test_where_the_archive_ends():
    block = header(b"a")
    for tail, end in ((b"", 512), (bytes(512), 1024), (END, 1536), (bytes(10_240), 1536), (END + b"rest", 1536)):
        stream = io.BytesIO(block + tail)
        scanner = TarScanner(stream.read)
        assert scanner.end_offset is None
        assert [m.name for m in scanner] == [b"a"]
        assert scanner.end_offset == end
        assert stream.tell() == end, "what follows the end marker is the caller's"


def test_an_empty_archive():
    assert scan(b"") == []
    assert scan(END) == []


def test_v7_without_magic_and_directories_that_are_files():
    data = header(b"dir/", b"\0", magic=b"") + header(b"f", b"\0", magic=b"", size=3) + padded(b"abc")
    data += header(b"dir2/", b"0") + header(b"sub/", b"0", size=5) + padded(b"names") + header(b"c", b"7", size=1)
    data += padded(b"x") + END
    members = scan(data)
    assert [(m.name, m.type, m.size) for m in members] == [
        (b"dir/", MemberType.DIRECTORY, 0),
        (b"f", MemberType.REGULAR, 3),
        (b"dir2/", MemberType.DIRECTORY, 0),
        (b"sub/", MemberType.DIRECTORY, 0),
        (b"c", MemberType.REGULAR, 1),
    ]
    assert content(data, members[1]) == b"abc"


def test_the_prefix_belongs_to_ustar_only():
    assert scan(header(b"name", tail=b"some/prefix"))[0].name == b"some/prefix/name"
    assert scan(header(b"name", tail=b"p" * 155))[0].name == b"p" * 155 + b"/name"
    assert scan(header(b"name", magic=b"ustar  \0", tail=b"12345670123"))[0].name == b"name"
    assert scan(header(b"name", magic=b"", tail=b"garbage"))[0].name == b"name"
    star = b"p" * 131 + b"07777777777\0" * 2 + bytes(8) + b"tar\0"
    assert scan(header(b"name", tail=star))[0].name == b"p" * 131 + b"/name"


def test_numbers_in_every_notation():
    for field in (b"0000644\0", b"   644 \0", b"00000644", b"644\0\0\0\0\0", b"644 \0\0\0\0", b"644\0junk"):
        assert scan(header(mode=field))[0].mode == 0o644
    assert scan(header(mode=b"0100755\0"))[0].mode == 0o755, "the type bits that some tools add do not count"
    assert scan(header(mode=bytes(8), uid=bytes(8), mtime=bytes(12)))[0].mode == 0
    assert scan(header(uid=b"\x80" + bytes(3) + b"\xb2\xd0\x5e\x00"))[0].uid == 3_000_000_000
    assert scan(header(mtime=b"\xff" * 12))[0].mtime == -1_000_000_000
    assert scan(header(mtime=b"\x80" + bytes(7) + b"\x7f\xff\xff\xff"))[0].mtime == 0x7FFFFFFF * 10**9
    big = b"\x80" + bytes(6) + (1 << 34).to_bytes(5, "big")
    member = next(TarScanner(io.BytesIO(header(size=big)).read))
    assert (member.size, member.stored_size) == (1 << 34, 1 << 34)


def test_times_beyond_64_bits_are_clamped():
    assert scan(header(mtime=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7))[0].mtime == (1 << 63) - 1
    assert scan(header(mtime=b"\xff" * 4 + b"\x80" + bytes(7)))[0].mtime == -(1 << 63)
    assert scan(extended((b"mtime", b"9" * 30)) + header())[0].mtime == (1 << 63) - 1
    assert scan(extended((b"mtime", b"-" + b"9" * 30 + b".5")) + header())[0].mtime == -(1 << 63)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"0", 0),
        (b"1700000000", 1_700_000_000_000_000_000),
        (b"1.5", 1_500_000_000),
        (b"1.", 1_000_000_000),
        (b".25", 250_000_000),
        (b"-1", -1_000_000_000),
        (b"-1.5", -1_500_000_000),
        (b"-0.000000001", -1),
        (b"0.1234567899", 123_456_789),
        (b"-0.1234567891", -123_456_790),
        (b"-0.1234567890", -123_456_789),
        (b"12.000000000000000000000000", 12_000_000_000),
    ],
)
def test_pax_times(text, ns):
    assert scan(extended((b"mtime", text)) + header())[0].mtime == ns


def test_signed_checksums():
    for name in (b"\xff\xfe\xfd", b"plain"):
        assert scan(header(name, signed=True))[0].name == name
        assert scan(header(name))[0].name == name


def test_pax_records_override_the_header():
    records = (
        (b"path", b"p" * 300),
        (b"linkpath", b"l" * 300),
        (b"uid", b"4294967294"),
        (b"gid", b"4000000000"),
        (b"comment", b"\0anything\0"),
        (b"SCHILY.dev", b"66306"),
    )
    member = scan(extended(*records) + header(b"x", b"2", link=b"y") + END)[0]
    assert (member.name, member.linkname) == (b"p" * 300, b"l" * 300)
    assert (member.uid, member.gid) == (4_294_967_294, 4_000_000_000)


def test_the_pax_size_counts():
    data = extended((b"size", b"700")) + header(size=1) + padded(b"x" * 700) + header(b"next") + END
    members = scan(data)
    assert [(m.name, m.size) for m in members] == [(b"file", 700), (b"next", 0)]
    assert content(data, members[0]) == b"x" * 700
    link = extended((b"size", b"700")) + header(b"l", b"1", link=b"file", size=700) + header(b"next") + END
    assert [(m.name, m.size) for m in scan(link)] == [(b"l", 0), (b"next", 0)]


def test_devices_in_pax_records():
    records = extended((b"SCHILY.devmajor", b"300"), (b"SCHILY.devminor", b"20000000"))
    member = scan(records + header(b"d", b"3", devices=b"0000001\x000000002\0"))[0]
    assert (member.major, member.minor) == (300, 20_000_000)
    assert scan(header(b"f", b"0", devices=b"garbage!garbage!"))[0].major == 0


def test_global_records_last_and_local_ones_win():
    data = extended((b"uid", b"7"), (b"mtime", b"5"), flag=b"g")
    data += header(b"a") + extended((b"uid", b"8")) + header(b"b") + extended((b"uid", b"")) + header(b"c")
    data += header(b"d") + extended((b"uid", b""), flag=b"g") + header(b"e") + END
    assert [(m.name, m.uid, m.mtime) for m in scan(data)] == [
        (b"a", 7, 5 * 10**9),
        (b"b", 8, 5 * 10**9),
        (b"c", 0, 5 * 10**9),
        (b"d", 7, 5 * 10**9),
        (b"e", 0, 5 * 10**9),
    ]


def test_gnu_long_names_win_over_pax():
    long = header(b"././@LongLink", b"L", size=201, magic=b"ustar  \0") + padded(b"g" * 200 + b"\0")
    target = header(b"././@LongLink", b"K", size=151, magic=b"ustar  \0") + padded(b"t" * 150 + b"\0")
    for parts in (long + target, target + long, extended((b"path", b"pax"), (b"linkpath", b"p")) + long + target):
        member = scan(parts + header(b"short", b"2", link=b"short") + END)[0]
        assert (member.name, member.linkname) == (b"g" * 200, b"t" * 150)


def test_volume_headers_and_dump_directories():
    data = header(b"label", b"V", magic=b"ustar  \0") + header(b"d/", b"D", size=600, magic=b"ustar  \0")
    data += padded(b"Yfile\0" * 100) + header(b"d/file") + END
    assert [(m.name, m.type, m.size) for m in scan(data)] == [
        (b"d/", MemberType.DIRECTORY, 0),
        (b"d/file", MemberType.REGULAR, 0),
    ]


@pytest.mark.parametrize("flag", [b"M", b"N", b"A", b"Z", b"\xff", b"8"])
def test_types_that_are_not_understood(flag):
    with pytest.raises(Unsupported) as caught:
        scan(header(b"what", flag, size=3) + padded(b"abc") + END)
    assert caught.value.code == "tar-type"
    assert caught.value.entry == b"what"


def test_attributes_in_both_dialects():
    value = base64.b64encode(b"\0binary\xff").rstrip(b"=")
    records = (
        (b"LIBARCHIVE.xattr.user.a%20b%3Dc", value),
        (b"LIBARCHIVE.xattr.user.both", base64.b64encode(b"encoded")),
        (b"SCHILY.xattr.user.both", b"plain"),
        (b"SCHILY.xattr.user.100%25%3D%zz", b""),
        (b"SCHILY.xattr.user.\xff", b"a\0b"),
    )
    assert scan(extended(*records) + header())[0].xattrs == {
        "user.a b=c": b"\0binary\xff",
        "user.both": b"plain",
        "user.100%=%zz": b"",
        "user.\udcff": b"a\0b",
    }


def test_nothing_is_read_ahead():
    """A layer that is still arriving is indexed as far as it has arrived."""
    stream = io.BytesIO(header(b"a", size=600) + padded(b"x" * 600) + header(b"b") + END)
    scanner = TarScanner(stream.read)
    assert next(scanner).name == b"a"
    assert stream.tell() == 512
    assert next(scanner).name == b"b"
    assert stream.tell() == 2048


def test_large_members_are_read_in_pieces():
    sizes = []

    def read(size: int) -> bytes:
        sizes.append(size)
        return stream.read(size)

    data = header(b"a", size=1_000_001) + padded(bytes(1_000_001)) + header(b"b") + END
    stream = io.BytesIO(data)
    assert [m.name for m in TarScanner(read)] == [b"a", b"b"]
    assert max(sizes) <= 256 << 10


def test_headers_whose_checksum_field_is_odd():
    block = header(b"a")
    assert scan(block[:148] + block[149:154] + b"\0  " + block[156:])[0].name == b"a"
    assert with_checksum(block) == block
