"""Reading: manifests and blobs (distribution-spec 1.1, "Pull")."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lamella._sys.files import map_os_error, os_errors
from lamella.catalog.records import DocumentRecord
from lamella.errors import Integrity, InvalidInput, NotFound
from lamella.server import ranges
from lamella.server.failures import Refusal
from lamella.server.repositories import Repository
from lamella.server.service import Service
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader

_CHUNK = 256 << 10
OCTETS = "application/octet-stream"


def digest_of(text: str) -> Digest:
    """The digest in a path or a query. Raises Refusal (400, ``DIGEST_INVALID``)."""
    try:
        return Digest.parse(text)
    except InvalidInput as error:
        raise Refusal(400, "DIGEST_INVALID", error.reason) from None


async def get_manifest(request: Request) -> Response:
    """GET and HEAD of ``/v2/<name>/manifests/<reference>``."""
    service: Service = request.app.state.service
    repository = service.repositories.parse(request.path_params["name"])
    text = request.path_params["reference"]
    document, raw = await run_sync(lambda: _manifest(service, repository, text))
    headers = {
        "Docker-Content-Digest": str(document.digest),
        "ETag": f'"{document.digest}"',
        "Content-Length": str(len(raw)),
    }
    body = b"" if request.method == "HEAD" else raw
    return Response(body, headers=headers, media_type=document.media_type)


def _manifest(service: Service, repository: Repository, text: str) -> tuple[DocumentRecord, bytes]:
    """A document by tag or digest. What could be neither is not there."""
    missing = Refusal(404, "MANIFEST_UNKNOWN", f"there is no {text[:200]} in {repository.text}")
    try:
        digest = Digest.parse(text) if ":" in text else service.repositories.find(repository, text)
    except InvalidInput:
        raise missing from None
    if digest is None:
        raise missing
    if ":" in text:
        service.hold(digest, lambda: service.store.catalog.document(digest) is not None)
    document = service.store.catalog.document(digest)
    if document is None:
        raise missing
    try:
        return document, service.store.graph.read_document(document.digest)
    except NotFound:
        raise missing from None


async def get_blob(request: Request) -> Response:
    """GET and HEAD of ``/v2/<name>/blobs/<digest>``; GET with ``Range``.

    What is sent whole is checked while it is sent: of a damaged blob the last bytes do not come.
    """
    service: Service = request.app.state.service
    service.repositories.parse(request.path_params["name"])
    digest = digest_of(request.path_params["digest"])
    size = await run_sync(lambda: _size(service, digest))
    headers = {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000, immutable",
    }
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(size)}, media_type=OCTETS)
    unchanged = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    part = ranges.wanted(request.headers.get("range"), size) if unchanged else None
    if part is None:
        reader: Reader = await run_sync(lambda: service.store.content.open(digest))
        return StreamingResponse(_stream(reader), 200, {**headers, "Content-Length": str(size)}, OCTETS)
    start, length = part
    reader = await run_sync(lambda: _part(service, digest, start, length))
    headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    return StreamingResponse(_stream(reader), 206, {**headers, "Content-Length": str(length)}, OCTETS)


def _size(service: Service, digest: Digest) -> int:
    service.hold(digest, lambda: service.store.content.exists(digest))
    return service.store.content.info(digest).size


def _part(service: Service, digest: Digest, start: int, length: int) -> Reader:
    """A range of a blob: of its file, or, where it has none at the moment, of what it is made of anew."""
    path = service.store.content.stored(digest)
    if path is not None:
        with suppress(NotFound):  # it may be dropped in this moment
            return _FilePart(path, start, length)
    return _StreamPart(service.store.content.open(digest), start, length)


async def _stream(reader: Reader) -> AsyncIterator[bytes]:
    try:
        while data := await run_sync(reader.read, _CHUNK):
            yield data
    finally:
        reader.close()


class _FilePart:
    """A range of a file, which is not checked: only the whole could be."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._path, self._at, self._left = path, start, length
        with os_errors(str(path)):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        if not self._left:
            return b""
        try:
            data = os.pread(self._fd, min(size, self._left), self._at)
        except OSError as error:
            raise map_os_error(error, str(self._path)) from error
        if not data:
            raise Integrity("the file ends too early", code="size-mismatch", subject=str(self._path))
        self._at += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _StreamPart:
    """A range of a stream, which it owns."""

    def __init__(self, stream: Reader, start: int, length: int) -> None:
        self._stream, self._skip, self._left = stream, start, length

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        while self._skip:
            self._skip -= len(self._more(min(self._skip, _CHUNK)))
        data = self._more(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        return data

    def _more(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data:
            raise Integrity("the blob ends too early", code="size-mismatch")
        return data

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
