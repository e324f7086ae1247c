"""Copying whole trees with every metadatum, sharing blocks where the file system can."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from lamella._sys import syscalls
from lamella._sys.beneath import has_openat2
from lamella._sys.files import os_errors, remove_tree
from lamella.errors import AlreadyExists, FailedPrecondition, LamellaError, Unsupported

Reflink = Literal["auto", "always", "never"]

_NOT_HERE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.EBADF)
_CHUNK = 1 << 30
_OPEN_LEVELS = 100
"""Of a deep tree, this many directories are kept open; those above are found again through ``..``."""
_PATH_MAX = 4000


def copy_tree(
    source: Path,
    target: Path,
    *,
    reflink: Reflink = "auto",
    advanced: Callable[[int], object] | None = None,
) -> None:
    """Make ``target`` (nothing, or an empty directory) a copy of the directory ``source``.

    Everything is kept: types (devices, also 0/0, fifos and sockets too), numeric owners, modes, atimes and mtimes in
    ns, of directories as well, extended attributes of every namespace that the caller may read, hard links within
    the tree, holes. Links are copied, never followed. File data shares its blocks with the source where the file
    system can (``auto``; ``always``: Unsupported where it cannot; ``never``: real copies).

    All or nothing, except for a kill: on failure the target is removed (an empty one is emptied again). Not durable:
    the caller syncs. Errors name the entry; FailedPrecondition (``file-changed``, ``tree-has-mount``) when the source
    changes meanwhile or something is mounted in it. A file that its owner, the caller, may not read is opened up
    for the moment of opening. ``advanced`` gets the bytes of each file as it is done; an exception from it cancels.
    """
    with os_errors(str(source)):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        source_fd = _open_quietly(lambda more: os.open(source, flags | more))
    try:
        with os_errors(str(target)):
            created = _claim_target(target)
            try:
                _copy_into(source_fd, target, reflink, advanced)
            except BaseException:
                _undo(target, created=created)
                raise
    finally:
        os.close(source_fd)


def _copy_into(source_fd: int, target: Path, reflink: Reflink, advanced: Callable[[int], object] | None) -> None:
    target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _TreeCopy(source_fd, target_fd, reflink, advanced).run()
    finally:
        os.close(target_fd)


def _claim_target(target: Path) -> bool:
    try:
        target.mkdir(mode=0o700)
        return True
    except FileExistsError:
        if target.is_symlink() or not target.is_dir() or any(os.scandir(target)):
            raise AlreadyExists("is there already", code="copy-target", subject=str(target)) from None
        return False


def _undo(target: Path, *, created: bool) -> None:
    with suppress(LamellaError, OSError):
        if created:
            remove_tree(target)
            return
        for name in os.listdir(target):
            remove_tree(target / name)


def clone_or_copy(
    source_fd: int, target_fd: int, offset: int, length: int, *, target_offset: int | None = None
) -> None:
    """Copy ``length`` bytes from ``offset`` to ``target_offset`` (None: the same), in the kernel.

    Shares blocks where both lie on one file system that can and the range is made of whole blocks. Both positions
    are bytes; the file positions of the descriptors are of no matter and may move. FailedPrecondition
    (``file-changed``) when the source ends before the range does; OSError otherwise.
    """
    position = offset if target_offset is None else target_offset
    while length > 0:
        try:
            done = os.copy_file_range(source_fd, target_fd, min(length, _CHUNK), offset, position)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            _copy_bytes(source_fd, target_fd, offset, position, length)
            return
        if done == 0:
            # Some file systems answer 0 instead of an error where the call cannot work at all.
            _copy_bytes(source_fd, target_fd, offset, position, length)
            return
        offset, position, length = offset + done, position + done, length - done


def _copy_bytes(source_fd: int, target_fd: int, offset: int, position: int, length: int) -> None:
    """Copy without sharing anything."""
    os.lseek(target_fd, position, os.SEEK_SET)
    while length > 0:
        done = os.sendfile(target_fd, source_fd, offset, min(length, _CHUNK))
        if done == 0:
            raise _changed()
        offset, length = offset + done, length - done


def _changed() -> FailedPrecondition:
    return FailedPrecondition("changed while it was copied", code="file-changed")


class _Level:
    """A directory that is being copied: its two descriptors, and what is still to do in it."""

    __slots__ = ("info", "name", "source", "source_id", "target", "target_id", "todo")

    def __init__(self, name: bytes, source: int, target: int, info: os.stat_result) -> None:
        self.name = name
        self.source = source
        self.target = target
        self.info = info
        self.source_id = _identity(source)
        self.target_id = _identity(target)
        with os.scandir(source) as listing:
            self.todo = [os.fsencode(entry.name) for entry in listing]

    def close(self) -> None:
        for fd in (self.source, self.target):
            if fd >= 0:
                os.close(fd)
        self.source = self.target = -1


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


class _TreeCopy:
    """The copying of one tree between two open directories."""

    def __init__(
        self, source: int, target: int, reflink: Reflink, advanced: Callable[[int], object] | None = None
    ) -> None:
        self._root_source = source
        self._root_target = target
        self._reflink = reflink
        self._clones = reflink != "never"
        self._advanced = advanced
        self._linked: dict[tuple[int, int], bytes] = {}
        self._levels: list[_Level] = []
        self._current: bytes | None = None

    def run(self) -> None:
        source, target = os.dup(self._root_source), os.dup(self._root_target)
        self._levels.append(_Level(b"", source, target, os.fstat(source)))
        try:
            while self._levels:
                level = self._levels[-1]
                if level.todo:
                    self._copy_entry(level, level.todo.pop())
                else:
                    self._finish(level)
        except OSError as error:
            raise self._named(error) from error
        except LamellaError as error:
            error.about(entry=self._where())
            raise
        finally:
            for level in self._levels:
                level.close()

    def _named(self, error: OSError) -> LamellaError:
        try:
            with os_errors(""):
                raise error
        except LamellaError as typed:
            return typed.about(entry=self._where())

    def _where(self) -> bytes:
        """The entry that is being copied."""
        names = [level.name for level in self._levels[1:]]
        return b"/".join(names if self._current is None else [*names, self._current])

    def _path(self, name: bytes) -> bytes:
        return b"/".join([*(level.name for level in self._levels[1:]), name])

    def _copy_entry(self, level: _Level, name: bytes) -> None:
        self._current = name
        info = os.stat(name, dir_fd=level.source, follow_symlinks=False)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFDIR:
            self._descend(level, name, info)
            return
        if info.st_nlink > 1:
            first = self._linked.setdefault((info.st_dev, info.st_ino), self._path(name))
            if first != self._path(name):
                self._link(level, first, name)
                return
        if kind == stat.S_IFREG:
            self._copy_file(level, name, info)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=level.source), name, dir_fd=level.target)
            self._copy_status(level, name, info)
        else:
            os.mknod(name, kind | 0o600, info.st_rdev, dir_fd=level.target)
            self._copy_status(level, name, info)

    def _descend(self, level: _Level, name: bytes, info: os.stat_result) -> None:
        source = self._open_directory(level.source, name, info)
        try:
            os.mkdir(name, 0o700, dir_fd=level.target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, dir_fd=level.target)
        except OSError:
            os.close(source)
            raise
        self._levels.append(_Level(name, source, target, info))
        if len(self._levels) > _OPEN_LEVELS:
            self._levels[-_OPEN_LEVELS].close()

    def _open_directory(self, parent: int, name: bytes, info: os.stat_result) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        resolve = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS

        def attempt(more: int) -> int:
            if has_openat2():
                return syscalls.openat2(parent, name, flags | more, 0, resolve)
            return os.open(name, flags | more, dir_fd=parent)

        try:
            return _open_as_found(parent, name, info, attempt)
        except OSError as error:
            if error.errno == errno.EXDEV:
                text = "something is mounted here"
                raise FailedPrecondition(text, code="tree-has-mount") from error
            raise

    def _finish(self, level: _Level) -> None:
        """Give a directory its status after all its entries are there, and go back up."""
        self._current = None
        _copy_status_fd(level.source, level.target, level.info)
        if len(self._levels) > 1 and self._levels[-2].source < 0:
            above = self._levels[-2]
            above.source = _parent(level.source, above.source_id)
            above.target = _parent(level.target, above.target_id)
        level.close()
        self._levels.pop()

    def _link(self, level: _Level, first: bytes, name: bytes) -> None:
        """Link to the copy made before, whose path may be longer than the kernel takes at once."""
        at = os.dup(self._root_target)
        try:
            while len(first) > _PATH_MAX:
                cut = first.rindex(b"/", 0, _PATH_MAX)
                head, first = first[:cut], first[cut + 1 :]
                below = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            os.link(first, name, src_dir_fd=at, dst_dir_fd=level.target, follow_symlinks=False)
        finally:
            os.close(at)

    def _copy_file(self, level: _Level, name: bytes, info: os.stat_result) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        parent = level.source
        source = _open_as_found(parent, name, info, lambda more: os.open(name, flags | more, dir_fd=parent))
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=level.target)
            try:
                if info.st_size:
                    self._copy_data(source, target, info)
                _copy_status_fd(source, target, info)
            finally:
                os.close(target)
        finally:
            os.close(source)
        if self._advanced is not None:
            self._advanced(info.st_size)

    def _copy_data(self, source: int, target: int, info: os.stat_result) -> None:
        if self._clones:
            try:
                syscalls.clone_file(source, target)
                return
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                if self._reflink == "always":
                    text = "the file system cannot share blocks between these files"
                    raise Unsupported(text, code="reflink-unsupported") from error
                self._clones = error.errno in (errno.EINVAL, errno.EPERM)  # those speak of this one file
        if info.st_blocks * 512 >= info.st_size:
            self._copy_range(source, target, 0, info.st_size)
            return
        os.ftruncate(target, info.st_size)
        end = 0
        while end < info.st_size:
            try:
                start = os.lseek(source, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # a hole up to the end
            end = min(os.lseek(source, start, os.SEEK_HOLE), info.st_size)
            self._copy_range(source, target, start, end - start)

    def _copy_range(self, source: int, target: int, offset: int, length: int) -> None:
        if self._reflink == "never":
            _copy_bytes(source, target, offset, offset, length)
        else:
            clone_or_copy(source, target, offset, length)

    def _copy_status(self, level: _Level, name: bytes, info: os.stat_result) -> None:
        """The status of what cannot be opened: links, devices, fifos, sockets."""
        os.chown(name, info.st_uid, info.st_gid, dir_fd=level.target, follow_symlinks=False)
        # There is no lsetxattrat before Linux 6.13: the way to the directory goes through its descriptor.
        source = b"/proc/self/fd/%d/%s" % (level.source, name)
        target = b"/proc/self/fd/%d/%s" % (level.target, name)
        for key in os.listxattr(source, follow_symlinks=False):
            with _labels_of_the_host(key):
                os.setxattr(target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=level.target)
        times = (info.st_atime_ns, info.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=level.target, follow_symlinks=False)


def _copy_status_fd(source: int, target: int, info: os.stat_result) -> None:
    """Owner first (it takes setuid bits and capabilities away), times last."""
    os.fchown(target, info.st_uid, info.st_gid)
    for key in os.listxattr(source):
        with _labels_of_the_host(key):
            os.setxattr(target, key, os.getxattr(source, key))
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


@contextmanager
def _labels_of_the_host(key: str) -> Iterator[None]:
    """Labels that a security module of this machine gave a file may be refused: they say nothing of the tree."""
    try:
        yield
    except OSError:
        if key not in ("security.selinux", "security.ima", "security.evm"):
            raise


def _open_as_found(parent: int, name: bytes, info: os.stat_result, attempt: Callable[[int], int]) -> int:
    """Open what ``info`` told of by ``attempt``, which takes more flags, without a trace in its access time.

    Where the mode keeps even the owner out, the mode is changed for that moment.
    """
    try:
        return _same(_open_quietly(attempt), info)
    except PermissionError:
        if info.st_uid != os.geteuid():
            raise
    mode = stat.S_IMODE(info.st_mode)
    handle = _same(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), info)
    try:
        itself = b"/proc/self/fd/%d" % handle
        os.chmod(itself, mode | (0o700 if stat.S_ISDIR(info.st_mode) else 0o400))
        try:
            return _same(_open_quietly(attempt), info)
        finally:
            os.chmod(itself, mode)
    finally:
        os.close(handle)


def _open_quietly(attempt: Callable[[int], int]) -> int:
    try:
        return attempt(os.O_NOATIME)
    except OSError as error:
        if error.errno != errno.EPERM:  # EPERM: readable, but somebody else's
            raise
    return attempt(0)


def _same(fd: int, info: os.stat_result) -> int:
    """``fd``, which must be open on what ``info`` told of; else it is closed and the copy ends."""
    if os.path.samestat(os.fstat(fd), info):
        return fd
    os.close(fd)
    raise _changed()


def _parent(fd: int, identity: tuple[int, int]) -> int:
    parent = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    if _identity(parent) != identity:
        os.close(parent)
        raise _changed()
    return parent
