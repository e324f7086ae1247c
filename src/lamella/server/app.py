"""The registry as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from lamella.server import discovery, pulling, pushing
from lamella.server.failures import HANDLED, on_failure
from lamella.server.gate import Gate
from lamella.server.limits import DEFAULT_LIMITS, ServerLimits
from lamella.server.service import Service
from lamella.server.users import Users
from lamella.store.store import Store

_NAME = "/v2/{name:path}"
_ROUTES = (
    Route("/v2/", discovery.version),
    Route("/v2", discovery.version),
    Route("/v2/_catalog", discovery.list_repositories),
    Route(f"{_NAME}/tags/list", discovery.list_tags),
    Route(f"{_NAME}/referrers/{{digest}}", discovery.list_referrers),
    Route(f"{_NAME}/manifests/{{reference}}", pulling.get_manifest, methods=["GET"]),
    Route(f"{_NAME}/manifests/{{reference}}", pushing.put_manifest, methods=["PUT"]),
    Route(f"{_NAME}/manifests/{{reference}}", pushing.delete_manifest, methods=["DELETE"]),
    Route(f"{_NAME}/blobs/uploads/", pushing.begin_upload, methods=["POST"]),
    Route(f"{_NAME}/blobs/uploads", pushing.begin_upload, methods=["POST"]),
    Route(f"{_NAME}/blobs/uploads/{{id}}", pushing.get_upload, methods=["GET"]),
    Route(f"{_NAME}/blobs/uploads/{{id}}", pushing.patch_upload, methods=["PATCH"]),
    Route(f"{_NAME}/blobs/uploads/{{id}}", pushing.finish_upload, methods=["PUT"]),
    Route(f"{_NAME}/blobs/uploads/{{id}}", pushing.cancel_upload, methods=["DELETE"]),
    Route(f"{_NAME}/blobs/{{digest}}", pulling.get_blob, methods=["GET"]),
    Route(f"{_NAME}/blobs/{{digest}}", pushing.delete_blob, methods=["DELETE"]),
)


def application(
    store: Store,
    *,
    writable: bool = False,
    users: Users | None = None,
    hosts: Sequence[str] = (),
    limits: ServerLimits = DEFAULT_LIMITS,
) -> Starlette:
    """The store as a registry, for any ASGI server; the store stays the caller's to close, after the server's end.

    ``users`` are asked for with every request; without them everybody is welcome. ``hosts`` are the addresses, with
    port, under which clients find this server: names of images there show without it.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service = Service(store, limits, writable=writable, hosts=hosts)
        app.state.service = service
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.keep_clean)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await service.close()

    app = Starlette(
        routes=_ROUTES,
        lifespan=lifespan,
        middleware=[Middleware(Gate, users=users, writable=writable, limits=limits)],
        exception_handlers=dict.fromkeys(HANDLED, on_failure),
    )
    app.router.redirect_slashes = False
    return app
