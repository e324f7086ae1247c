"""Random trees of files, as hypothesis draws them and as the file system makes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the trees may have in them: all that a file system keeps, or what an old archive can hold."""

    path: int = 2000
    name: int = 255
    ids: int = (1 << 32) - 2
    times: tuple[int, int] = (-(1 << 31) * 10**9, (1 << 33) * 10**9 - 1)
    fractions: bool = True
    special: bool = True
    utf8: bool = False
    xattrs: tuple[str, ...] = ("user.a", "user.long.name", "trusted.b", "user.utf8-\u00e9")


ALL = Bounds()
OLD = Bounds(path=98, name=90, ids=0o777777, times=(0, (1 << 33) * 10**9 - 1), xattrs=())


@dataclass(frozen=True, slots=True)
class File:
    """One file to be made. ``content`` has (offset, bytes) for each piece; the file ends at ``size``."""

    path: bytes
    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: bytes = b""
    device: int = 0
    pieces: tuple[tuple[int, bytes], ...] = ()
    size: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)


_LETTERS = st.sampled_from([b"a", b"b", b"\xc3\xa9", b"\xff", b" ", b"\n", b"%", b"=", b"-", b"\\", b"*", b".", b"A"])
_KINDS = [stat.S_IFREG, stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFLNK, 0]
# tar knows no hard links of fifos and devices: it writes the file again.
_LINKED = (stat.S_IFREG, stat.S_IFLNK)
_SPECIAL = [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK]
_DEVICES = st.builds(os.makedev, st.integers(1, 4000), st.sampled_from([0, 1, 255, 256, 200_000]))


def _names(bounds: Bounds) -> st.SearchStrategy[bytes]:
    short = st.lists(_LETTERS, min_size=1, max_size=5).map(b"".join)
    long = st.tuples(_LETTERS, st.sampled_from([60, 99, 100, 101, 155, 156, 255])).map(lambda t: (t[0] * 255)[: t[1]])
    return st.one_of(short, short, short, long).filter(lambda name: _fits(name, bounds))


def _fits(name: bytes, bounds: Bounds) -> bool:
    if len(name) > bounds.name or name in (b".", b"..") or name.startswith(b".wh."):
        return False
    return not bounds.utf8 or name.decode("utf-8", "ignore").encode() == name


def _owners(limit: int) -> st.SearchStrategy[int]:
    known = [0, 0, 0o7777777, 0o10000000, (1 << 32) - 2]
    return st.one_of(st.sampled_from(known), st.integers(0, 70_000)).filter(lambda owner: owner <= limit)


def _times(bounds: Bounds) -> st.SearchStrategy[int]:
    first, last = bounds.times
    known = [0, 1, 999_999_999, 10**9, -1, -(10**9), 1_700_000_000_123_456_789, (1 << 31) * 10**9]
    times = st.one_of(st.sampled_from([t for t in known if first <= t <= last]), st.integers(first, last))
    return times if bounds.fractions else times.map(lambda time: time // 10**9 * 10**9)


_PIECES = st.lists(
    st.tuples(st.integers(0, 200).map(lambda n: n * BLOCK), st.binary(min_size=1, max_size=300)), max_size=3
)
_CONTENT = st.one_of(
    st.binary(max_size=1200).map(lambda data: (((0, data),), len(data))),
    _PIECES.map(lambda pieces: (tuple(pieces), 201 * BLOCK)),
    st.sampled_from([511, 512, 513, 10_240, 70_000]).map(lambda size: (((0, b"x" * size),), size)),
)
_VALUES = st.one_of(st.binary(max_size=40), st.just(b"\n=\0"))


@st.composite
def trees(draw: st.DrawFn, bounds: Bounds = ALL, size: int = 12) -> list[File]:
    """A list of files to make, directories before what is in them; a kind of 0 is a hard link to ``link``."""
    made: dict[bytes, File] = {b"": draw(_files(b"", stat.S_IFDIR, bounds))}
    for _ in range(draw(st.integers(0, size))):
        parents = sorted(path for path, file in made.items() if file.kind == stat.S_IFDIR)
        parent, name = draw(st.sampled_from(parents)), draw(_names(bounds))
        path = parent + b"/" + name if parent else name
        if path in made or len(path) > bounds.path:
            continue
        kind = draw(st.sampled_from(_KINDS + (_SPECIAL if bounds.special else [])))
        if kind:
            made[path] = draw(_files(path, kind, bounds))
        elif others := sorted(other for other, file in made.items() if file.kind in _LINKED):
            made[path] = File(path, 0, link=draw(st.sampled_from(others)))
    return list(made.values())


@st.composite
def _files(draw: st.DrawFn, path: bytes, kind: int, bounds: Bounds) -> File:
    pieces, size = draw(_CONTENT) if kind == stat.S_IFREG else ((), 0)
    xattrs = draw(st.dictionaries(st.sampled_from(bounds.xattrs), _VALUES, max_size=2)) if bounds.xattrs else {}
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        xattrs = {name: value for name, value in xattrs.items() if name.startswith("trusted.")}
    return File(
        path,
        kind,
        draw(st.one_of(st.sampled_from([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0]), st.integers(0, 0o7777))),
        draw(_owners(bounds.ids)),
        draw(_owners(bounds.ids)),
        draw(_times(bounds)),
        draw(st.sampled_from([b"a", b"/", b"../../x", b"\xff" * 40, b"y" * 95])) if kind == stat.S_IFLNK else b"",
        draw(_DEVICES) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        pieces,
        size,
        xattrs,
    )


def make(files: Sequence[File], root: Path) -> None:
    """Make the files in the directory ``root``, which becomes the first of them. Takes root."""
    at = {file.path: os.path.join(os.fsencode(root), file.path) if file.path else os.fsencode(root) for file in files}
    for file in files:
        path = at[file.path]
        if not file.kind:
            os.link(at[file.link], path, follow_symlinks=False)
        elif file.kind == stat.S_IFLNK:
            os.symlink(file.link, path)
        elif file.kind == stat.S_IFDIR:
            if file.path:
                os.mkdir(path)
        elif file.kind == stat.S_IFREG:
            _write(path, file)
        else:
            os.mknod(path, file.kind | 0o600, file.device)
    for file in reversed([file for file in files if file.kind]):
        _dress(at[file.path], file)


def _write(path: bytes, file: File) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.ftruncate(fd, file.size)
        for offset, data in file.pieces:
            os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def _dress(path: bytes, file: File) -> None:
    os.chown(path, file.uid, file.gid, follow_symlinks=False)
    for name, value in file.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if file.kind != stat.S_IFLNK:
        os.chmod(path, file.mode)
    os.utime(path, ns=(0, file.mtime), follow_symlinks=False)
