"""Durable files, whole-tree removal, and the operating system's failures in Lamella's terms."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella._sys import syscalls
from lamella.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)

_RECURSION = 64
"""Directories deeper than this are first moved to the top of the tree that is removed: bounds descriptors and stack."""


def map_os_error(error: OSError, subject: str) -> LamellaError:
    """The typed error that says what ``error`` means for ``subject`` (a file, a directory, an operation)."""
    reason = error.strerror or str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            hint = "free some space (or inodes) and try again"
            return ResourceExhausted(reason, code="disk-full", subject=subject, hint=hint)
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM | errno.EMLINK | errno.EFBIG:
            return ResourceExhausted(reason, code="os-limit", subject=subject)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return AccessDenied(reason, code="access-denied", subject=subject)
        case errno.ENOENT:
            return NotFound(reason, code="file-not-found", subject=subject)
        case errno.EEXIST:
            return AlreadyExists(reason, code="file-exists", subject=subject)
        case errno.ENAMETOOLONG | errno.EINVAL | errno.ELOOP | errno.ENOTDIR | errno.EISDIR | errno.EXDEV:
            return InvalidInput(reason, code="path-invalid", subject=subject)
        case errno.ENOTEMPTY:
            return FailedPrecondition(reason, code="directory-not-empty", subject=subject)
        case errno.EBUSY | errno.ETXTBSY:
            return Conflict(reason, code="file-busy", subject=subject)
        case errno.ENOSYS | errno.EOPNOTSUPP:
            return Unsupported(reason, code="os-unsupported", subject=subject)
        case _:
            return Unavailable(reason, code="os-error", subject=subject)


@contextmanager
def os_errors(subject: str) -> Iterator[None]:
    """Turn every OSError inside into its typed error, and a NUL in a path; LamellaErrors pass through as they are."""
    try:
        yield
    except OSError as error:
        raise map_os_error(error, subject) from error
    except ValueError as error:
        if "embedded null" not in str(error):
            raise
        raise InvalidInput("a path with a NUL", code="path-invalid", subject=subject) from error


def fsync_dir(directory: Path | int) -> None:
    """Make the names in a directory (a path, or a descriptor that stays the caller's) durable."""
    if isinstance(directory, int):
        with os_errors(f"descriptor {directory}"):
            os.fsync(directory)
        return
    with os_errors(str(directory)):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def sync_tree(directory: Path, *, few: int = 256) -> None:
    """Make a tree durable: file by file if it has no more than ``few`` entries, else with its whole file system."""
    paths = _few_paths(directory, few)
    if paths is not None:
        # A file that its own owner may not open is synced with the file system.
        with suppress(PermissionError):
            for path in reversed(paths):
                _fsync_path(path)
            return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def _few_paths(directory: Path, few: int) -> list[Path] | None:
    """The directories and regular files of a tree, from the top down; None if there are more than ``few``."""
    paths, directories = [directory], [directory]
    while directories:
        with os.scandir(directories.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(Path(entry.path))
                    paths.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    paths.append(Path(entry.path))
        if len(paths) > few:
            return None
    return paths


def _fsync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Make ``path`` hold exactly ``data``: every reader, and a power cut, finds the old file or the whole new one.

    The new file has exactly ``mode``, whatever the umask. With ``durable`` it survives a power cut once this returns.
    Nothing is left behind by a failure; a kill can leave ``.<name>.<random>.tmp`` beside ``path``.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    with os_errors(str(path)):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                _write_all(fd, data)
                os.fchmod(fd, mode)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    if durable:
        fsync_dir(path.parent)


def drop_temporaries(path: Path) -> None:
    """Remove what killed writers of ``path`` left (see ``write_atomic``).

    For the holder of whatever keeps others from writing ``path``: the file of a live writer would go too.
    """
    with os_errors(str(path)):
        for left in path.parent.glob(f".{glob.escape(path.name[:200])}.*.tmp"):
            left.unlink(missing_ok=True)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def remove_tree(path: Path) -> None:
    """Remove ``path`` and all below it; fine when there is nothing.

    Links are removed, never followed; directories that their owner may not read or write are opened up first. A mount
    point below is never entered: it ends the removal with FailedPrecondition (code ``tree-has-mount``), what was
    removed before it stays removed. Not atomic: rename the tree out of the way first where that matters.
    """
    with os_errors(str(path)):
        try:
            parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            name = os.fsencode(path.name)
            try:
                os.unlink(name, dir_fd=parent)
                return
            except FileNotFoundError:
                return
            except (IsADirectoryError, PermissionError):
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise
            _Removal(parent, name, str(path)).run()
        finally:
            os.close(parent)


class _Removal:
    """The removal of one directory tree: ``name`` in ``parent``."""

    def __init__(self, parent: int, name: bytes, subject: str) -> None:
        self._parent = parent
        self._name = name
        self._subject = subject
        self._top = -1
        self._hoisted = 0

    def run(self) -> None:
        self._top = self._enter(self._parent, self._name)
        try:
            while True:
                self._hoisted = 0
                self._empty(self._top, 0)
                if not self._hoisted:
                    break
        finally:
            os.close(self._top)
        os.rmdir(self._name, dir_fd=self._parent)

    def _empty(self, directory: int, depth: int) -> None:
        with os.scandir(directory) as listing:
            entries = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in listing]
        for name, is_directory in entries:
            try:
                if not is_directory:
                    os.unlink(name, dir_fd=directory)
                elif depth < _RECURSION:
                    self._remove_directory(directory, name, depth)
                else:
                    self._hoist(directory, name)
            except FileNotFoundError:
                continue  # somebody else was faster

    def _remove_directory(self, directory: int, name: bytes, depth: int) -> None:
        child = self._enter(directory, name)
        try:
            self._empty(child, depth + 1)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=directory)

    def _hoist(self, directory: int, name: bytes) -> None:
        """Move a directory that lies deep to the top, where the next round removes it."""
        os.close(self._enter(directory, name))
        os.rename(name, b".lamella-" + secrets.token_hex(8).encode(), src_dir_fd=directory, dst_dir_fd=self._top)
        self._hoisted += 1

    def _enter(self, directory: int, name: bytes) -> int:
        fd = self._open(directory, name, os.O_PATH)
        try:
            info = os.fstat(fd)
            if info.st_mode & 0o700 != 0o700 and os.geteuid() == info.st_uid:
                os.chmod(b"/proc/self/fd/%d" % fd, stat.S_IMODE(info.st_mode) | 0o700)
        finally:
            os.close(fd)
        return self._open(directory, name, os.O_RDONLY)

    def _open(self, directory: int, name: bytes, flags: int) -> int:
        flags |= os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return syscalls.openat2(directory, name, flags, 0, syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise self._mounted(name) from error
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
        fd = os.open(name, flags, dir_fd=directory)
        if os.fstat(fd).st_dev != os.fstat(directory).st_dev:
            os.close(fd)
            raise self._mounted(name)
        return fd

    def _mounted(self, name: bytes) -> FailedPrecondition:
        text = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
        return FailedPrecondition(f"something is mounted at {text}", code="tree-has-mount", subject=self._subject)
