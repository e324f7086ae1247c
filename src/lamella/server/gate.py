"""What every request passes first: may it be asked at all, and by whom."""

from __future__ import annotations

import anyio
from anyio.to_thread import run_sync
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lamella.errors import LamellaError
from lamella.server.failures import Refusal, reply
from lamella.server.limits import ServerLimits
from lamella.server.users import Users

_LINGER = 2.0
_LEFT = 16 << 20
"""Seconds and bytes that a refused request may still take to send its body."""
_READING = frozenset({"GET", "HEAD"})
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="lamella", charset="UTF-8"'}


class Gate:
    """Refuses writing where it is not allowed, and everything to who is not a user, before a body is read.

    Requests that a web page of another origin made a browser send never write: clients of registries send no
    ``Origin``, and browsers send one with everything but plain reading.
    """

    def __init__(self, app: ASGIApp, *, users: Users | None, writable: bool, limits: ServerLimits) -> None:
        self._app, self._users, self._writable = app, users, writable
        self._linger = min(_LINGER, limits.idle / 4)
        self._passwords = anyio.CapacityLimiter(limits.passwords_at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        body = _Body(scope, receive)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Docker-Distribution-API-Version"] = "registry/2.0"
                headers["X-Content-Type-Options"] = "nosniff"
                if message["status"] >= 400 and not await body.is_read(self._linger):
                    headers["Connection"] = "close"
            await send(message)

        refusal = await self._refusal(scope)
        app = self._app if refusal is None else reply(refusal)
        await app(scope, body.receive, marked)

    async def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        if self._users is not None:
            users, authorization = self._users, headers.get("authorization", "")
            try:
                # Who is known does not wait behind those who guess.
                allowed = users.knows(authorization) or await run_sync(
                    lambda: users.allows(authorization), limiter=self._passwords
                )
            except LamellaError as error:  # the file of users cannot be read now: nobody is one
                return Refusal(503, "DENIED", error.reason, {"Retry-After": "5"})
            if not allowed:
                return Refusal(401, "UNAUTHORIZED", "a user and a password are needed", _CHALLENGE)
        if scope["method"] in _READING:
            return None
        if not self._writable:
            return Refusal(405, "UNSUPPORTED", "this registry is read-only", {"Allow": "GET, HEAD"})
        if "origin" in headers:
            return Refusal(403, "DENIED", "pages of other sites may not write here")
        return None


class _Body:
    """The body of a request, and what to do with the rest of one that nobody wants."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self._receive = receive
        self._more = "content-length" in headers or "transfer-encoding" in headers
        self._asks_first = "expect" in headers

    async def receive(self) -> Message:
        """ASGI."""
        message = await self._receive()
        self._more = message.get("more_body", False)
        return message

    async def is_read(self, patience: float) -> bool:
        """Whether all of it was read, or little was left and is now: a client may read no answer before it has sent it.

        A client that asks before it sends is not told to go on.
        """
        if self._asks_first and self._more:
            return False
        read = 0
        with anyio.move_on_after(patience):
            while self._more and read < _LEFT:
                read += len((await self.receive()).get("body", b""))
        return not self._more
