"""Trees told apart: a directory of the host, the files of an image, the members of a tar, all in one form.

The form is a plain dictionary from path (bytes, the root is ``b""``) to ``Leaf``. Reading a directory uses nothing of
Lamella: it is the second opinion that everything is held against.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from lamella import Image, TreeView

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Leaf:
    """Everything that can be told of one path. ``group`` is the first name of a file that has several."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    content: str = ""
    group: bytes | None = None


Tree: TypeAlias = "dict[bytes, Leaf]"


def read_directory(root: Path, *, hidden: Iterable[str] = ()) -> Tree:
    """The tree at a directory of the host; xattrs whose names start with one of ``hidden`` are left out."""
    found: Tree = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, at in _walk(os.fsencode(root)):
        info = os.lstat(at)
        identity = (info.st_dev, info.st_ino)
        if identity in names:
            found[path] = found[names[identity][0]]
        else:
            found[path] = _leaf(at, info, tuple(hidden))
        if not stat.S_ISDIR(info.st_mode):
            # Not told by st_nlink: unions count the names that they have seen so far, or those of the branch.
            names.setdefault(identity, []).append(path)
    return _grouped(found, names.values())


def read_view(source: Image | TreeView) -> Tree:
    """The files of an image or of a snapshot, read without mounting."""
    found: Tree = {}
    names: dict[int, list[bytes]] = {}
    for info in source.walk():
        kind = _KINDS[stat.S_IFMT(info.st_mode)]
        content = ""
        if info.inode in names:
            content = found[names[info.inode][0]].content
        elif kind == "file":
            with source.open(info.path) as stream:
                content = _sha256(iter(partial(stream.read, _CHUNK), b""))
        found[info.path] = Leaf(
            kind,
            info.mode if kind != "link" else 0o777,
            info.uid,
            info.gid,
            info.mtime,
            info.size if kind == "file" else 0,
            info.link if kind == "link" else b"",
            (info.major, info.minor),
            tuple(sorted((os.fsdecode(name), value) for name, value in info.xattrs.items())),
            content,
        )
        if info.links > 1:
            names.setdefault(info.inode, []).append(info.path)
    return _grouped(found, names.values())


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    yield b"", root
    stack = [b""]
    while stack:
        parent = stack.pop()
        with os.scandir(os.path.join(root, parent) if parent else root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = parent + b"/" + entry.name if parent else entry.name
                yield path, entry.path
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)


def _leaf(at: bytes, info: os.stat_result, hidden: tuple[str, ...]) -> Leaf:
    kind = _KINDS[stat.S_IFMT(info.st_mode)]
    content = ""
    if kind == "file":
        with open(at, "rb") as file:
            content = _sha256(iter(partial(file.read, _CHUNK), b""))
    names = [name for name in os.listxattr(at, follow_symlinks=False) if not name.startswith(hidden or ("\0",))]
    return Leaf(
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        info.st_size if kind == "file" else 0,
        os.readlink(at) if kind == "link" else b"",
        (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in ("char", "block") else (0, 0),
        tuple(sorted((name, os.getxattr(at, name, follow_symlinks=False)) for name in names)),
        content,
    )


def _sha256(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _grouped(found: Tree, groups: Iterable[list[bytes]]) -> Tree:
    for group in groups:
        if len(group) > 1:
            for path in group:
                found[path] = replace(found[path], group=min(group))
    return found


def without(tree: Mapping[bytes, Leaf], *names: str, at: Iterable[bytes] | None = None) -> Tree:
    """The tree with fields of these names blank, everywhere or only at the paths ``at``."""
    blank: dict[str, Any] = dict.fromkeys(names)
    chosen = set(tree) if at is None else set(at)
    return {path: replace(leaf, **blank) if path in chosen else leaf for path, leaf in tree.items()}


def differences(left: Mapping[bytes, Leaf], right: Mapping[bytes, Leaf]) -> list[str]:
    """What tells two trees apart, one line a path and field."""
    lines = [f"only left: {path!r}" for path in sorted(left.keys() - right.keys())]
    lines += [f"only right: {path!r}" for path in sorted(right.keys() - left.keys())]
    for path in sorted(left.keys() & right.keys()):
        a, b = left[path], right[path]
        if a != b:
            lines += [
                f"{path!r} {field.name}: {getattr(a, field.name)!r} != {getattr(b, field.name)!r}"
                for field in fields(Leaf)
                if getattr(a, field.name) != getattr(b, field.name)
            ]
    return lines


def assert_same(left: Mapping[bytes, Leaf], right: Mapping[bytes, Leaf]) -> None:
    """Fail with the differences of two trees, if there are any."""
    found = differences(left, right)
    assert not found, "\n".join([f"{len(found)} differences", *found[:40]])
