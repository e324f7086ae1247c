"""Writes trees into directories, for the drivers and callers that need one.

The target is a fresh directory that nobody else can reach, and every path written comes from a merged tree, in which
all links are resolved already: a parent is always a directory that this extraction made itself. Files are created with
O_EXCL and O_NOFOLLOW, so that nothing an image says can be written through.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from lamella._sys.beneath import RootDir
from lamella._sys.files import map_os_error
from lamella.archive import whiteouts
from lamella.errors import Integrity, LamellaError, Unsupported, printable
from lamella.layers.entry import Entry, Kind
from lamella.layers.override import OVERRIDE_XATTR, escape, needs_override, override_of, written_mode
from lamella.layers.paths import join
from lamella.layers.sources import ContentSource, TarSource
from lamella.layers.tree import MergedTree, Node
from lamella.layers.xattrs import written_name
from lamella.mounts.model import Form
from lamella.spec.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL = 1 << 20
_REFUSED_XATTRS = frozenset(
    {errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.E2BIG, errno.ENOSPC, errno.ERANGE, errno.EINVAL}
)
_TIME_MIN, _TIME_MAX = -(1 << 31) * 10**9, (1 << 31) * 10**9
_BATCH = 256
_NEW_FILE = 0o600
P = ParamSpec("P")


@dataclass(slots=True)
class Extracted:
    """What an extraction wrote: how many entries, how many bytes of content, and what could not be kept."""

    entries: int = 0
    content_size: int = 0
    notes: list[str] = field(default_factory=list)


def extract(
    old: MergedTree | None,
    new: MergedTree,
    target: Path,
    form: Form,
    *,
    lowers: Sequence[Path] = (),
    progress: Progress = NO_PROGRESS,
    key: str = "",
    workers: int = 2,
) -> Extracted:
    """Write what leads from ``old`` to ``new`` (all of ``new`` if ``old`` is None) into the empty directory ``target``.

    With ``old``, what is gone is written as whiteouts of ``form``. ``lowers`` are the directories that the layers of
    ``old`` were written to, bottom first: a name that links to a file of theirs becomes a link to it; an AUFS branch
    gets all names of such a file. Nothing is synced: that is for whoever makes the directory visible. What the file
    system or the caller's rights cannot hold is noted, never skipped in silence.
    """
    from concurrent.futures import ThreadPoolExecutor  # it brings logging with it, which nothing else needs

    job = _Extraction(new, target, form, _Lowers(old, lowers), progress, key)
    pool = ThreadPoolExecutor(workers, "extract")
    try:
        job.run(None if old is None else old.root, pool)
    finally:
        pool.shutdown(cancel_futures=True)
        job.close()
    for note in job.result.notes:
        progress.note(note)
    return job.result


def dress_directory(path: Path, entry: Entry, form: Form) -> None:
    """Give the directory ``path``, the top of a branch of ``form``, the owner, mode, xattrs and times of ``entry``."""
    empty = MergedTree()
    empty.root = Node(entry, 0, {}, None)
    job = _Extraction(empty, path, form, _Lowers(None, ()), NO_PROGRESS, "")
    try:
        job.finish_directory(b"", entry)
    finally:
        job.close()


def dress_branch(path: Path, below: Node, form: Form) -> None:
    """Make a branch that adds to a tree, and has no say in it, keep the directories of ``below`` as they are there.

    Each looks as it does in the tree; what is no directory gives way to one.
    """
    with os.scandir(path) as entries:
        for entry in list(entries):
            there = (below.children or {}).get(os.fsencode(entry.name))
            if there is None or there.children is None:
                continue
            if entry.is_dir(follow_symlinks=False):
                dress_branch(path / entry.name, there, form)
            else:
                os.unlink(entry.path)
    dress_directory(path, below.entry, form)


class _Lowers:
    """The directories that the layers of a tree were written to, bottom first."""

    def __init__(self, tree: MergedTree | None, directories: Sequence[Path]) -> None:
        self._tree, self._directories = tree, directories
        self._names: dict[int, bytes] | None = None

    def link(self, node: Node, path: bytes, root: int) -> bool:
        """Make ``path`` below ``root`` a link to the file that is ``node``; False where that cannot be.

        The file is looked for under the name that it has in the tree, which need not be that of its member: the topmost
        directory that has this name has the file that shows under it.
        """
        if self._tree is None or node.layer >= len(self._directories):
            return False
        if self._names is None:
            self._names = {}
            for at, found in self._tree.walk():
                if found.children is None:
                    self._names.setdefault(id(found), at)
        name = self._names.get(id(node))
        if name is None:
            return False
        parent, _, last = name.rpartition(b"/")
        for directory in reversed(self._directories):
            try:
                with RootDir(directory) as lower:
                    fd = lower.open(parent, os.O_PATH | os.O_DIRECTORY, links="refuse")
            except OSError:
                continue
            try:
                os.link(last, path, src_dir_fd=fd, dst_dir_fd=root, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                return False
            finally:
                os.close(fd)
            return True
        return False


class _Extraction:
    def __init__(
        self, tree: MergedTree, target: Path, form: Form, lowers: _Lowers, progress: Progress, key: str
    ) -> None:
        self._tree, self._form, self._lowers, self._progress, self._key = tree, form, lowers, progress, key
        self._root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._as_root = os.geteuid() == 0
        self._tars: dict[int, int] = {}
        self._directories: list[tuple[bytes, Entry]] = []
        self._seen: dict[int, bytes] = {}
        self._shared = tree.link_counts()
        self._links: list[tuple[bytes, bytes]] = []
        self._noted: set[str] = set()
        self.result = Extracted()

    def close(self) -> None:
        for fd in (*self._tars.values(), self._root):
            os.close(fd)
        self._tars.clear()

    def run(self, old: Node | None, pool: ThreadPoolExecutor) -> None:
        """Directories first, files behind them in batches, then hard links, then what directories are to look like."""
        self._directories.append((b"", self._tree.root.entry))
        files = self._plan(old)
        if self._form is Form.AUFS:
            self._bring_names()
        batches = [files[at : at + _BATCH] for at in range(0, len(files), _BATCH)]
        for future in [pool.submit(self._files, batch) for batch in batches]:
            self.result.content_size += future.result()
        self.result.entries += len(files) + len(self._links)
        for existing, path in self._links:
            self._make(path, self._hard_link, existing, path)
        for path, entry in reversed(self._directories):
            self._make(path, self.finish_directory, path, entry)

    def _plan(self, old_root: Node | None) -> list[tuple[bytes, Node]]:
        """Make the directories and whiteouts that are needed; return the files to write, in the order of the tree."""
        files: list[tuple[bytes, Node]] = []
        stack: list[tuple[bytes, Node | None, Node]] = [(b"", old_root, self._tree.root)]
        while stack:
            path, old, new = stack.pop()
            before, after = (old.children if old is not None else None) or {}, new.children or {}
            for name in sorted(before.keys() - after.keys()):
                self._make(join(path, name), self._whiteout, path, name)
            below = []
            for name in sorted(after):
                was, now = before.get(name), after[name]
                if was is now:
                    continue
                at = join(path, name)
                if now.children is None:
                    if not self._reads_as_whiteout(at, now.entry) or was is not None:
                        self._plan_file(at, now, files)
                    continue
                self._make(at, self._directory, at, now.entry)
                below.append((at, was if was is not None and was.children is not None else None, now))
            stack.extend(reversed(below))
        return files

    def _reads_as_whiteout(self, path: bytes, entry: Entry) -> bool:
        """Whether an overlay takes a file for a mark. Over nothing it is left out: else listed, and not there."""
        if entry.kind != Kind.CHARDEV or entry.major or entry.minor:
            return False
        if not self._as_root or self._form not in (Form.OVERLAY, Form.OVERLAY_USER):
            return False
        self._note(f"/{printable(path)}: a character device 0/0 reads as a whiteout in an overlay; it will not show")
        return True

    def _plan_file(self, path: bytes, node: Node, files: list[tuple[bytes, Node]]) -> None:
        """A file with several names is written at the first; the other names become links once all is written."""
        if id(node) in self._shared:
            first = self._seen.setdefault(id(node), path)
            if first != path:
                self._links.append((first, path))
                return
            if self._lowers.link(node, path, self._root):
                self.result.entries += 1
                return
        files.append((path, node))

    def _bring_names(self) -> None:
        """Plan the other names of files that get a new one: AUFS shows names as links only within one branch.

        ``auplink`` brings them into the branch in the same way.
        """
        written = {*self._seen.values(), *(path for _, path in self._links)}
        if len(written) == sum(self._shared[node] for node in self._seen):
            return
        made = {path for path, _ in self._directories}
        trail: list[tuple[bytes, Entry]] = []
        for path, node in self._tree.walk():
            while trail and not path.startswith(trail[-1][0] + b"/"):
                trail.pop()
            if node.children is not None:
                if path:
                    trail.append((path, node.entry))
            elif id(node) in self._seen and path not in written:
                for at, entry in trail:
                    if at not in made:
                        made.add(at)
                        self._make(at, self._directory, at, entry)
                self._links.append((self._seen[id(node)], path))

    def _make(self, path: bytes, act: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            act(*args, **kwargs)
        except OSError as error:
            raise map_os_error(error, "extracting").about(entry=path) from error
        except LamellaError as error:
            raise error.about(entry=path) from None

    # -- directories and whiteouts

    def _directory(self, path: bytes, entry: Entry) -> None:
        """Make a directory. In place of a file it needs no mark: no union merges a directory with a file below."""
        os.mkdir(path, 0o700, dir_fd=self._root)
        self._directories.append((path, entry))
        self.result.entries += 1

    def finish_directory(self, path: bytes, entry: Entry) -> None:
        fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        try:
            self._dress(fd, entry, path)
        finally:
            os.close(fd)

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        if self._form is Form.AUFS:
            fd = os.open(whiteouts.whiteout_of(join(parent, name)), _CREATE, 0o444, dir_fd=self._root)
            os.close(fd)
        elif self._form is Form.PLAIN:
            raise Unsupported("a plain tree cannot record deletions", code="plain-whiteout")
        else:
            os.mknod(join(parent, name), stat.S_IFCHR | 0o600, 0, dir_fd=self._root)
        self.result.entries += 1

    # -- files

    def _files(self, batch: list[tuple[bytes, Node]]) -> int:
        size = 0
        for path, node in batch:
            try:
                size += self._file(path, node)
            except OSError as error:
                label = self._tree.sources[node.layer].label
                raise map_os_error(error, "extracting").about(entry=path, layer=label) from error
            except LamellaError as error:
                raise error.about(entry=path, layer=self._tree.sources[node.layer].label) from None
        self._progress.advance(self._key, size)
        return size

    def _file(self, path: bytes, node: Node) -> int:
        entry = node.entry
        if entry.kind == Kind.REGULAR:
            fd = os.open(path, _CREATE, _NEW_FILE, dir_fd=self._root)
            try:
                self._content(fd, entry, node.layer)
                self._dress(fd, entry, path)
            finally:
                os.close(fd)
            return entry.size
        if entry.kind == Kind.SYMLINK:
            os.symlink(entry.link, path, dir_fd=self._root)
        elif entry.kind == Kind.FIFO:
            os.mkfifo(path, 0o600, dir_fd=self._root)
        else:
            self._device(path, entry)
        self._dress_by_name(path, entry)
        return 0

    def _device(self, path: bytes, entry: Entry) -> None:
        if not self._as_root:
            fd = os.open(path, _CREATE, _NEW_FILE, dir_fd=self._root)
            os.close(fd)
            self._note("devices cannot be made without root; they are kept as marked empty files")
            return
        type_bits = stat.S_IFCHR if entry.kind == Kind.CHARDEV else stat.S_IFBLK
        os.mknod(path, type_bits | 0o600, os.makedev(entry.major, entry.minor), dir_fd=self._root)

    def _content(self, fd: int, entry: Entry, layer: int) -> None:
        if not entry.size:
            return
        source = self._tree.sources[layer]
        if isinstance(source, TarSource) and entry.sparse is None:
            tar = self._tar(layer, source)
            if entry.size <= _SMALL:
                data = os.pread(tar, entry.size, entry.offset)
                if len(data) == entry.size and os.write(fd, data) == len(data):
                    return
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
            _copy_range(tar, fd, entry, source)
            return
        _copy_segments(source, fd, entry)

    def _tar(self, layer: int, source: TarSource) -> int:
        fd = self._tars.get(layer)
        if fd is None:
            opened = source.open_tar()
            fd = self._tars.setdefault(layer, opened)
            if fd != opened:
                os.close(opened)
        return fd

    # -- metadata

    def _dress(self, fd: int, entry: Entry, path: bytes) -> None:
        """Owner, xattrs, mode, times, in the order in which one does not undo the other."""
        if self._as_root:
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            mode = entry.mode
        else:
            mode = written_mode(entry)
            if needs_override(entry):
                os.setxattr(fd, OVERRIDE_XATTR, override_of(entry))
        if entry.xattrs:
            self._xattrs(fd, entry, path)
        if mode != _NEW_FILE or entry.kind == Kind.DIRECTORY or entry.uid or entry.gid:
            os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))
        if not _TIME_MIN <= entry.mtime < _TIME_MAX:
            self._check_time(os.fstat(fd), entry, path)

    def _dress_by_name(self, path: bytes, entry: Entry) -> None:
        is_link = entry.kind == Kind.SYMLINK
        if self._as_root:
            if entry.uid or entry.gid:
                os.chown(path, entry.uid, entry.gid, dir_fd=self._root, follow_symlinks=False)
            if not is_link:
                os.chmod(path, entry.mode, dir_fd=self._root)
        elif not is_link:
            if entry.kind != Kind.FIFO and needs_override(entry):
                os.setxattr(self._proc(path), OVERRIDE_XATTR, override_of(entry), follow_symlinks=False)
            os.chmod(path, written_mode(entry), dir_fd=self._root)
        if not self._as_root and (entry.uid or entry.gid) and entry.kind in (Kind.SYMLINK, Kind.FIFO):
            self._note("owners of links and fifos cannot be kept without root")
        if entry.xattrs:
            self._xattrs(self._proc(path), entry, path)
        os.utime(path, ns=(entry.mtime, entry.mtime), dir_fd=self._root, follow_symlinks=False)

    def _proc(self, path: bytes) -> bytes:
        """A path to a file by the handle of the root, for the xattr calls, which take no directory handle."""
        return b"/proc/self/fd/%d/%s" % (self._root, path)

    def _xattrs(self, target: int | bytes, entry: Entry, path: bytes) -> None:
        for plain, value in entry.xattrs.items():
            name = plain if self._as_root else escape(plain)
            try:
                os.setxattr(target, written_name(name, self._form), value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                if error.errno not in _REFUSED_XATTRS:
                    raise
                if error.errno == errno.ENOSPC and len(value) < 2048:
                    raise
                self._note(f"/{printable(path)}: xattr {printable(plain)} cannot be kept here: {error.strerror}")

    def _check_time(self, status: os.stat_result, entry: Entry, path: bytes) -> None:
        if status.st_mtime_ns != entry.mtime:
            self._note(f"/{printable(path)}: the file system cannot hold the time {entry.mtime / 1e9:.0f} s")

    def _hard_link(self, existing: bytes, path: bytes) -> None:
        os.link(existing, path, src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.result.notes.append(text)


def _copy_range(tar: int, fd: int, entry: Entry, source: ContentSource) -> None:
    """Copy inside the kernel where it can, else through a small buffer."""
    at, left = entry.offset, entry.size
    while left:
        try:
            count = os.copy_file_range(tar, fd, left, offset_src=at)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                raise
            data = os.pread(tar, min(left, _SMALL), at)
            count = len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        if not count:
            raise Integrity("the layer's tar is shorter than its index", code="layer-truncated", layer=source.label)
        at += count
        left -= count


def _copy_segments(source: ContentSource, fd: int, entry: Entry) -> None:
    """Copy a sparse file, leaving its holes holes."""
    os.ftruncate(fd, entry.size)
    segments = entry.sparse if entry.sparse is not None else ((0, entry.size),)
    with source.open(entry) as stream:
        for start, length in segments:
            stream.seek(start)
            at = start
            while at < start + length:
                data = stream.read(min(_SMALL, start + length - at))
                if not data:
                    break
                view = memoryview(data)
                while view:
                    count = os.pwrite(fd, view, at)
                    view, at = view[count:], at + count
