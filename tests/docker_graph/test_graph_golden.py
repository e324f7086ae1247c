"""The golden vectors that docker's own tests had for records with their layers: the same records and layers made anew.

One layer cannot be made: it holds a file of a distribution. It is taken from docker's source where that is installed.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from lamella.formats.docker_graph import Config, Moment, Record, checksum, tarsum
from support import needs

UPSTREAM = Path("/usr/share/gocode/src/github.com/docker/docker/pkg/tarsum/testdata")
"""Where Debian's golang-github-docker-docker-dev has the layers of docker's tests."""
SUDOERS = "46af0962ab5afeb5ce6740d4d91652e69206fc991fd5328c1a94d364ad00e457"
SCRATCH = "511136ea3c5a64f264b78b5433614aec563103b4d4702f3ba7d4d2698e22c158"
CAPABILITY = "\x01\0\0\x02\udcc0" + 15 * "\0"


def member(
    name, content=b"", *, mode, mtime, flag=tarfile.REGTYPE, owner=(0, 0, "", ""), pax=None, magic=b"ustar\x0000"
):
    """A member with its header as given, the bits of the mode included that tell the type."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.type = len(content), mtime, flag
    info.uid, info.gid, info.uname, info.gname = owner
    info.pax_headers = pax or {}
    data = info.tobuf(tarfile.PAX_FORMAT)
    before, header = data[:-512], data[-512:]
    header = header[:100] + b"%07o\0" % mode + header[108:148] + 8 * b" " + header[156:257] + magic + header[265:]
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return before + header + content + bytes(-len(content) % 512)


def archive(*members):
    return io.BytesIO(b"".join(members) + bytes(1024))


def test_the_layer_that_everything_stood_on():
    record = Record(
        id=SCRATCH,
        comment="Imported from -",
        created=Moment.parse("2013-06-13T14:03:50.821769-07:00"),
        docker_version="0.4.0",
        architecture="x86_64",
        size=0,
    )
    layer = archive(member("./", flag=tarfile.DIRTYPE, mode=0o40755, mtime=1371157405))
    assert tarsum(layer, record.render((0, 10, 0))) == (
        "tarsum+sha256:ac672ee85da9ab7f9667ae3c32841d3e42f33cc52c273c23341dabba1c8b0c8b"
    )


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0", "tarsum+sha256:e86f81a4d552f13039b1396ed03ca968ea9717581f9577ef1876ea6ff9b38c98"),
        ("dev", "tarsum.dev+sha256:6235cd3a2afb7501bac541772a3d61a3634e95bc90bb39a4676e2cb98d08390d"),
    ],
)
def test_a_layer_with_a_capability(version, expected):
    parent = "73b164f4437db87e96e90083c73a6592f549646ae2ec00ed33c6b9b49a5c4470"
    run = {
        "Hostname": "9565c6517a0e",
        "Env": ["HOME=/", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Image": parent,
        "OnBuild": [],
    }
    record = Record(
        id="4439c3c7f847954100b42b267e7e5529cac1d6934db082f65795c5ca2e594d93",
        parent=parent,
        created=Moment.parse("2014-05-16T17:19:44.091534414Z"),
        container="5f92fb06cc58f357f0cde41394e2bbbb664e663974b2ac1693ab07b7a306749b",
        container_config=Config.of(
            **run, Cmd=["/bin/sh", "-c", "setcap 'cap_setgid,cap_setuid+ep' ./file && getcap ./file"]
        ),
        docker_version="0.11.1-dev",
        config=Config.of(**run),
        architecture="amd64",
        os="linux",
        size=0,
    )
    layer = archive(
        member("file", mode=0o100644, mtime=1400260726, pax={"SCHILY.xattr.security.capability": CAPABILITY})
    )
    assert tarsum(layer, record.render((0, 12, 0)), version=version) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("ab", "08653904a68d3ab5c59e65ef58c49c1581caa3c34744f8d354b3f575ea04424a"),
        ("ba", "b51c13fbefe158b5ce420d2b930eef54c5cd55c50a2ee4abdddea8fa9f081e0d"),
        ("b", "381547080919bb82691e995508ae20ed33ce0f6948d41cafbeb70ce20c73ee8e"),
        ("a", "f886e431c08143164a676805205979cd8fa535dfcef714db5515650eea5a7c0f"),
    ],
)
def test_one_name_twice(names, expected):
    who = {"mode": 0o644, "owner": (1000, 1000, "vbatts", "vbatts"), "magic": b"ustar  \0"}
    files = {
        "a": member("file", b"farts\n", mtime=1409861938, **who),
        "b": member("file", b"HOWDY\n", mtime=1409861993, **who),
    }
    assert tarsum(archive(*(files[name] for name in names))) == f"tarsum+sha256:{expected}"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0", "tarsum+sha256:e58fcf7418d4390dec8e8fb69d88c06ec07039d651fedd3aa72af9972e7d046b"),
        ("dev", "tarsum.dev+sha256:486b86e25c4db4551228154848bc4663b15dd95784b1588980f4ba1cb42e83e9"),
    ],
)
def test_a_layer_with_a_file_of_a_distribution(version, expected):
    directory = UPSTREAM / SUDOERS
    if not directory.is_dir():
        needs.missing("docker's own test data (Debian's golang-github-docker-docker-dev)")
    # What that package has of the record is without a field that has gone since, and ends in a newline.
    json = (directory / "json").read_bytes().strip()
    if b'"PortSpecs"' not in json:
        json = json.replace(b'"ExposedPorts"', b'"PortSpecs":null,"ExposedPorts"')
    with open(directory / "layer.tar", "rb") as layer:
        assert tarsum(layer, json, version=version) == expected


def packed(*blocks, stamp):
    """What ``gzip -9`` made of a ``layer.tar``."""
    tar = b"".join(blocks) + bytes(1024)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflater.compress(tar) + deflater.flush()
    head = struct.pack("<4sIBB", b"\x1f\x8b\x08\x08", stamp, 2, 3) + b"layer.tar\0"
    return head + body + struct.pack("<II", zlib.crc32(tar), len(tar))


def of_bsd(name, flag, mode, mtime, content=b""):
    """A member as bsdtar writes it: numbers end in blanks."""
    numbers = b"%06o \x00000765 \x00000024 \0%011o %011o " % (mode, len(content), mtime)
    names = b"ustar\x0000" + b"shad".ljust(32, b"\0") + b"staff".ljust(32, b"\0") + b"000000 \x00000000 \0"
    before, after = name.ljust(100, b"\0") + numbers, flag + bytes(100) + names + bytes(167)
    sum_of = b"%06o\0 " % (sum(before) + 8 * 0x20 + sum(after))
    return before + sum_of + after + content + bytes(-len(content) % 512)


BASE = "77dbf71da1d00e3fbddc480176eac8994025630c6590d11cfc8fe1209c2a1d20"
CHILD = "42d718c941f5c532ac049bf0b0ab53f0062f09a03afd4aa4a02c098e46032b9d"


@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="zlib-ng compresses otherwise than gzip does")
@pytest.mark.parametrize(
    ("ids", "created", "content", "times", "stamp", "expected"),
    [
        (
            {"id": BASE},
            "2013-03-23T12:53:11.10432-07:00",
            b"base\n",
            (0o12173530016, 0o12173527013),
            0x51EEB00E,
            "sha256:1ac330d56e05eef6d438586545ceff7550d3bdcb6b19961f12c5ba714ee1bb37",
        ),
        (
            {"id": CHILD, "parent": BASE},
            "2013-03-23T12:55:11.10432-07:00",
            b"child\n",
            (0o12173531675, 0o12173527774),
            0x51EEB3BD,
            "sha256:bea7bf2e4bacd479344b737328db47b18880d09096e6674165533aa994f5e9f2",
        ),
    ],
    ids=["base", "child"],
)
def test_the_layers_of_the_registry_that_docker_tested_with(ids, created, content, times, stamp, expected):
    record = Record(**ids, comment="test base image", created=Moment.parse(created), size=424242)
    directory, file = times
    layer = packed(
        of_bsd(b"./", b"5", 0o755, directory), of_bsd(b"./test.txt", b"0", 0o644, file, content), stamp=stamp
    )
    assert len(layer) == {BASE: 152, CHILD: 154}[record.id]
    assert checksum(record.render((0, 5, 0)), io.BytesIO(layer)) == expected
