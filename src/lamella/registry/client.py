"""One registry: requests to it, authenticated, tried again where that may help, failures typed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self, TypeVar

from lamella.errors import (
    AccessDenied,
    Authentication,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    one_line,
)
from lamella.registry.access import Access
from lamella.registry.auth import Authenticator, Scopes
from lamella.registry.credentials import Credentials
from lamella.registry.hosts import host_name, is_loopback, origin, server_of
from lamella.registry.transport import BROKEN, Request, Response, Transport
from lamella.spec import jsondoc
from lamella.spec.limits import DEFAULT_LIMITS, Limits

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_BODY = 64 << 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a registry: ``path`` below ``/v2/``, or a whole URL that the registry gave.

    ``repository`` is what credentials are looked up for. ``again`` False forbids a second try of what was sent once. A
    body that is a callable gives a new stream for each time that it is sent.
    """

    method: str
    path: str
    scopes: Scopes = frozenset()
    repository: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], Iterable[bytes]] | None = field(default=None, repr=False)
    again: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read whole."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """A header, empty if it is absent."""
        return self.headers.get(name.lower(), "")


class Registry:
    """The client of one registry. Thread-safe; to be closed, which ends what is under way with Aborted.

    ``domain`` is the host as image names have it. Nothing is sent before the first call.
    """

    def __init__(self, domain: str, access: Access, *, insecure: bool = False, limits: Limits = DEFAULT_LIMITS) -> None:
        self.domain = domain
        self.limits = limits
        self.access = access
        self._host = server_of(domain)
        self._insecure = access.plain_http or (insecure if access.tls_verify is None else not access.tls_verify)
        hosts = frozenset({self._host, host_name(self._host)}) if self._insecure else frozenset[str]()
        self.transport = Transport(access, insecure=hosts)
        self._auth = Authenticator(
            domain, self._credentials, self._fetch_token, realms=access.realms, insecure=self._insecure
        )
        self._lock = threading.Lock()
        self._base = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.transport.close()

    # -- calls

    def call(self, call: Call, *, limit: int | None = None) -> Answer:
        """Send a call and read the answer, whatever its status is. Raises Unavailable, Authentication."""
        most = self.limits.document_bytes if limit is None else limit
        return self._attempts(call, lambda: self._whole(call, most))

    def open(self, call: Call) -> Response:
        """Send a call; the body of the answer is the caller's to read, and to close."""
        return self._attempts(call, lambda: self._send(call))

    def _whole(self, call: Call, limit: int) -> Answer:
        response = self._send(call)
        headers = {name: response.header(name) for name in _HEADERS}
        links = response.header_lines("Link")
        body = response.body(limit if response.status < 300 else _ERROR_BODY)
        return Answer(response.status, response.url, {**headers, "link": ", ".join(links)}, body)

    def _attempts(self, call: Call, act: Callable[[], T]) -> T:
        """Do something up to as many times as it is worth."""
        retrying = self.access.retrying
        for failures in range(1, retrying.attempts + 1):
            last = failures == retrying.attempts or not call.again
            try:
                result = act()
            except Unavailable as error:
                if last or error.code not in BROKEN:
                    raise
                self.transport.sleep(retrying.pause(failures))
                continue
            status: int = result.status  # type: ignore[attr-defined]
            if status not in _AGAIN or last:
                return result
            self.transport.sleep(self._pause(result, failures))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, result: object, failures: int) -> float:
        """Seconds to wait before asking again: as many as the server says, or ours. Raises Unavailable for too many."""
        assert isinstance(result, (Answer, Response))
        if isinstance(result, Response):
            result.discard()
        asked = retry_after(result.header("Retry-After"))
        longest = self.access.retrying.longest_wait
        if asked is not None and asked > longest:
            raise Unavailable(
                f"it wants to be asked again in {asked:.0f} seconds", code="registry-rate-limit", subject=self.domain
            )
        return self.access.retrying.pause(failures) if asked is None else asked

    def _send(self, call: Call) -> Response:
        url = call.path if "://" in call.path else f"{self.base()}/v2/{call.path}"
        own = origin(url) == origin(self.base())
        header = self._auth.header(call.scopes, call.repository) if own else None
        for _ in range(3):
            response = self.transport.open(Request(call.method, url, call.headers, _body(call), header))
            if response.status != 401 or not own or origin(response.url) != origin(url):
                return response
            lines = response.header_lines("WWW-Authenticate")
            response.discard()
            header = self._auth.challenged(lines, call.scopes, call.repository, header)
        raise self._auth.refusal(call.repository)

    def _fetch_token(self, request: Request, limit: int) -> tuple[int, bytes]:
        def act() -> Answer:
            response = self.transport.open(request)
            return Answer(response.status, response.url, _some(response), response.body(limit))

        answer = self._attempts(Call(request.method, ""), act)
        return answer.status, answer.body

    def _credentials(self, path: str) -> Credentials | None:
        if self.access.credentials is not None:
            return self.access.credentials
        return None if self.access.files is None else self.access.files.find(self.domain, path)

    # -- the scheme

    def base(self) -> str:
        """The URL of the server: with TLS, unless it is allowed to be without and turns out to be."""
        with self._lock:
            if not self._base:
                self._base = f"http{'' if self.access.plain_http else 's'}://{self._host}"
                if self.access.plain_http:
                    return self._base
                if self._insecure or (is_loopback(self._host) and self.access.tls_verify is None):
                    self._base = self._attempts(Call("GET", ""), self._find_scheme).url.removesuffix("/v2/")
            return self._base

    def _find_scheme(self) -> Answer:
        """Ask with TLS, then without. What the answer is does not matter here."""
        try:
            response = self.transport.open(Request("GET", f"https://{self._host}/v2/"))
        except Unavailable as error:
            if error.code in ("registry-certificate", "registry-timeout"):
                raise
            response = self.transport.open(Request("GET", f"http://{self._host}/v2/"))
        with_scheme = f"{origin(response.url)[0]}://{self._host}/v2/"
        response.discard()
        return Answer(200, with_scheme, {}, b"")

    def ping(self) -> None:
        """Check that this is a registry which the credentials are good for. Raises NotFound if it is none."""
        answer = self.call(Call("GET", ""))
        if answer.status == 404:
            raise NotFound("there is no registry", code="registry-not-found", subject=self.domain)
        expect(answer, (200,), self.domain)


_HEADERS = (
    "content-type",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "location",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "range",
    "retry-after",
)


def _some(response: Response) -> dict[str, str]:
    return {"retry-after": response.header("Retry-After")}


def _body(call: Call) -> bytes | Iterable[bytes] | None:
    return call.body() if callable(call.body) else call.body


def retry_after(text: str) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110, section 10.2.3): a number of them, or a date."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


# -- failures


def expect(answer: Answer, statuses: Sequence[int], subject: str) -> Answer:
    """The answer, if its status is one of these; else what it means is raised."""
    if answer.status not in statuses:
        raise failure(answer.status, answer.body, subject)
    return answer


def failure(status: int, body: bytes, subject: str) -> LamellaError:
    """The typed error for a status, with what the registry says about it."""
    why, codes = _said(body)
    said = f": {why}" if why else ""
    match status:
        case 401:
            return Authentication(f"it refuses the credentials{said}", code="credentials-refused", subject=subject)
        case 403:
            return AccessDenied(f"the registry refuses{said}", code="registry-denied", subject=subject)
        case 404:
            code = "repository-not-found" if "NAME_UNKNOWN" in codes else "manifest-not-found"
            return NotFound(f"the registry has no such thing{said}", code=code, subject=subject)
        case 405 | 501:
            return Unsupported(f"the registry cannot do that{said}", code="registry-unsupported", subject=subject)
        case 413:
            return ResourceExhausted(f"too large for the registry{said}", code="registry-too-large", subject=subject)
        case 429:
            return Unavailable(f"too many requests{said}", code="registry-rate-limit", subject=subject)
        case 400 | 409 | 412 | 415 | 416 | 422:
            return InvalidInput(f"the registry refuses it ({status}){said}", code="registry-refused", subject=subject)
        case _:
            return Unavailable(f"the registry answers {status}{said}", code="registry-error", subject=subject)


def _said(body: bytes) -> tuple[str, set[str]]:
    """What the body of an error says, for people, and its codes (distribution-spec, "Error Codes")."""
    try:
        errors = jsondoc.parse_object(body, "error").get("errors")
    except LamellaError:
        return "", set()
    found = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    texts = [item.get("message") or item.get("code") for item in found]
    codes = {item["code"] for item in found if isinstance(item.get("code"), str)}
    return one_line("; ".join(text for text in texts if isinstance(text, str))[:300]), codes
