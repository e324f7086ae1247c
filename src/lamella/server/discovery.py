"""Finding: repositories, tags, referrers (distribution-spec 1.1, "Content Discovery")."""

from __future__ import annotations

import re
from urllib.parse import quote

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from lamella.server.failures import JSON, Refusal
from lamella.server.pulling import digest_of
from lamella.server.service import Service
from lamella.spec import jsondoc, media

_NUMBER = re.compile(r"[0-9]{1,9}")


async def version(_: Request) -> Response:
    """GET of ``/v2/``: this is a registry."""
    return Response(b"{}", media_type=JSON)


async def list_repositories(request: Request) -> Response:
    """GET of ``/v2/_catalog``, as Docker's registry has it."""
    service: Service = request.app.state.service
    found = await run_sync(service.repositories.all)
    page, headers = _page(request, found, service.limits.page)
    return Response(jsondoc.render({"repositories": page}), headers=headers, media_type=JSON)


async def list_tags(request: Request) -> Response:
    """GET of ``/v2/<name>/tags/list``."""
    service: Service = request.app.state.service
    repository = service.repositories.parse(request.path_params["name"])
    tags = await run_sync(lambda: service.repositories.tags(repository))
    if tags is None:
        raise Refusal(404, "NAME_UNKNOWN", f"there is no repository {repository.text}")
    page, headers = _page(request, tags, service.limits.page)
    return Response(jsondoc.render({"name": repository.text, "tags": page}), headers=headers, media_type=JSON)


async def list_referrers(request: Request) -> Response:
    """GET of ``/v2/<name>/referrers/<digest>``; ``artifactType`` filters."""
    service: Service = request.app.state.service
    service.repositories.parse(request.path_params["name"])
    digest = digest_of(request.path_params["digest"])
    kind = request.query_params.get("artifactType")
    found = await run_sync(lambda: service.referrers.of(digest, kind))
    by_digest = {str(item.digest): item for item in found}
    page, headers = _page(request, sorted(by_digest), service.limits.page)
    if kind is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    manifests = [by_digest[text].to_object() for text in page]
    document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
    return Response(jsondoc.render(document), headers=headers, media_type=media.OCI_INDEX)


def _page(request: Request, items: list[str], most: int) -> tuple[list[str], dict[str, str]]:
    """What comes behind ``last``, at most ``n`` of the sorted items, and the ``Link`` to what follows (RFC 5988)."""
    text = request.query_params.get("n")
    if text is not None and not _NUMBER.fullmatch(text):
        raise Refusal(400, "PAGINATION_NUMBER_INVALID", "n must be a number")
    count = most if text is None else min(int(text), most)
    last = request.query_params.get("last")
    rest = items if last is None else [item for item in items if item > last]
    page = rest[:count]
    if not page or len(page) == len(rest):
        return page, {}
    query = {**request.query_params, "n": str(count), "last": page[-1]}
    parameters = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in query.items())
    return page, {"Link": f'<{quote(request.url.path)}?{parameters}>; rel="next"'}
