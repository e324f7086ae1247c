"""HTTP as the protocol of version 1 needs it: session cookies of each host, retries, statuses as typed errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import TypeAlias

from lamella.errors import AccessDenied, Authentication, LamellaError, NotFound, Unavailable, one_line
from lamella.registry.access import Access
from lamella.registry.hosts import Origin, is_loopback, origin
from lamella.registry.transport import BROKEN, Request, Response, Transport
from lamella.spec.endpoint import Reader

Body: TypeAlias = "bytes | Callable[[], Reader] | None"

_CHUNK = 1 << 20
_REDIRECTS = 5
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302})
_ERROR_BODY = 64 << 10


class CookieTransport(Transport):
    """A transport that gives cookies back to exactly the origin that set them, at each step of a redirect."""

    def __init__(self, access: Access, cookies: dict[Origin, dict[str, str]], *, insecure: frozenset[str]) -> None:
        super().__init__(access, insecure=insecure)
        self._cookies = cookies

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        authorization: str | None,
    ) -> Response:
        place = origin(url)
        kept = "; ".join(f"{name}={value}" for name, value in self._cookies.get(place, {}).items())
        with_cookies = {**headers, "Cookie": kept} if kept else headers
        response = super()._exchange(method, url, with_cookies, body, authorization)
        for line in response.header_lines("Set-Cookie"):
            try:
                found = SimpleCookie(line)
            except CookieError:
                continue
            self._cookies.setdefault(place, {}).update({name: item.coded_value for name, item in found.items()})
        return response


class Wire:
    """The connections of one client, to an index and to the registries that it names. To be closed."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._cookies: dict[Origin, dict[str, str]] = {}
        self._transports: dict[str, CookieTransport] = {}
        self._bases: dict[tuple[str, bool], str] = {}

    def close(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            transport.close()

    def base(self, host: str, *, named_by: str = "") -> str:
        """The URL below which ``host`` (with its port) serves, such as ``https://host/v1``.

        Plain HTTP is spoken where there is no TLS to this machine itself, unless another machine (``named_by``) sent us
        there, and to others if the caller verifies nothing. Raises Unavailable.
        """
        local = is_loopback(host) and (not named_by or is_loopback(named_by)) and self.access.tls_verify is not True
        plain = local or self.access.tls_verify is False
        known = self._bases.get((host, plain))
        if known is None:
            known = self._bases[host, plain] = self._found(host, plain=plain)
        return known

    def _found(self, host: str, *, plain: bool) -> str:
        """What ``_probe`` finds, asked again when the connection breaks."""
        for failures in range(1, self.access.retrying.attempts):
            try:
                return self._probe(host, plain=plain)
            except Unavailable as error:
                if error.code not in BROKEN:
                    raise
            self.pause(failures)
        return self._probe(host, plain=plain)

    def _probe(self, host: str, *, plain: bool) -> str:
        transport = self._transport(host)
        try:
            transport.open(Request("GET", f"https://{host}/v1/_ping")).discard()
            return f"https://{host}/v1"
        except Unavailable as error:
            if not plain or error.code in ("registry-certificate", "registry-timeout"):
                raise
        transport.open(Request("GET", f"http://{host}/v1/_ping")).discard()
        return f"http://{host}/v1"

    def send(
        self,
        method: str,
        url: str,
        *,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> Response:
        """Send a request and return what is answered, whatever its status is.

        ``authorization`` is for the origin of ``url`` alone. A PUT that is answered with 301 or 302 is sent there
        again, as the index wants it. Broken connections and passing failures (429, 5xx) are tried again. A ``body``
        that is a function is opened anew for each try, and sent in chunks.
        """
        for failures in range(1, self.access.retrying.attempts + 1):
            last = failures == self.access.retrying.attempts
            try:
                response = self._follow(method, url, authorization, headers or {}, body)
            except Unavailable as error:
                if last or error.code not in BROKEN:
                    raise
            else:
                if response.status not in _PASSING or last:
                    return response
                response.discard()
            self.pause(failures)
        raise AssertionError("the last attempt returns or raises")

    def pause(self, failures: int) -> None:
        """Wait before the next try."""
        next(iter(self._transports.values())).sleep(self.access.retrying.pause(failures))

    def _follow(
        self, method: str, url: str, authorization: str | None, headers: Mapping[str, str], body: Body
    ) -> Response:
        transport = self._transport(url.partition("://")[2].partition("/")[0])
        for _ in range(_REDIRECTS):
            response = _send_once(transport, Request(method, url, headers, None, authorization), body)
            location = response.header("Location")
            if method != "PUT" or response.status not in _MOVED or not location:
                return response
            response.discard()
            target = transport.safe_target(response.url, location)
            if origin(target) != origin(url):
                authorization = None
            url = target
        raise Unavailable("it redirects without end", code="registry-redirects", subject=url)

    def _transport(self, host: str) -> CookieTransport:
        if host not in self._transports:
            insecure = frozenset({host}) if self.access.tls_verify is False else frozenset[str]()
            self._transports[host] = CookieTransport(self.access, self._cookies, insecure=insecure)
        return self._transports[host]


def _send_once(transport: Transport, request: Request, body: Body) -> Response:
    if not callable(body):
        return transport.open(Request(request.method, request.url, request.headers, body, request.authorization))
    reader = body()
    try:
        return transport.open(
            Request(request.method, request.url, request.headers, _pieces(reader), request.authorization)
        )
    finally:
        reader.close()


def _pieces(reader: Reader) -> Iterator[bytes]:
    while data := reader.read(_CHUNK):
        yield data


def refusal(response: Response, doing: str) -> LamellaError:
    """The error that an unexpected status means; closes the response. What the server says is part of it."""
    try:
        said = one_line(response.body(_ERROR_BODY)[:200].decode("utf-8", "replace").strip())
    except LamellaError:
        said = ""
    text = f"HTTP code {response.status} while {doing}" + (f": {said}" if said else "")
    match response.status:
        case 401:
            return Authentication(text, code="registry-login", subject=response.url, hint="'lamella login' logs in")
        case 403:
            return AccessDenied(text, code="registry-denied", subject=response.url)
        case 404:
            return NotFound(text, code="registry-not-found", subject=response.url)
        case _:
            return Unavailable(text, code="registry-status", subject=response.url)
