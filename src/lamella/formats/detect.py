"""Which format a file or directory is in, told from its content, and the endpoint that reads or writes it.

Each is imported when it is needed: a command needs one of them.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Literal

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression, DecompressReader
from lamella.errors import InvalidInput, LamellaError
from lamella.formats.files import CHUNK, CountedReader, StreamReader, locate
from lamella.formats.layout import INDEX_FILE, LAYOUT_FILE
from lamella.formats.oci_layout import OciLayoutSource
from lamella.formats.tar_index import BLOCK, TarIndex, begins_tar
from lamella.spec.endpoint import ImageSink, ImageSource, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

Kind = Literal["oci-dir", "oci-archive", "docker-archive"]
KINDS: tuple[Kind, ...] = ("oci-dir", "oci-archive", "docker-archive")

_HINT = "'lamella import' takes root file systems"
_GRAPH_HINT = "'lamella import-graph' takes Docker's image directory of 2013"


def open_source(
    path: Path | None, *, spool: Path, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS
) -> ImageSource:
    """The images in a file, a directory, or what standard input (``path`` None) delivers; the caller closes it.

    The content decides and no name does. An archive may be compressed with anything that Compression knows. What
    cannot be read in place (compressed, or no regular file) goes to an unnamed file in the directory ``spool`` first.
    A tar that is a layout and a docker archive at once, as docker writes from version 25 on, is read as a layout.

    Raises InvalidInput for what holds no images (``not-an-archive``, ``not-an-image``: a root file system is told so),
    NotFound and AccessDenied for the path, and what the source of the format raises.
    """
    subject = "standard input" if path is None else str(path)
    with os_errors(subject):
        if path is not None and path.is_dir():
            return _open_directory(path, limits)
        fd = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if _readable_in_place(fd, subject):
            index = TarIndex(os.dup(fd), subject=subject, limits=limits)
        else:
            with CountedReader(StreamReader(fd, subject=subject), progress, subject, "reading") as stream:
                index = _spooled(stream, subject, spool, limits)
    finally:
        os.close(fd)
    return _open_archive(index, limits, progress)


def _open_directory(path: Path, limits: Limits) -> ImageSource:
    if not any(os.path.lexists(path / name) for name in (LAYOUT_FILE, INDEX_FILE)):
        hint = _GRAPH_HINT if (path / "graph").is_dir() else _HINT
        raise InvalidInput("the directory is no image layout", code="not-an-image", subject=str(path), hint=hint)
    return OciLayoutSource(path, limits=limits)


def _readable_in_place(fd: int, subject: str) -> bool:
    """Whether the descriptor is of a whole regular file that is not compressed."""
    with os_errors(subject):
        if not stat.S_ISREG(os.fstat(fd).st_mode) or os.lseek(fd, 0, os.SEEK_CUR):
            return False
        return Compression.detect(os.pread(fd, 16, 0)) is Compression.NONE


def _spooled(stream: Reader, subject: str, spool: Path, limits: Limits) -> TarIndex:
    """The tar that the stream delivers, decompressed into a file that has no name: nothing of it outlives its use."""
    reader = DecompressReader(stream, limits=limits)
    try:
        head = _head(reader)
        if not begins_tar(head):
            raise InvalidInput("it is no tar archive, or an empty one", code="not-an-archive", hint=_HINT)
        with os_errors(str(spool)), tempfile.TemporaryFile(dir=spool) as file:
            file.write(head)
            while data := reader.read(CHUNK):
                file.write(data)
            file.flush()
            return TarIndex(os.dup(file.fileno()), subject=subject, limits=limits)
    except LamellaError as error:
        locate(error, subject)
        raise


def _head(reader: DecompressReader) -> bytes:
    """The first block, or all that there is."""
    head = b""
    while len(head) < BLOCK and (data := reader.read(BLOCK - len(head))):
        head += data
    return head


def _open_archive(index: TarIndex, limits: Limits, progress: Progress) -> ImageSource:
    from lamella.formats.docker_archive import LEGACY_FILE, MANIFEST_FILE, DockerArchiveSource
    from lamella.formats.docker_legacy import DockerLegacySource, image_directories
    from lamella.formats.oci_archive import OciArchiveSource

    try:
        if index.has(LAYOUT_FILE) or (index.has(INDEX_FILE) and any(n.startswith(b"blobs/") for n in index.names())):
            return OciArchiveSource(index, limits=limits)
        if index.has(MANIFEST_FILE):
            return DockerArchiveSource(index, limits=limits, progress=progress)
        if index.has(LEGACY_FILE) or image_directories(index):
            return DockerLegacySource(index, limits=limits, progress=progress)
        raise InvalidInput("the tar holds no images", code="not-an-image", subject=index.subject, hint=_HINT)
    except BaseException:
        index.close()
        raise


def create_sink(
    kind: Kind,
    path: Path | None,
    *,
    legacy: bool = False,
    spool: Path | None = None,
    compression: Compression = Compression.NONE,
    level: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = NO_PROGRESS,
) -> ImageSink:
    """Where images are to be written in a format; the caller ends it with ``finish`` or ``abort``.

    ``path`` None is standard output, for the archives; ``spool`` is where their blobs are gathered then. ``legacy``
    belongs to docker archives, ``compression`` and ``level`` to archives as a whole; ``progress`` is told of the
    writing of those, which ``finish`` does. Raises InvalidInput (``sink-options``) for a combination that makes no
    sense, and what the sink of the format raises.
    """
    from lamella.formats.docker_archive_sink import DockerArchiveSink
    from lamella.formats.oci_archive_sink import OciArchiveSink
    from lamella.formats.oci_layout_sink import OciLayoutSink

    if (legacy and kind != "docker-archive") or (kind == "oci-dir" and compression is not Compression.NONE):
        raise InvalidInput(f"an {kind} cannot be written with these options", code="sink-options")
    if kind == "oci-dir":
        if path is None:
            raise InvalidInput("a directory cannot be written to standard output", code="sink-options")
        return OciLayoutSink(path, limits=limits)
    if kind == "oci-archive":
        return OciArchiveSink(path, spool=spool, compression=compression, level=level, limits=limits, progress=progress)
    return DockerArchiveSink(
        path, legacy=legacy, spool=spool, compression=compression, level=level, limits=limits, progress=progress
    )
