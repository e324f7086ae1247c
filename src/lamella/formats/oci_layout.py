"""An OCI image layout directory (image-spec 1.1 ``image-layout.md``) to read images from."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lamella._sys.beneath import RootDir
from lamella._sys.files import map_os_error, os_errors
from lamella.errors import InvalidInput
from lamella.formats.files import FileRange
from lamella.formats.layout import LayoutSource
from lamella.spec.limits import DEFAULT_LIMITS, Limits


class DirectoryFiles:
    """The files of a layout in a directory. Links that stay inside it are followed, those that leave it refused."""

    def __init__(self, directory: Path) -> None:
        self.subject = str(directory)
        with os_errors(self.subject):
            self._root = RootDir(directory)

    def open(self, path: str) -> FileRange:
        """One regular file; a pipe or a device is refused and never waited for."""
        subject = f"{self.subject}/{path}"
        try:
            fd = self._root.open(path.encode(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, links="beneath")
        except OSError as error:
            raise _refusal(error, subject) from error
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise not_a_file(subject)
            return FileRange(fd, 0, info.st_size, subject=subject)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the directory."""
        self._root.close()


def not_a_file(subject: str) -> InvalidInput:
    """The refusal of a member of a layout that is a directory, a pipe, a socket or a device."""
    return InvalidInput("it is not a regular file", code="layout-not-a-file", subject=subject)


def _refusal(error: OSError, subject: str) -> Exception:
    if error.errno == errno.EXDEV:
        return InvalidInput("a link leads out of the image layout", code="layout-link-escapes", subject=subject)
    if error.errno == errno.ENXIO:
        return not_a_file(subject)
    return map_os_error(error, subject)


class OciLayoutSource(LayoutSource):
    """The images of an OCI layout directory; see LayoutSource for what is offered and what is raised."""

    def __init__(self, directory: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(DirectoryFiles(directory), limits=limits)
