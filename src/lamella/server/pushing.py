"""Writing: uploads of blobs, manifests (distribution-spec 1.1, "Push")."""

from __future__ import annotations

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from lamella.errors import Integrity, ResourceExhausted
from lamella.server import ranges
from lamella.server.failures import Refusal
from lamella.server.pulling import digest_of
from lamella.server.referrers import subject_of
from lamella.server.repositories import Repository
from lamella.server.service import Service
from lamella.server.uploads import Upload
from lamella.spec import jsondoc, media
from lamella.spec.digest import Digest
from lamella.spec.reference import Reference

_BUFFER = 1 << 20


async def begin_upload(request: Request) -> Response:
    """POST of ``/v2/<name>/blobs/uploads/``: a session, a whole blob (``digest``), or one that is here (``mount``)."""
    service: Service = request.app.state.service
    repository = service.repositories.parse(request.path_params["name"])
    query = request.query_params
    if "mount" in query:
        digest = digest_of(query["mount"])
        if await run_sync(lambda: _is_here(service, digest)):
            return _created(repository, digest)
    elif "digest" in query:
        return await _monolithic(request, service, repository, digest_of(query["digest"]))
    upload = await service.uploads.begin(repository.text)
    return _progress(repository, upload, 202)


async def _monolithic(request: Request, service: Service, repository: Repository, digest: Digest) -> Response:
    upload = await service.uploads.begin(repository.text)
    try:
        async with service.uploads.claimed(upload):
            await _append(request, service, upload)
            await _commit(service, upload, digest)
    except BaseException:
        service.uploads.forget(upload)
        upload.ingest.abort()  # nothing to come back to: its client was never told where it is
        raise
    return _created(repository, digest)


def _is_here(service: Service, digest: Digest) -> bool:
    return service.hold(digest, lambda: service.store.content.exists(digest))


async def _found(request: Request) -> tuple[Service, Repository, Upload]:
    service: Service = request.app.state.service
    repository = service.repositories.parse(request.path_params["name"])
    return service, repository, await service.uploads.find(repository.text, request.path_params["id"])


async def get_upload(request: Request) -> Response:
    """GET of an upload: how much of it is here. A request that still writes to it is ended, so that it is true."""
    service, repository, upload = await _found(request)
    async with service.uploads.claimed(upload):
        return _progress(repository, upload, 204)


async def cancel_upload(request: Request) -> Response:
    """DELETE of an upload."""
    service, _, upload = await _found(request)
    async with service.uploads.claimed(upload):
        service.uploads.forget(upload)
        await run_sync(upload.ingest.abort)
    return Response(status_code=204)


async def patch_upload(request: Request) -> Response:
    """PATCH of an upload: a chunk with ``Content-Range``, in order, or a stream without."""
    service, repository, upload = await _found(request)
    async with service.uploads.claimed(upload):
        await _append(request, service, upload, repository=repository)
    return _progress(repository, upload, 202)


async def finish_upload(request: Request) -> Response:
    """PUT of an upload: the last chunk or nothing, and the digest that all of it must have."""
    service, repository, upload = await _found(request)
    if "digest" not in request.query_params:
        raise Refusal(400, "DIGEST_INVALID", "the digest is missing")
    digest = digest_of(request.query_params["digest"])
    async with service.uploads.claimed(upload):
        await _append(request, service, upload, repository=repository)
        await _commit(service, upload, digest)
    return _created(repository, digest)


async def _append(request: Request, service: Service, upload: Upload, *, repository: Repository | None = None) -> None:
    """Write the body to the upload; what came before a connection broke stays."""
    chunk = ranges.chunk(request.headers.get("content-range"))
    left = _allowed(request, service, upload, chunk, repository)
    buffer = bytearray()
    try:
        async for data in request.stream():
            left -= len(data)
            if left < 0:
                buffer.clear()
                await _drop(service, upload)
                raise Refusal(
                    413 if chunk is None else 400, "SIZE_INVALID", "more bytes came than may, or were announced"
                )
            buffer += data
            if len(buffer) >= _BUFFER:
                await _write(service, upload, buffer)
    finally:
        if buffer:
            with anyio.CancelScope(shield=True):  # also when another request takes over: it goes on behind these bytes
                await _write(service, upload, buffer)
    if chunk is not None and left:
        raise Refusal(400, "SIZE_INVALID", "fewer bytes came than were announced")


def _allowed(
    request: Request, service: Service, upload: Upload, chunk: tuple[int, int] | None, repository: Repository | None
) -> int:
    """How many bytes may come. Raises Refusal: 416 for a chunk out of order, 413 for too much, 400 for nonsense."""
    announced = request.headers.get("content-length")
    room = service.limits.blob_bytes - upload.offset
    if chunk is None:
        if announced is not None and int(announced) > room:
            raise Refusal(413, "SIZE_INVALID", f"a blob may have {service.limits.blob_bytes} bytes")
        return room
    start, length = chunk
    if start != upload.offset:
        headers = {} if repository is None else _where(repository, upload)
        raise Refusal(416, "BLOB_UPLOAD_INVALID", f"the next byte is {upload.offset}, not {start}", headers)
    if announced is not None and int(announced) != length:
        raise Refusal(400, "SIZE_INVALID", "Content-Range and Content-Length do not agree")
    if length > room:
        raise Refusal(413, "SIZE_INVALID", f"a blob may have {service.limits.blob_bytes} bytes")
    return length


async def _write(service: Service, upload: Upload, buffer: bytearray) -> None:
    """Append what came. On a full disk the upload is given up, which makes room for others."""
    data = bytes(buffer)
    buffer.clear()
    try:
        await run_sync(upload.ingest.write, data)
    except ResourceExhausted:
        await _drop(service, upload)
        raise


async def _drop(service: Service, upload: Upload) -> None:
    service.uploads.forget(upload)
    await run_sync(upload.ingest.abort)


async def _commit(service: Service, upload: Upload, digest: Digest) -> None:
    """Make the upload a blob. Raises Refusal for bytes that are not what they should be; the upload is gone then."""

    def commit() -> None:
        service.holds.hold(digest)
        upload.ingest.commit(expected=digest)

    service.uploads.forget(upload)
    try:
        await run_sync(commit)
    except Integrity as error:
        raise Refusal(400, "DIGEST_INVALID", str(error)) from None


def _where(repository: Repository, upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{repository.text}/blobs/uploads/{upload.id}",
        "Range": ranges.so_far(upload.offset),
        "Docker-Upload-UUID": upload.id,
    }


def _progress(repository: Repository, upload: Upload, status: int) -> Response:
    return Response(status_code=status, headers=_where(repository, upload))


def _created(repository: Repository, digest: Digest) -> Response:
    where = f"/v2/{repository.text}/blobs/{digest}"
    return Response(status_code=201, headers={"Location": where, "Docker-Content-Digest": str(digest)})


# -- manifests


async def put_manifest(request: Request) -> Response:
    """PUT of ``/v2/<name>/manifests/<reference>``: an image shows when its blobs are here and it is whole."""
    service: Service = request.app.state.service
    repository = service.repositories.parse(request.path_params["name"])
    text = request.path_params["reference"]
    stated = digest_of(text) if ":" in text else None
    tagged = None if stated else repository.tagged(text)
    raw = await _body(request, service.limits.manifest_bytes)
    digest = Digest.of(raw)
    if stated is not None and stated.algorithm != digest.algorithm:
        raise Refusal(400, "DIGEST_INVALID", f"manifests are kept by {digest.algorithm} here")
    if stated is not None and stated != digest:
        raise Refusal(400, "DIGEST_INVALID", f"the digest of what came is {digest}")
    push = _Push(service, repository, raw, request.headers.get("content-type", ""), digest, tagged)
    async with service.accepting:
        warnings = await run_sync(push.run)
    headers = {"Location": f"/v2/{repository.text}/manifests/{digest}", "Docker-Content-Digest": str(digest)}
    if push.subject is not None:
        headers["OCI-Subject"] = str(push.subject)
    response = Response(status_code=201, headers=headers)
    for warning in warnings[:8]:
        response.headers.append("Warning", f'299 - "{_quoted(warning)}"')
    return response


class _Push:
    """One manifest that comes, and the names that it gets and takes in its repository."""

    def __init__(
        self,
        service: Service,
        repository: Repository,
        raw: bytes,
        content_type: str,
        digest: Digest,
        tagged: Reference | None,
    ) -> None:
        self._service, self._repository, self._raw = service, repository, raw
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._digest, self._tagged = digest, tagged
        self.subject: Digest | None = None

    def run(self) -> tuple[str, ...]:
        """Accept it; what its sender should know. Raises Refusal."""
        store = self._service.store
        try:
            self.subject = subject_of(self._raw)
            accepted = store.accept(self._raw, self._media_type(), self._names())
        except Integrity as error:
            if error.code == "size-mismatch":
                raise Refusal(400, "MANIFEST_INVALID", str(error)) from None
            raise
        self._drop_pins()
        return accepted.warnings

    def _media_type(self) -> str:
        """What it is offered as; clients that know no better leave that to the document."""
        known = media.INDEXES | media.MANIFESTS
        if self._content_type in known:
            return self._content_type
        own = jsondoc.parse_object(self._raw, "manifest").get("mediaType")
        return own if isinstance(own, str) else self._content_type

    def _names(self) -> list[Reference]:
        """The tag; without one the digest, unless the document has a name in the repository anyway."""
        if self._tagged is not None:
            return [self._tagged]
        named = any(target == self._digest for _, _, target in self._service.repositories.names(self._repository))
        return [] if named else [self._repository.pinned(self._digest)]

    def _drop_pins(self) -> None:
        """What an index or a tag holds now need not be held by its digest any longer."""
        catalog = self._service.store.catalog
        document = catalog.document(self._digest)
        held = [] if document is None else [child.digest for child in document.children]
        held += [self._digest] if self._tagged is not None else []
        pins = [str(self._repository.pinned(digest)) for digest in held]
        pins = [name for name in pins if catalog.name(name) is not None]
        if pins:
            with catalog.transaction():
                for name in pins:
                    catalog.remove_name(name)
            self._service.store.sync_layout()


async def _body(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    size = int(announced)
    if size <= limit:
        size = 0
        async for data in request.stream():
            size += len(data)
            if size > limit:
                break
            parts.append(data)
    if size > limit:
        raise Refusal(413, "SIZE_INVALID", f"a manifest may have {limit} bytes")
    return b"".join(parts)


def _quoted(text: str) -> str:
    """Text for a quoted string in a header."""
    plain = text.encode("ascii", "backslashreplace").decode()[:400]
    return plain.replace("\\", "\\\\").replace('"', '\\"')


# -- deleting (distribution-spec 1.1, "Content Management")


async def delete_manifest(request: Request) -> Response:
    """DELETE of a tag, or of a document with all its tags in the repository."""
    service: Service = request.app.state.service
    repository = service.repositories.parse(request.path_params["name"])
    text = request.path_params["reference"]
    digest = digest_of(text) if ":" in text else None
    await run_sync(lambda: _untag(service, repository, text, digest))
    return Response(status_code=202)


def _untag(service: Service, repository: Repository, text: str, digest: Digest | None) -> None:
    inside = list(service.repositories.names(repository))
    names = [name for name, tag, target in inside if (tag == text if digest is None else target == digest)]
    if not names:
        known = digest is not None and service.store.catalog.document(digest) is not None
        if known and any(record.kind == "index" for record in service.store.catalog.parents_of(digest)):  # type: ignore[arg-type]
            raise Refusal(405, "UNSUPPORTED", "an index names it: delete that")
        raise Refusal(404, "MANIFEST_UNKNOWN", f"there is no {text[:200]} in {repository.text}")
    service.store.untag(names, own_leases=service.holds.ids)


async def delete_blob(request: Request) -> Response:
    """DELETE of a blob that no manifest names."""
    service: Service = request.app.state.service
    service.repositories.parse(request.path_params["name"])
    digest = digest_of(request.path_params["digest"])
    await run_sync(lambda: service.store.discard_blob(digest, own_leases=service.holds.ids))
    return Response(status_code=202)
