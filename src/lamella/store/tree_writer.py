"""Writes files of a merged tree into a directory that exists: what copying out and copying in have in common.

Nothing is written outside the directory, whatever the tree holds and whatever lies in the directory: every name is made
in a directory that was entered without following a link, and what is there already is replaced by renaming, never
written through, so that a link or another name of the file stays what it is.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lamella._sys.beneath import RootDir
from lamella._sys.files import map_os_error
from lamella.errors import FailedPrecondition, Integrity, InvalidInput, LamellaError, printable
from lamella.layers.entry import Entry, Kind
from lamella.layers.paths import join
from lamella.layers.sources import HostSource
from lamella.layers.sparse import find_segments
from lamella.layers.tree import MergedTree, Node
from lamella.spec.progress import NO_PROGRESS, Progress

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_XATTR_REFUSED = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.E2BIG, errno.ERANGE, errno.EINVAL})
_NO_LINK = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP})


@dataclass(slots=True)
class Written:
    """What was written: names, and bytes of content."""

    entries: int = 0
    size: int = 0


class TreeWriter:
    """Writes nodes of ``tree`` below ``root``, with their modes, times, xattrs and, for root, owners.

    Directories that are there already keep what they are and get what is in the node's. Without root, owners stay the
    caller's, setuid and setgid bits of files that are not the caller's are dropped, and devices are left out with a
    note. Not atomic as a whole, each file is. Nothing is synced.
    """

    def __init__(self, tree: MergedTree, root: RootDir, *, progress: Progress = NO_PROGRESS, key: str = "") -> None:
        self._tree, self._root, self._progress, self._key = tree, root, progress, key
        self._as_root = os.geteuid() == 0
        self._first: dict[int, bytes] = {}
        self._shared = tree.link_counts()
        self._made: list[tuple[bytes, Entry]] = []
        self._noted: set[str] = set()
        self.written = Written()

    def write(self, node: Node, path: bytes) -> None:
        """Write ``node`` and all below it as ``path``; the directory above it must be there.

        Raises InvalidInput where a directory would replace a file or a file a directory, AccessDenied,
        ResourceExhausted and so on, naming the entry.
        """
        parent, _, name = path.rpartition(b"/")
        self._in_directory(parent, {name: node})
        self._finish()

    def write_children(self, node: Node, path: bytes = b"") -> None:
        """Write what is in the directory ``node`` into the existing directory ``path``."""
        self._in_directory(path, node.children or {})
        self._finish()

    # -- directories

    def _in_directory(self, path: bytes, names: dict[bytes, Node]) -> None:
        stack = [(path, names)]
        while stack:
            at, nodes = stack.pop()
            deeper: list[tuple[bytes, dict[bytes, Node]]] = []
            directory = self._enter(at)
            try:
                for name in sorted(nodes):
                    self._entry(directory, join(at, name), name, nodes[name], deeper)
            finally:
                os.close(directory)
            stack.extend(reversed(deeper))

    def _enter(self, path: bytes) -> int:
        try:
            return self._root.open(path, os.O_RDONLY | os.O_DIRECTORY, links="refuse")
        except OSError as error:
            raise map_os_error(error, "copying").about(entry=path) from error

    def _entry(
        self, directory: int, path: bytes, name: bytes, node: Node, deeper: list[tuple[bytes, dict[bytes, Node]]]
    ) -> None:
        try:
            if node.children is None:
                self._leaf(directory, path, name, node)
            else:
                self._directory(directory, path, name, node.entry)
                deeper.append((path, node.children))
        except OSError as error:
            raise map_os_error(error, "copying").about(entry=path) from error
        except LamellaError as error:
            raise error.about(entry=path) from error.__cause__
        self.written.entries += 1

    def _directory(self, directory: int, path: bytes, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise InvalidInput(
                    "a directory cannot replace what is there: it is none", code="copy-over-file"
                ) from None
        else:
            self._made.append((path, entry))

    def _finish(self) -> None:
        """Give new directories their status after everything in them is written, which would change it again."""
        for path, entry in reversed(self._made):
            fd = self._enter(path)
            try:
                self._dress(fd, entry, path)
            except OSError as error:
                raise map_os_error(error, "copying").about(entry=path) from error
            finally:
                os.close(fd)
        self._made.clear()

    # -- everything else

    def _leaf(self, directory: int, path: bytes, name: bytes, node: Node) -> None:
        first = self._first.get(id(node))
        if first is not None and self._linked(directory, name, first):
            return
        entry = node.entry
        if entry.kind in (Kind.CHARDEV, Kind.BLOCKDEV) and not self._as_root:
            self._note("devices cannot be made without root; they are left out")
            return
        self._replacing(directory, name, lambda new: self._make(directory, new, path, node))
        if id(node) in self._shared:
            self._first.setdefault(id(node), path)

    def _linked(self, directory: int, name: bytes, first: bytes) -> bool:
        """Make a name of the file that was written as ``first``; False where the file system has no such links."""
        parent, _, old = first.rpartition(b"/")
        source = self._enter(parent)
        try:
            self._replacing(
                directory, name,
                lambda new: os.link(old, new, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False),
            )  # fmt: skip
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        finally:
            os.close(source)
        return True

    @staticmethod
    def _replacing(directory: int, name: bytes, make: Callable[[bytes], None]) -> None:
        """Make ``name``; if it is there already, make another name and rename it."""
        try:
            make(name)
            return
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise InvalidInput("a file cannot replace a directory", code="copy-over-directory") from None
        temporary = b".lamella-" + secrets.token_hex(8).encode()
        make(temporary)
        try:
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            # Still there after a failure, and where both were names of one file.
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)

    def _make(self, directory: int, name: bytes, path: bytes, node: Node) -> None:
        """Make one new name with all its metadata, or nothing. FileExistsError if it is there."""
        entry = node.entry
        if entry.kind == Kind.REGULAR:
            self._file(directory, name, path, node)
            return
        if entry.kind == Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=directory)
        elif entry.kind == Kind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=directory)
        else:
            bits = stat.S_IFCHR if entry.kind == Kind.CHARDEV else stat.S_IFBLK
            os.mknod(name, bits | 0o600, os.makedev(entry.major, entry.minor), dir_fd=directory)
        try:
            self._dress_by_name(directory, name, entry, path)
        except BaseException:
            os.unlink(name, dir_fd=directory)
            raise

    def _file(self, directory: int, name: bytes, path: bytes, node: Node) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
        try:
            self._content(fd, node)
            self._dress(fd, node.entry, path)
        except BaseException:
            os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(fd)
        self.written.size += node.entry.size

    def _content(self, fd: int, node: Node) -> None:
        entry, source = node.entry, self._tree.sources[node.layer]
        if not entry.size:
            return
        with source.open(entry) as stream:
            segments = find_segments(stream, entry.size) if isinstance(source, HostSource) else entry.sparse
            try:
                for start, length in ((0, entry.size),) if segments is None else segments:
                    stream.seek(start)
                    self._segment(stream.read, fd, start, length)
            except Integrity as error:
                if not isinstance(source, HostSource):
                    raise
                raise FailedPrecondition("the file changed while it was copied", code="file-changed") from error
        os.ftruncate(fd, entry.size)

    def _segment(self, read: Callable[[int], bytes | None], fd: int, start: int, length: int) -> None:
        at, end = start, start + length
        while at < end and (data := read(min(_CHUNK, end - at))):
            view = memoryview(data)
            while view:
                count = os.pwrite(fd, view, at)
                view, at = view[count:], at + count
            self._progress.advance(self._key, len(data))

    # -- metadata

    def _dress(self, fd: int, entry: Entry, path: bytes) -> None:
        """Owner, xattrs, mode, times, in the order in which one does not undo the other."""
        if self._as_root:
            os.fchown(fd, entry.uid, entry.gid)
        self._xattrs(fd, entry, path)
        os.fchmod(fd, self._mode(entry))
        self._times(fd, entry, path)

    def _dress_by_name(self, directory: int, name: bytes, entry: Entry, path: bytes) -> None:
        if self._as_root:
            os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        # There is no lsetxattrat before Linux 6.13: the way to the directory goes through its descriptor.
        self._xattrs(b"/proc/self/fd/%d/%s" % (directory, name), entry, path)
        if entry.kind != Kind.SYMLINK:
            self._change_mode(directory, name, entry)
        self._times(name, entry, path, directory)

    def _change_mode(self, directory: int, name: bytes, entry: Entry) -> None:
        """chmod(2) would follow a link that somebody in the snapshot has put in the place of what was just made."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{fd}", self._mode(entry))
        finally:
            os.close(fd)

    def _mode(self, entry: Entry) -> int:
        if self._as_root or entry.kind == Kind.DIRECTORY or (entry.uid, entry.gid) == (os.geteuid(), os.getegid()):
            return entry.mode
        return entry.mode & ~(stat.S_ISUID | stat.S_ISGID)

    def _xattrs(self, target: int | bytes, entry: Entry, path: bytes) -> None:
        for name, value in entry.xattrs.items():
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                if error.errno not in _XATTR_REFUSED:
                    raise
                self._note(f"/{printable(path)}: xattr {printable(name)} cannot be kept here: {error.strerror}")

    def _times(self, target: int | bytes, entry: Entry, path: bytes, directory: int | None = None) -> None:
        try:
            if directory is None:
                os.utime(target, ns=(entry.mtime, entry.mtime))
            else:
                os.utime(target, ns=(entry.mtime, entry.mtime), dir_fd=directory, follow_symlinks=False)
        except OverflowError:
            self._note(f"/{printable(path)}: its time cannot be kept here")

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._progress.note(text)
