"""The reader of EROFS metadata: it gives back what was written, and damage is an error, nothing else."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
import struct
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamella.layers.entry import Entry, Kind
from lamella.layers.erofs import write_erofs
from lamella.layers.index import LayerIndex
from lamella.layers.sources import TarSource
from lamella.layers.tree import MergedTree
from lamella.mounts import _tiny_image
from lamella.mounts._erofs_reader import Devices, ErofsReader
from lamella.mounts.fuse_server import ImageServer

_KINDS = {
    Kind.REGULAR: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARDEV: stat.S_IFCHR,
    Kind.BLOCKDEV: stat.S_IFBLK,
}


_OPEN = []


@pytest.fixture(autouse=True)
def _closed():
    yield
    while _OPEN:
        _OPEN.pop().close()


def reader_of(data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        _OPEN.append(ErofsReader(file.fileno()))
    return _OPEN[-1]


def written(entries, tar):
    """The metadata and the side file of a tree of rows whose content is in the file ``tar``."""
    tree = MergedTree().apply(LayerIndex.of(entries), TarSource("sha256:none", lambda: tar))
    out, side = io.BytesIO(), tempfile.TemporaryFile()  # noqa: SIM115 - whoever gets it closes it
    layout = write_erofs(tree, out, side)
    return tree, out.getvalue(), side, layout


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "tar"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    return path


_NAMES = st.one_of(st.binary(min_size=1, max_size=5), st.sampled_from([b"n" * 255, b"m" * 254])).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
_XATTRS = st.dictionaries(
    st.sampled_from([b"user.a", b"user." + b"x" * 250, b"trusted.t", b"security.s"]),
    st.binary(max_size=700),
    max_size=3,
)


@st.composite
def _entries(draw):
    found = [Entry(b"", Kind.DIRECTORY, 0o755, 1, 2, -5, xattrs=draw(_XATTRS))]
    directories = [b""]
    for _ in range(draw(st.integers(0, 60))):
        parent, name = draw(st.sampled_from(directories)), draw(_NAMES)
        path = parent + b"/" + name if parent else name
        kind = draw(st.sampled_from([Kind.REGULAR] * 3 + [Kind.DIRECTORY, Kind.SYMLINK, Kind.FIFO, Kind.BLOCKDEV]))
        if any(entry.path == path for entry in found):
            continue
        blocks = draw(st.integers(0, 1000))
        size = draw(st.integers(0, 100_000))
        found.append(
            Entry(
                path,
                kind,
                draw(st.integers(0, 0o7777)),
                draw(st.integers(0, (1 << 32) - 2)),
                draw(st.integers(0, 70_000)),
                draw(st.integers(-(1 << 62), 1 << 62)),
                size if kind is Kind.REGULAR else 0,
                blocks * 512 + draw(st.sampled_from([0, 0, 0, 7])) if kind is Kind.REGULAR else 0,
                b"t" * draw(st.sampled_from([1, 100, 400, 511, 4095])) if kind is Kind.SYMLINK else b"",
                *((8, 257) if kind is Kind.BLOCKDEV else (0, 0)),
                draw(_XATTRS) if kind in (Kind.REGULAR, Kind.DIRECTORY) else {},
            )
        )
        if kind is Kind.DIRECTORY:
            directories.append(path)
    return found


@settings(max_examples=60)
@given(entries=_entries())
def test_what_was_written_is_read(tmp_path_factory, entries):
    path = tmp_path_factory.getbasetemp() / "reader-tar"
    if not path.exists():
        path.write_bytes(random.Random(1).randbytes(1 << 20))
    tree, data, side, layout = written(entries, path)
    reader = reader_of(data)
    with path.open("rb") as tar, side:
        devices = Devices([*[tar.fileno()] * len(layout.devices), *([side.fileno()] if layout.side_size else [])])
        stack = [(tree.root, reader.root, reader.root)]
        while stack:
            node, nid, parent = stack.pop()
            _check_inode(reader, devices, tar, node.entry, nid)
            if node.children is None:
                continue
            listed = {name: found for _, name, found, _ in reader.list(nid, 0)}
            assert list(listed) == sorted([*node.children, b".", b".."])
            assert (listed[b"."], listed[b".."]) == (nid, parent)
            for name, child in node.children.items():
                assert reader.lookup(nid, name) == listed[name]
                assert reader.lookup(nid, name + b"\x01") == listed.get(name + b"\x01", 0)
                stack.append((child, listed[name], nid))


def _check_inode(reader, devices, tar, entry, nid):
    inode = reader.inode(nid)
    assert stat.S_IFMT(inode.mode) == _KINDS[entry.kind]
    assert (inode.uid, inode.gid) == (entry.uid, entry.gid)
    assert inode.seconds * 10**9 + inode.nanoseconds == entry.mtime
    assert reader.xattrs(nid) == {name: value for name, value in entry.xattrs.items() if len(name) <= 255}
    if entry.kind is Kind.SYMLINK:
        assert reader.link(nid) == entry.link
        return
    assert stat.S_IMODE(inode.mode) == entry.mode
    if entry.kind is Kind.BLOCKDEV:
        assert (inode.value >> 8 & 0xFFF, inode.value & 0xFF | inode.value >> 12 & ~0xFF) == (8, 257)
    if entry.kind is Kind.REGULAR:
        expected = os.pread(tar.fileno(), entry.size, entry.offset)
        assert b"".join(devices.read(reader, nid, 0, entry.size + 5)) == expected
        assert b"".join(devices.read(reader, nid, 1000, 600)) == expected[1000:1600]
        assert reader.blocks_of(nid) == -(-entry.size // 512)


def test_a_listing_goes_on_where_it_was_left(tar):
    names = sorted(b"%05d%s" % (number, b"x" * (number % 250)) for number in range(500))
    _, data, side, _ = written([Entry(name, Kind.REGULAR) for name in names], tar)
    side.close()
    reader = reader_of(data)
    whole = list(reader.list(reader.root, 0))
    assert [name for _, name, _, _ in whole if not name.startswith(b".")] == names
    for number, (position, _, _, _) in enumerate(whole):
        assert next(reader.list(reader.root, position), None) == (whole[number + 1 :] or [None])[0]
    assert list(reader.list(reader.root, 1 << 40)) == []


def test_the_holes_of_a_sparse_file(tar):
    segments = ((64 << 10, 100), (1 << 20, 5000))
    entry = Entry(b"s", Kind.REGULAR, size=2 << 20, sparse=segments)
    _, data, side, _ = written([entry, Entry(b"hole", Kind.REGULAR, size=1 << 20, sparse=())], tar)
    reader = reader_of(data)
    nid = reader.lookup(reader.root, b"s")
    assert reader.seek(nid, 0, hole=False) == 64 << 10
    assert reader.seek(nid, 70_000, hole=False) == 70_000
    assert reader.seek(nid, 70_000, hole=True) == 128 << 10
    assert reader.seek(nid, 1 << 20, hole=True) == (1 << 20) + (64 << 10)
    assert reader.seek(nid, 5, hole=True) == 5
    for offset in (2 << 20, (1 << 20) + (64 << 10), -1):
        with pytest.raises(OSError, match=r"behind the end|no more data") as caught:
            reader.seek(nid, offset, hole=False)
        assert caught.value.errno == errno.ENXIO
    assert reader.blocks_of(nid) == 2 * 128
    hole = reader.lookup(reader.root, b"hole")
    assert reader.blocks_of(hole) == 0
    with side:
        assert b"".join(Devices([side.fileno()]).read(reader, hole, 0, 1 << 21)) == bytes(1 << 20)


def test_what_is_no_image_is_refused():
    good = _tiny_image.metadata()
    assert reader_of(good).root == 48
    for damage in (b"", good[:1100], good[:2048], bytes(4096), good.replace(b"\xe2\xe1\xf5\xe0", b"\xe2\xe1\xf5\xe1")):
        with pytest.raises(OSError, match="damaged metadata") as caught:
            reader_of(damage)
        assert caught.value.errno == errno.EIO
    for root in (0, 50, 0xFFFF):
        with pytest.raises(OSError, match="damaged metadata"):
            reader_of(good[:1038] + struct.pack("<H", root) + good[1040:])


_ERRORS = (errno.EIO, errno.ENOTDIR, errno.EINVAL, errno.ENODATA, errno.ENXIO, errno.ERANGE, errno.ENOSYS)
_BODIES = {
    1: b"file\0",
    3: bytes(16),
    5: b"",
    15: struct.pack("<QQIIQII", 0, 0, 1 << 17, 0, 0, 0, 0),
    17: b"",
    22: struct.pack("<II", 100, 0) + b"user.a\0",
    23: struct.pack("<II", 1000, 0),
    28: struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0),
    44: struct.pack("<QQIIQII", 0, 0, 1 << 17, 0, 0, 0, 0),
    46: struct.pack("<QQII", 0, 0, 4, 0),
}


def test_damage_of_any_byte_is_an_error_and_no_more(tar):
    """Whatever is damaged, every request has an answer, soon, and of a size that was asked for."""
    entries = [
        Entry(b"file", Kind.REGULAR, size=70_000, xattrs={b"user.a": b"1", b"trusted.b": b"2" * 300}),
        Entry(b"sparse", Kind.REGULAR, size=1 << 20, sparse=((4096, 10),)),
        Entry(b"link", Kind.SYMLINK, link=b"x" * 20),
        Entry(b"long", Kind.SYMLINK, link=b"x" * 600),
        Entry(b"d", Kind.DIRECTORY),
        *(Entry(b"d/%d" % number, Kind.REGULAR, size=number) for number in range(60)),
    ]
    _, good, side, _ = written(entries, tar)
    source = random.Random(7)
    used = [at for at in range(1024, len(good)) if good[at]]
    errors = 0
    with tar.open("rb") as file, side:
        devices = Devices([file.fileno(), side.fileno()])
        for _ in range(1500):
            data = bytearray(good)
            for _ in range(source.choice((1, 1, 3))):
                data[source.choice(used)] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
            try:
                reader = reader_of(bytes(data))
            except OSError as error:
                assert error.errno == errno.EIO
                errors += 1
                continue
            server = ImageServer(reader, devices)
            nodes = [1, *(source.randrange(40, 400) for _ in range(4))]
            for node in nodes:
                for opcode, body in _BODIES.items():
                    answer = server.answer(opcode, node, body)
                    if isinstance(answer, int):
                        assert answer in (
                            errno.EIO,
                            errno.ENOTDIR,
                            errno.EINVAL,
                            errno.ENODATA,
                            errno.ENXIO,
                            errno.ERANGE,
                        )
                        errors += 1
                    else:
                        size = len(answer) if isinstance(answer, bytes) else sum(map(len, answer))
                        assert size <= 1 << 17
            _OPEN.pop().close()
    assert errors > 1000


def test_requests_that_make_no_sense_are_answered_with_an_error():
    server = ImageServer(reader_of(_tiny_image.metadata()), Devices([]))
    for opcode in range(60):
        for body in (b"", b"\0", b"x" * 7, bytes(24), b"\xff" * 48):
            for node in (0, 1, 48, 50, 1 << 40, (1 << 64) - 1):
                answer = server.answer(opcode, node, body)
                assert isinstance(answer, int | bytes | list)
    assert server.answer(15, 50, _BODIES[15]) == errno.EIO  # there is no device
    assert server.answer(35, 1, b"") == errno.ENOSYS
    assert server.answer(39, 1, b"") == errno.ENOTTY
