"""The calls of the protocol: to the index for tokens and endpoints, to the registries for images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

from lamella.errors import (
    AccessDenied,
    Authentication,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    one_line,
)
from lamella.registry.access import Access
from lamella.registry.credentials import Credentials
from lamella.registry.hosts import origin
from lamella.registry.transport import BROKEN, Response
from lamella.registry.v1.wire import Body, Wire, refusal
from lamella.spec import jsondoc
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.reference import DEFAULT_DOMAIN, Reference
from lamella.spec.v1image import V1Image, check_id

T = TypeVar("T")

HUB_INDEX = "index.docker.io"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_ENDPOINTS = 16
"""As many registries of one repository are asked, at most."""
_ALREADY = "already exists"


@dataclass(frozen=True, slots=True)
class Record:
    """The record of an image as a registry has it, with the checksums that it states for image and layer."""

    image: V1Image
    checksums: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a repository in the index: its checksum is empty where nobody knows it."""

    id: str
    checksum: str = ""
    tag: str = ""


class Client:
    """One repository, reached by the protocol of version 1. Not for several threads at once; close it.

    ``index`` is asked first (the host of ``reference`` if None): it gets the credentials and names the registries, and
    these get its tokens, never the credentials. A host that names no registries is one itself ("standalone"). A
    registry that cannot be reached or refuses gives way to the next.

    Methods raise Authentication, AccessDenied and NotFound for 401, 403 and 404, Unavailable for other refusals and for
    a protocol that is not spoken, InvalidInput for documents that are none.
    """

    def __init__(
        self, reference: Reference, access: Access, *, index: str | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        if reference.path.count("/") > 1:
            raise InvalidInput(
                "the protocol of version 1 has names of two parts at most", code="v1-name", subject=reference.familiar
            )
        self.reference, self.limits = reference, limits
        self.remote = reference.path.removeprefix("library/")
        """The repository as the index knows it: a bare name is one of the library's."""
        self.host = index or (HUB_INDEX if reference.domain == DEFAULT_DOMAIN else reference.domain)
        self._wire = Wire(access)
        self._credentials = access.credentials or (
            None if access.files is None else access.files.find(index or reference.domain, reference.path)
        )
        self._tokens: list[str] = []
        self._renew: Callable[[], object] = self.images
        """Gets other tokens of the index, for what the last ones were for."""
        self._endpoints: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._wire.close()

    @property
    def _in_library(self) -> str:
        """The repository as registries know it, who have no bare names."""
        return self.remote if "/" in self.remote else f"library/{self.remote}"

    def pause(self, failures: int) -> None:
        """Wait before something is tried again."""
        self._wire.pause(failures)

    @property
    def attempts(self) -> int:
        """How often something is tried."""
        return self._wire.access.retrying.attempts

    @property
    def endpoints(self) -> Sequence[str]:
        """The registries that the index named; empty before the first call to it."""
        return tuple(self._endpoints)

    # -- the index

    def images(self) -> list[Entry]:
        """The images of the repository, as the index has them."""
        self._renew = self.images
        raw = self._read(
            lambda: self._ask_index("GET", "images", doing="asking for the images", accepted={200}), self._document_of
        )
        return self._entries(raw)

    def announce(self, entries: Sequence[Entry]) -> None:
        """Tell the index what is going to be pushed; it says where to."""
        self._renew = partial(self.announce, entries)
        body = _listed(entries, checksums=False)
        self._ask_index("PUT", "", body=body, doing="announcing a push", accepted={200, 201}).discard()

    def conclude(self, entries: Sequence[Entry]) -> None:
        """Tell the index the checksums of what was pushed."""
        headers = {"X-Docker-Endpoints": ",".join(self._endpoints), **_JSON}
        url = f"{self._index()}/repositories/{self.remote}/images"
        body = _listed(entries, checksums=True)
        answer = self._wire.send("PUT", url, authorization=self._basic(), headers=headers, body=body)
        _check(answer, "pushing checksums", 200, 201, 204)

    def _index(self) -> str:
        return self._wire.base(self.host)

    def _basic(self) -> str | None:
        found = self._credentials or Credentials()
        return found.basic if found.username else None

    def _ask_index(
        self, method: str, what: str, *, doing: str, accepted: set[int], body: bytes | None = None
    ) -> Response:
        url = f"{self._index()}/repositories/{self.remote}/{what}"
        headers = {"X-Docker-Token": "true", **(_JSON if body is not None else {})}
        answer = self._wire.send(method, url, authorization=self._basic(), headers=headers, body=body)
        if answer.status not in accepted:
            raise refusal(answer, doing)
        self._tokens = [token.strip() for token in answer.header_lines("X-Docker-Token") if token.strip()]
        self._endpoints = self._named_endpoints(answer)
        return answer

    def _named_endpoints(self, answer: Response) -> list[str]:
        found = [host.strip() for value in answer.header_lines("X-Docker-Endpoints") for host in value.split(",")]
        found = [host for host in dict.fromkeys(found) if host][:_ENDPOINTS]
        for host in found:
            if not _HOST.fullmatch(host):
                raise Unavailable(
                    f"the index names the registry '{host[:100]}'", code="registry-protocol", subject=answer.url
                )
        if not found and self.host == HUB_INDEX:
            raise Unavailable("the answer of the index has no endpoints", code="registry-protocol", subject=answer.url)
        return found or [self.host]

    def _entries(self, raw: bytes) -> list[Entry]:
        found = []
        for item in jsondoc.parse_array(raw, "the list of images", limits=self.limits):
            if not isinstance(item, dict):
                raise InvalidInput("the list of images has an entry that is not an object", code="document-type")
            checksum, tag = (jsondoc.optional(item, key, str, "the list of images") for key in ("checksum", "Tag"))
            identity = check_id(jsondoc.field(item, "id", str, "the list of images"))
            found.append(Entry(identity, checksum or "", tag or ""))
        return found

    # -- the registries: reading

    def tags(self) -> dict[str, str]:
        """The tags of the repository, and the id of each."""
        raw = self._document(f"repositories/{self._in_library}/tags", "asking for the tags")
        tags = jsondoc.parse_object(raw, "the list of tags", limits=self.limits)
        return {tag: check_id(jsondoc.field(tags, tag, str, "the list of tags")) for tag in tags}

    def ancestry(self, identity: str) -> list[str]:
        """The ids of an image and of all below it, itself first."""
        raw = self._document(f"images/{check_id(identity)}/ancestry", f"fetching the history of {identity}")
        found = jsondoc.parse_array(raw, f"the ancestry of {identity}", limits=self.limits)
        if len(found) > self.limits.layers:
            raise ResourceExhausted(f"{len(found)} layers, over the limit of {self.limits.layers}", code="layer-count",
                                    subject=f"the ancestry of {identity}")  # fmt: skip
        ids = [check_id(item if isinstance(item, str) else "") for item in found]
        if not ids or ids[0] != identity or len(set(ids)) != len(ids):
            raise Integrity("it does not begin with the image, or goes in a circle", code="v1-ancestry",
                            subject=f"the ancestry of {identity}")  # fmt: skip
        return ids

    def record(self, identity: str) -> Record:
        """The record of an image. Raises Integrity for that of another."""

        def read(answer: Response) -> tuple[bytes, list[str]]:
            return self._document_of(answer), [answer.header(name) for name in _CHECKSUMS]

        raw, found = self._at_some_endpoint(
            f"images/{check_id(identity)}/json", f"downloading the record of {identity}", read
        )
        image = V1Image.parse(raw, f"the record of {identity}", limits=self.limits)
        if image.id != identity:
            raise Integrity(f"the registry sends the record of {image.id}", code="v1-wrong-image",
                            subject=f"image {identity}")  # fmt: skip
        return Record(image, tuple(text for text in found if text))

    def open_layer(self, identity: str, offset: int = 0) -> Response:
        """The layer of an image, from ``offset`` on where the registry can do that (status 206); else all of it."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return self._at_some_endpoint(
            f"images/{check_id(identity)}/layer", f"downloading the layer of {identity}", _itself, headers=headers,
            accepted=frozenset({200, 206}),
        )  # fmt: skip

    def _document(self, path: str, doing: str) -> bytes:
        return self._at_some_endpoint(path, doing, self._document_of)

    def _document_of(self, answer: Response) -> bytes:
        return answer.body(self.limits.document_bytes)

    def _read(self, ask: Callable[[], Response], read: Callable[[Response], T]) -> T:
        """What ``read`` makes of an answer, which is asked for again when it breaks while it is read."""
        for failures in range(1, self.attempts):
            answer = ask()
            try:
                return read(answer)
            except Unavailable as error:
                if error.code not in BROKEN:
                    raise
            self.pause(failures)
        return read(ask())

    def _at_some_endpoint(
        self,
        path: str,
        doing: str,
        read: Callable[[Response], T],
        *,
        headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = frozenset({200}),
    ) -> T:
        """What ``read`` makes of the first good answer. The last refusal counts, but one that was no 404 more."""
        if not self._endpoints:
            self.images()

        def ask(endpoint: str) -> Response:
            answer = self._ask(endpoint, "GET", path, headers=headers)
            if answer.status not in accepted:
                raise refusal(answer, doing)
            return answer

        worst: LamellaError | None = None
        for endpoint in list(self._endpoints):
            try:
                return self._read(partial(ask, endpoint), read)
            except (NotFound, Unavailable, AccessDenied, Authentication) as error:
                worst = error if worst is None or isinstance(worst, NotFound) else worst
        assert worst is not None
        raise worst

    def _ask(
        self, endpoint: str, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body = None
    ) -> Response:
        """One call to one registry; when it says that the tokens are used up, the index is asked for others, once."""
        url = f"{self._wire.base(endpoint, named_by='' if endpoint == self.host else self.host)}/{path}"
        mine = self._authorization(endpoint)
        answer = self._wire.send(method, url, authorization=mine, headers=headers, body=body)
        own = origin(answer.url) == origin(url)
        if answer.status == 401 and own and self._tokens:
            answer.discard()
            self._renew()
            mine = self._authorization(endpoint)
            answer = self._wire.send(method, url, authorization=mine, headers=headers, body=body)
        return answer

    def _authorization(self, endpoint: str) -> str | None:
        """Tokens for the registries of the index; credentials only for a host that is its own index."""
        if self._tokens:
            return "Token " + ",".join(self._tokens)
        return self._basic() if endpoint == self.host else None

    # -- the registries: writing

    def put_record(self, endpoint: str, image: V1Image) -> bool:
        """Upload a record; False if the registry has the image already."""
        answer = self._ask(endpoint, "PUT", f"images/{image.id}/json", headers=_JSON, body=image.raw)
        if answer.status in (400, 409):
            said = answer.body(self.limits.document_bytes)
            if _ALREADY in _error_text(said):
                return False
            text = said[:200].decode("utf-8", "replace")
            raise Unavailable(f"HTTP code {answer.status} while uploading metadata: {one_line(text)}",
                              code="registry-status", subject=answer.url)  # fmt: skip
        _check(answer, "uploading metadata", 200, 201)
        return True

    def put_layer(self, endpoint: str, identity: str, body: Callable[[], Reader]) -> None:
        """Upload a layer, in chunks."""
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._ask(endpoint, "PUT", f"images/{identity}/layer", headers=headers, body=body)
        _check(answer, "uploading layer", 200, 201)

    def put_checksum(self, endpoint: str, identity: str, *, checksum: str, payload: str) -> None:
        """State the checksums of what was uploaded: that of the image, and that of the bytes that were sent."""
        headers = {"X-Docker-Checksum": checksum, "X-Docker-Checksum-Payload": payload}
        answer = self._ask(endpoint, "PUT", f"images/{identity}/checksum", headers=headers, body=b"")
        _check(answer, "uploading the checksum", 200, 201)

    def put_tag(self, endpoint: str, tag: str, identity: str) -> None:
        """Point a tag at an image."""
        path = f"repositories/{self._in_library}/tags/{tag}"
        answer = self._ask(endpoint, "PUT", path, headers=_JSON, body=json.dumps(identity).encode())
        _check(answer, f"pushing the tag {tag}", 200, 201)


_JSON = {"Content-Type": "application/json"}
_CHECKSUMS = ("X-Docker-Checksum", "X-Docker-Checksum-Payload")


def _check(answer: Response, doing: str, *accepted: int) -> None:
    """Raise what an unexpected status means; the body of an expected one is of no interest."""
    if answer.status not in accepted:
        raise refusal(answer, doing)
    answer.discard()


def _itself(answer: Response) -> Response:
    return answer


def _listed(entries: Sequence[Entry], *, checksums: bool) -> bytes:
    listed: list[dict[str, Any]] = []
    for entry in entries:
        item = {"id": entry.id}
        if checksums and entry.checksum:
            item["checksum"] = entry.checksum
        if entry.tag and not checksums:
            item["Tag"] = entry.tag
        listed.append(item)
    return jsondoc.render(listed)


def _error_text(raw: bytes) -> str:
    try:
        return jsondoc.optional(jsondoc.parse_object(raw, "the answer"), "error", str, "the answer") or ""
    except LamellaError:
        return ""
