"""What clients are told when something is wrong: distribution-spec 1.1, "Error Codes"."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from lamella.errors import (
    AccessDenied,
    Conflict,
    FailedPrecondition,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unsupported,
)
from lamella.spec import jsondoc

JSON = "application/json"

_KINDS: tuple[tuple[type[LamellaError], int, str], ...] = (
    (NotFound, 404, "UNKNOWN"),
    (InvalidInput, 400, "MANIFEST_INVALID"),
    (Unsupported, 400, "MANIFEST_INVALID"),
    (FailedPrecondition, 405, "UNSUPPORTED"),
    (AccessDenied, 403, "DENIED"),
    (Conflict, 503, "TOOMANYREQUESTS"),
)
_CODES = {
    "disk-full": (507, "SIZE_INVALID"),
    "os-limit": (503, "TOOMANYREQUESTS"),
    "blob-not-found": (404, "BLOB_UNKNOWN"),
    "manifest-incomplete": (404, "MANIFEST_BLOB_UNKNOWN"),
    "digest-syntax": (400, "DIGEST_INVALID"),
    "digest-algorithm": (400, "DIGEST_INVALID"),
    "reference-syntax": (400, "NAME_INVALID"),
}


class Refusal(Exception):
    """Ends a request with a status, an error code of the specification, and a message."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def refusal_of(error: LamellaError) -> Refusal:
    """How a failure of the store is told. What is damaged or missing on this side is no fault of the client."""
    status, code = _CODES.get(error.code, (0, ""))
    if not status and isinstance(error, ResourceExhausted):
        status, code = 413, "SIZE_INVALID"
    if not status:
        status, code = next(((s, c) for kind, s, c in _KINDS if isinstance(error, kind)), (500, "UNKNOWN"))
    headers = {"Retry-After": "1"} if status == 503 else {}
    message = "something here is damaged" if isinstance(error, Integrity) and status == 500 else str(error)
    return Refusal(status, code, message, headers)


def reply(refusal: Refusal) -> Response:
    """The response that says it."""
    document = {"errors": [{"code": refusal.code, "message": refusal.message[:2000]}]}
    return Response(jsondoc.render(document), refusal.status, refusal.headers, JSON)


_PLAIN = {404: "NAME_UNKNOWN", 405: "UNSUPPORTED"}


HANDLED = (HTTPException, LamellaError, ClientDisconnect, Refusal)
"""What ``on_failure`` answers."""


async def on_failure(_: Request, error: Exception) -> Response:
    """Starlette's handler for what handlers raise."""
    if isinstance(error, HTTPException):
        code = _PLAIN.get(error.status_code, "UNSUPPORTED")
        return reply(Refusal(error.status_code, code, error.detail, error.headers))
    if isinstance(error, LamellaError):
        return reply(refusal_of(error))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # to nobody
    assert isinstance(error, Refusal)
    return reply(error)
