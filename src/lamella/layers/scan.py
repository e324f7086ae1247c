"""Reads a directory of the host as the rows of a layer: the writable branch of a mount, or a whole tree.

How a branch records that something was deleted depends on what mounted it; ``Form`` says which. Links are never
followed and nothing outside is opened: every directory is entered through the handle of the one above it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lamella._sys.beneath import RootDir
from lamella._sys.files import os_errors
from lamella.archive import whiteouts
from lamella.archive.whiteouts import Marker
from lamella.errors import InvalidInput, ResourceExhausted, Unsupported, printable
from lamella.layers.entry import NO_XATTRS, Entry, Kind
from lamella.layers.index import LayerIndex
from lamella.layers.override import OVERRIDE_XATTR, restore, unescape
from lamella.layers.paths import join
from lamella.layers.sources import HostSource
from lamella.mounts.model import Form
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_KINDS = {
    stat.S_IFREG: Kind.REGULAR,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARDEV,
    stat.S_IFBLK: Kind.BLOCKDEV,
    stat.S_IFIFO: Kind.FIFO,
}
_PRIVATE = {
    Form.OVERLAY: (b"trusted.overlay.",),
    Form.OVERLAY_USER: (b"user.overlay.", b"user.fuseoverlayfs.", b"trusted.overlay."),
    Form.AUFS: (),
    Form.PLAIN: (),
}
_OPAQUE = {form: frozenset(prefix + b"opaque" for prefix in prefixes) for form, prefixes in _PRIVATE.items()}
_STRANGE = {
    form: frozenset(prefix + what for prefix in prefixes for what in (b"redirect", b"metacopy"))
    for form, prefixes in _PRIVATE.items()
}
"""Only what the union of a form understands: under another name they are xattrs of the image, and say nothing here."""
_FUSE_OPAQUE = (whiteouts.OPAQUE, b".wh..opq")
"""What fuse-overlayfs puts into a directory that it makes opaque, beside the xattr."""
_NO_XATTR_SUPPORT = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES})


@dataclass(frozen=True, slots=True)
class Owners:
    """How the owners of files are to be read: ``mapped`` is the caller without root, whose files count as root's."""

    mapped: tuple[int, int] | None = None

    @classmethod
    def of_caller(cls) -> Owners:
        """As they are for root; for anybody else, the caller's own ids are 0 inside the image."""
        return cls() if os.geteuid() == 0 else cls((os.geteuid(), os.getegid()))


@dataclass(slots=True)
class Scan:
    """What a directory holds: its rows as an index, where the content is, and the first name of each inode (AUFS)."""

    index: LayerIndex
    source: HostSource
    notes: list[str] = field(default_factory=list)
    inodes: dict[int, bytes] = field(default_factory=dict)


def scan(
    root: Path,
    form: Form,
    *,
    since: int | None = None,
    owners: Owners | None = None,
    lower_name: Callable[[int], bytes] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = NO_PROGRESS,
) -> Scan:
    """Read the tree at ``root``, which records deletions in ``form``.

    ``since`` (ns, the change time of the file system's own clock) marks what has an older change time, and stands in
    directories that have, as untouched. ``lower_name`` says, for AUFS, under which name the file of an inode number
    shows in the union of the branches below (empty: none). Sockets are skipped with a note. Raises Unsupported for a
    branch of an overlay mounted with features that Lamella never uses (redirects, metadata-only copies), since reading
    it plainly would be wrong.
    """
    scanner = _Scanner(root, form, since, owners or Owners.of_caller(), limits)
    scanner.lower_name = lower_name or scanner.lower_name
    with os_errors(str(root)):
        rows = list(scanner.rows())
    for note in scanner.notes:
        progress.note(note)
    touched = None if since is None else scanner.touched
    return Scan(LayerIndex.of(rows), HostSource(root, touched), scanner.notes, scanner.inodes)


class _Scanner:
    def __init__(self, root: Path, form: Form, since: int | None, owners: Owners, limits: Limits) -> None:
        self._root, self._form, self._since, self._owners, self._limits = root, form, since, owners, limits
        self._first: dict[tuple[int, int], bytes] = {}
        self._pseudo: dict[tuple[int, int], int] = {}
        self._count = 0
        self.lower_name: Callable[[int], bytes] = lambda inode: b""
        self.inodes: dict[int, bytes] = {}
        self.touched: set[bytes] = set()
        self.notes: list[str] = []

    def rows(self) -> Iterator[Entry]:
        with RootDir(self._root) as top:
            pending: list[bytes] = []
            fd = top.open(b"", os.O_RDONLY | os.O_DIRECTORY, links="refuse")
            try:
                if self._form is Form.AUFS:
                    self._read_pseudo_links(fd)
                yield from self._self_rows(b"", os.fstat(fd), fd)
                yield from self._listed(b"", fd, pending)
            finally:
                os.close(fd)
            while pending:
                path = pending.pop()
                fd = top.open(path, os.O_RDONLY | os.O_DIRECTORY, links="refuse")
                try:
                    yield from self._listed(path, fd, pending)
                finally:
                    os.close(fd)

    def _listed(self, path: bytes, fd: int, pending: list[bytes]) -> Iterator[Entry]:
        below: list[bytes] = []
        names = sorted(os.fsencode(name) for name in os.listdir(fd))
        gone = _whited_out(names) if self._form is Form.AUFS else ()
        for name in names:
            if name not in gone:
                yield from self._named(path, name, fd, below)
        pending.extend(reversed(below))

    def _named(self, parent: bytes, name: bytes, fd: int, below: list[bytes]) -> Iterator[Entry]:
        path = join(parent, name)
        self._count += 1
        if self._count > self._limits.layer_entries:
            raise ResourceExhausted("the directory has more entries than the limit", code="layer-entries", entry=path)
        if len(path) > self._limits.path_bytes or path.count(b"/") >= self._limits.path_depth:
            raise ResourceExhausted(
                "the path is longer or deeper than the limit", code="entry-path-long", entry=path[:300]
            )
        if self._form is Form.AUFS and name.startswith(whiteouts.PREFIX) and name != whiteouts.PREFIX:
            yield from self._aufs_marker(path)
            return
        if self._form is Form.OVERLAY_USER and name in _FUSE_OPAQUE:
            yield Entry(parent, Kind.OPAQUE)
            return
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self.notes.append(f"/{printable(path)}: sockets are not kept")
        elif kind == Kind.CHARDEV and status.st_rdev == 0 and self._form in (Form.OVERLAY, Form.OVERLAY_USER):
            yield Entry(path, Kind.WHITEOUT)
        elif kind == Kind.DIRECTORY:
            self._touch(parent, path, status)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield from self._self_rows(path, status, inner)
            finally:
                os.close(inner)
            below.append(path)
        else:
            yield from self._file(path, name, fd, status, kind)

    def _aufs_marker(self, path: bytes) -> Iterator[Entry]:
        marker, subject = whiteouts.classify(path)
        if marker == Marker.WHITEOUT:
            yield Entry(subject, Kind.WHITEOUT)
        elif marker == Marker.OPAQUE:
            yield Entry(subject, Kind.OPAQUE)

    def _self_rows(self, path: bytes, status: os.stat_result, fd: int) -> Iterator[Entry]:
        """The row of a directory, and the marker that makes it opaque."""
        xattrs = _read_xattrs(fd)
        if not _STRANGE[self._form].isdisjoint(xattrs):
            raise Unsupported(
                "the directory was written through an overlay with redirects", code="overlay-redirect", entry=path
            )
        if any(xattrs.get(name) == b"y" for name in _OPAQUE[self._form]):
            yield Entry(path, Kind.OPAQUE)
        yield self._entry(path, Kind.DIRECTORY, status, xattrs)

    def _file(self, path: bytes, name: bytes, fd: int, status: os.stat_result, kind: Kind) -> Iterator[Entry]:
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            if identity in self._pseudo:
                yield Entry(path, Kind.PSEUDO_LINK, link=self.lower_name(self._pseudo[identity]))
            first = self._first.setdefault(identity, path)
            if first != path:
                self._touch(path.rpartition(b"/")[0], first, status)
                yield Entry(path, Kind.HARDLINK, link=first)
                return
        if self._form is Form.AUFS:
            self.inodes.setdefault(status.st_ino, path)
        link = os.readlink(name, dir_fd=fd) if kind == Kind.SYMLINK else b""
        xattrs = _read_xattrs(f"/proc/self/fd/{fd}".encode() + b"/" + name)
        if not _STRANGE[self._form].isdisjoint(xattrs):
            raise Unsupported("the file holds metadata only", code="overlay-metacopy", entry=path)
        self._touch(path.rpartition(b"/")[0], path, status)
        yield self._entry(path, kind, status, xattrs, link)

    def _touch(self, parent: bytes, path: bytes, status: os.stat_result) -> None:
        """Note what may have changed: also all that is below a directory that may have been moved here."""
        if self._since is not None and (status.st_ctime_ns >= self._since or parent in self.touched):
            self.touched.add(path)

    def _entry(
        self, path: bytes, kind: Kind, status: os.stat_result, xattrs: dict[bytes, bytes], link: bytes = b""
    ) -> Entry:
        device = kind in (Kind.CHARDEV, Kind.BLOCKDEV)
        uid, gid = status.st_uid, status.st_gid
        if self._owners.mapped is not None:
            uid = 0 if uid == self._owners.mapped[0] else uid
            gid = 0 if gid == self._owners.mapped[1] else gid
        entry = Entry(
            path,
            kind,
            stat.S_IMODE(status.st_mode),
            uid,
            gid,
            status.st_mtime_ns,
            status.st_size if kind == Kind.REGULAR else 0,
            0,
            link,
            os.major(status.st_rdev) if device else 0,
            os.minor(status.st_rdev) if device else 0,
            self._public_xattrs(xattrs) if xattrs else NO_XATTRS,
        )
        # Root writes files as they are. What it finds under this name is the image's, or somebody's who would be root.
        override = xattrs.get(OVERRIDE_XATTR) if self._owners.mapped is not None else None
        return entry if override is None else restore(entry, override)

    def _public_xattrs(self, xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The image's own xattrs: what the union keeps for itself is left out, what it escapes is unescaped."""
        result = {}
        for stored, value in sorted(xattrs.items()):
            name = stored
            if self._owners.mapped is not None:
                if name == OVERRIDE_XATTR:
                    continue
                name = unescape(name)
            prefix = next((p for p in _PRIVATE[self._form] if name.startswith(p)), None)
            if prefix is None:
                result[name] = value
            elif name.startswith(prefix + b"overlay."):
                result[prefix + name[len(prefix) + len(b"overlay.") :]] = value
        return result

    def _read_pseudo_links(self, root: int) -> None:
        """Note which files of the branch AUFS holds as pseudo-links (``.wh..wh.plnk/<lower ino>.<branch ino>``).

        A name whose second number is not that of the file comes from another disk, and its first means nothing here.
        """
        try:
            fd = os.open(
                whiteouts.PSEUDO_LINKS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root
            )
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            for name in os.listdir(fd):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                lower, _, own = name.partition(".")
                known = lower.isdecimal() and own == str(status.st_ino)
                self._pseudo[(status.st_dev, status.st_ino)] = int(lower) if known else -1
        finally:
            os.close(fd)


def _whited_out(names: list[bytes]) -> set[bytes]:
    """The names that whiteouts among ``names`` take away, those beside them too: AUFS looks for the whiteout first."""
    prefix = whiteouts.PREFIX
    return {name[len(prefix) :] for name in names if name.startswith(prefix) and not name.startswith(whiteouts.META)}


def _read_xattrs(target: int | bytes) -> dict[bytes, bytes]:
    """The xattrs of an open file, or of a path whose last component is not followed; none where they cannot be had."""
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
        if not names:
            return NO_XATTRS
        return {os.fsencode(name): os.getxattr(target, name, follow_symlinks=follow) for name in names}
    except OSError as error:
        if error.errno in _NO_XATTR_SUPPORT:
            return NO_XATTRS
        raise


def check_names(index: LayerIndex) -> None:
    """Refuse names that a layer would take for whiteouts. Raises InvalidInput naming the entry."""
    for entry in index.entries:
        if entry.path.rpartition(b"/")[2].startswith(whiteouts.PREFIX):
            raise InvalidInput(
                "a layer cannot hold a file whose name starts with '.wh.'", code="whiteout-like-name", entry=entry.path
            )
