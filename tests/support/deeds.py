"""Random things that a user does to files, drawn by hypothesis and done to a real directory."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import strategies as st

from support import building as b

# Two layers, the second of which replaces, deletes and makes opaque, so that there is something below to be hidden.
LOWER = b.tar(
    b.directory("d", 0o750, owner=(5, 6)),
    b.directory("d/e"),
    b.directory("d/e/f"),
    b.directory("empty"),
    b.file("a", "a\n"),
    b.file("b", "first\n"),
    b.file("d/x", "x" * 5000, owner=(1000, 1000), mode=0o640),
    b.file("d/y", "y\n"),
    b.file("d/e/z", "z\n"),
    b.file("d/e/f/deep", "deep\n"),
    b.file("s", "setuid\n", mode=0o4755),
    b.file("t", "attributes\n", xattrs={"user.one": "1", "user.two": "2"}),
    b.symlink("l", "a"),
    b.symlink("ld", "d"),
    b.symlink("broken", "no/where"),
    b.fifo("p"),
    b.character_device("dev", 1, 3, mode=0o666),
)
UPPER = b.tar(
    b.directory("d", 0o755, owner=(7, 8)),
    b.gone("d/y"),
    b.directory("d/e"),
    b.opaque("d/e"),
    b.file("d/e/n", "new below\n"),
    b.file("b", "second\n"),
    b.file("k", b"\0" * 9000),
)
LINKS = b.tar(
    b.file("h1", "linked\n", mode=0o600),
    b.hard_link("h2", "h1"),
    b.hard_link("d/h3", "h1"),
    b.hard_link("k2", "k"),
)

_THERE = ["a", "b", "d", "d/x", "d/y", "d/e", "d/e/n", "d/e/f", "s", "t", "l", "ld", "broken", "p", "dev", "empty", "k"]
_NEW = ["n1", "d/n2", "d/e/n3", "nd", "nd/q", "empty/r", "ld/n4"]
_LINKED = ["h1", "h2", "d/h3", "k2"]

Deed: TypeAlias = "tuple[Any, ...]"


def deeds(*, linked: bool) -> st.SearchStrategy[list[Deed]]:
    """Lists of things to do; ``linked`` says whether files of the image with several names are among the victims."""
    paths = st.sampled_from([*_THERE, *_NEW, *(_LINKED if linked else [])])
    times = st.integers(0, 2 * 10**18)
    return st.lists(
        st.one_of(
            st.tuples(st.just(_write), paths, st.integers(0, 6000), st.binary(min_size=1, max_size=20)),
            st.tuples(st.just(_create), paths, st.binary(max_size=20)),
            st.tuples(st.just(_append), paths, st.binary(min_size=1, max_size=20)),
            st.tuples(st.just(_truncate), paths, st.sampled_from([0, 1, 2, 9000, 200_000])),
            st.tuples(st.just(_chmod), paths, st.sampled_from([0o644, 0o600, 0o755, 0o4711, 0o1777, 0o2750])),
            st.tuples(st.just(_chown), paths, st.sampled_from([0, 5, 70_000]), st.sampled_from([0, 6, 70_001])),
            st.tuples(st.just(_utime), paths, times),
            st.tuples(st.just(_rename), paths, paths),
            st.tuples(st.just(_unlink), paths),
            st.tuples(st.just(_rmdir), paths),
            st.tuples(st.just(_remove_all), paths),
            st.tuples(st.just(_symlink), paths, st.sampled_from(["a", "../x", "d", "nowhere"])),
            st.tuples(st.just(_link), paths, paths),
            st.tuples(st.just(_mkdir), paths),
            st.tuples(st.just(_mkdir_instead), paths),
            st.tuples(st.just(_file_instead), paths),
            st.tuples(st.just(_set_xattr), paths, st.sampled_from(["user.one", "user.new"]), st.binary(max_size=9)),
            st.tuples(st.just(_remove_xattr), paths),
            st.tuples(st.just(_fifo), paths),
            st.tuples(st.just(_device), paths),
            st.tuples(st.just(_touch_only), paths),
        ),
        min_size=1,
        max_size=12,
    )


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, and with which error number each deed ended."""

    outcomes: tuple[int, ...]


def do(root: Path, what: Sequence[Deed], *, after: Done | None = None) -> Done:
    """Do it to the tree at ``root``. With ``after``, what failed there is left out, and the rest must not fail."""
    outcomes = []
    for number, (act, path, *arguments) in enumerate(what):
        if after is not None and after.outcomes[number]:
            outcomes.append(after.outcomes[number])
            continue
        try:
            act(root / path, *(root / a if act in (_rename, _link) else a for a in arguments))
            outcomes.append(0)
        except OSError as error:
            if after is not None:
                pytest.fail(f"{act.__name__} {path}: {error}")
            outcomes.append(error.errno or errno.EINVAL)
    return Done(tuple(outcomes))


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)


def _only_files(path: Path) -> None:
    """Nobody reads the fifo, and what is written to the device is gone."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no file")


def _put(path: Path, flags: int, data: bytes, offset: int | None = None) -> None:
    _only_files(path)
    fd = _open(path, flags)
    try:
        os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def _write(path: Path, offset: int, data: bytes) -> None:
    _put(path, 0, data, offset)


def _create(path: Path, data: bytes) -> None:
    _put(path, os.O_CREAT | os.O_TRUNC, data)


def _append(path: Path, data: bytes) -> None:
    _put(path, os.O_APPEND, data)


def _truncate(path: Path, size: int) -> None:
    _only_files(path)
    fd = _open(path, 0)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _touch_only(path: Path) -> None:
    """Open for writing and write nothing: a union copies the file up, and nothing has changed."""
    _put(path, 0, b"")


def _chmod(path: Path, mode: int) -> None:
    if path.is_symlink():
        raise OSError(errno.EINVAL, "a link")
    path.chmod(mode)


def _chown(path: Path, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def _utime(path: Path, time: int) -> None:
    os.utime(path, ns=(time, time), follow_symlinks=False)


def _rename(path: Path, to: Path) -> None:
    os.rename(path, to)


def _unlink(path: Path) -> None:
    path.unlink()


def _rmdir(path: Path) -> None:
    path.rmdir()


def _remove_all(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "rmtree would wait for somebody to write to a fifo")
    shutil.rmtree(path)


def _symlink(path: Path, target: str) -> None:
    path.symlink_to(target)


def _link(path: Path, to: Path) -> None:
    os.link(path, to, follow_symlinks=False)


def _mkdir(path: Path) -> None:
    path.mkdir()


def _mkdir_instead(path: Path) -> None:
    """A directory where there was something else, and something in it."""
    _clear(path)
    path.mkdir()
    (path / "inside").write_bytes(b"inside\n")


def _file_instead(path: Path) -> None:
    _clear(path)
    path.write_bytes(b"instead\n")


def _clear(path: Path) -> None:
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def _set_xattr(path: Path, name: str, value: bytes) -> None:
    os.setxattr(path, name, value, follow_symlinks=False)


def _remove_xattr(path: Path) -> None:
    os.removexattr(path, "user.one", follow_symlinks=False)


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 300))
