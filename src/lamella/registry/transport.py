"""HTTP as registries speak it, on urllib3: one exchange at a time, redirects by hand, every failure typed.

``Authorization`` goes to the host, port and scheme that it was given for and nowhere else, whatever an answer says.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from weakref import WeakSet

from lamella.errors import Aborted, LamellaError, ResourceExhausted, Unavailable
from lamella.registry.access import Access
from lamella.registry.certificates import tls_context
from lamella.registry.hosts import Origin, is_loopback, origin, resolve

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool
    from urllib3.response import BaseHTTPResponse

_REDIRECTS = 10
_DRAIN = 64 << 10
_BLOCK = 256 << 10
_POOL = 16
_DIGITS = 19
"""A number of more of them is no size, and Python would not read one of thousands."""

BROKEN = frozenset({"registry-connection", "registry-timeout"})
"""Codes of failures that the next try may not have."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. ``authorization`` is for the origin of ``url`` alone, and so is a body that is ``secret``.

    A body that is no bytes is sent once.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)
    secret: bool = False


class Response:
    """An answer whose body is read as it comes. ``url`` is where it came from, redirects followed."""

    def __init__(self, raw: BaseHTTPResponse, url: str, transport: Transport) -> None:
        self._raw, self._transport = raw, transport
        self.url = url
        self.status = raw.status

    def header(self, name: str) -> str:
        """A header, empty if it is absent."""
        return str(self._raw.headers.get(name, ""))

    def header_lines(self, name: str) -> list[str]:
        """Each occurrence of a header."""
        return [str(value) for value in self._raw.headers.getlist(name)]

    @property
    def length(self) -> int | None:
        """``Content-Length``; None if it is absent or malformed."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end. Raises Unavailable if the connection breaks before the end."""
        with _Failures(self.url, self._transport):
            return self._raw.read(size) or b""

    def body(self, limit: int) -> bytes:
        """All of it, and the connection is given back. Raises ResourceExhausted over ``limit`` bytes."""
        pieces: list[bytes] = []
        left = limit + 1
        try:
            while left > 0 and (data := self.read(min(left, _BLOCK))):
                pieces.append(data)
                left -= len(data)
            if left <= 0:
                raise ResourceExhausted(f"an answer of more than {limit} bytes", code="document-size", subject=self.url)
        finally:
            self.close()
        return b"".join(pieces)

    def discard(self) -> None:
        """Read a short body away so that the connection can be used again; a long one costs the connection."""
        with suppress(LamellaError):
            if (self.length or 0) <= _DRAIN:
                self.read(_DRAIN)
        self.close()

    def close(self) -> None:
        """Give the connection back, or close it if something is left to be read."""
        if not self._raw.closed and getattr(self._raw, "length_remaining", None) == 0:
            with suppress(LamellaError):
                self.read(1)  # the end has to be read too before the connection is free
        if self._raw.closed:
            self._raw.release_conn()
        else:
            self._raw.close()


class _Failures:
    """Turns urllib3's failures into typed ones: ``registry-connection``, ``-timeout``, ``-unreachable``, ``-tls``."""

    def __init__(self, url: str, transport: Transport, *, known: bool = False) -> None:
        self._url, self._transport, self._known = url, transport, known

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, LamellaError) or not isinstance(error, Exception):
            return
        if self._transport.closed:
            raise self._transport.ended() from None
        raised = failure_of(error, self._url)
        if raised is not None:
            if self._known and raised.code == "registry-unreachable":  # it was there a moment ago
                raised.code = "registry-connection"
            raise raised from None


def failure_of(error: Exception, url: str) -> Unavailable | None:
    """The typed error for a failure of urllib3; None for what is none of it."""
    import ssl

    from urllib3 import exceptions as failures

    scheme, host, port = origin(url)
    at = host if (scheme, port) in (("https", 443), ("http", 80)) else f"{host}:{port}"
    cause: object = error
    while isinstance(cause, BaseException):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message or "it is not trusted"
            hint = f"put its authority into certs.d/{at}/ca.crt, or --tls-verify=false"
            return Unavailable(f"its certificate: {why}", code="registry-certificate", subject=at, hint=hint)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, failures.NameResolutionError):
        return Unavailable("the host is not known", code="registry-unreachable", subject=at)
    if isinstance(error, failures.ConnectTimeoutError):
        return Unavailable("it cannot be reached in time", code="registry-unreachable", subject=at)
    if isinstance(error, failures.NewConnectionError):
        return Unavailable(f"it cannot be reached: {_last(error)}", code="registry-unreachable", subject=at)
    if isinstance(error, (failures.TimeoutError, TimeoutError)):
        return Unavailable("it has said nothing for too long", code="registry-timeout", subject=at)
    if isinstance(error, (failures.SSLError, ssl.SSLError)):
        return Unavailable(f"TLS failed: {_last(error)}", code="registry-tls", subject=at)
    if isinstance(error, (failures.HTTPError, OSError)):
        return Unavailable(f"the connection broke: {_last(error)}", code="registry-connection", subject=at)
    return None


def _last(error: BaseException) -> str:
    """What went wrong at the bottom, in words."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:200] or type(error).__name__


def _proxy_headers(proxy: str) -> dict[str, str]:
    """What a proxy is to be told: the credentials that its address has, if it has any."""
    from urllib3.util import make_headers, parse_url

    auth = parse_url(proxy).auth
    return {} if auth is None else dict(make_headers(proxy_basic_auth=unquote(auth)))


class _Lines:
    """A stream of which the last line is known."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.last = stream, b""

    def readline(self, size: int = -1, /) -> bytes:
        self.last = self.stream.readline(size)
        return bytes(self.last)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@functools.cache
def _whole_headers() -> Any:
    """A kind of answer that is none when the connection ends among its headers.

    http.client takes what has come until then, the half of a host's name as well.
    """
    from http.client import HTTPResponse, RemoteDisconnected

    class WholeHeaders(HTTPResponse):
        def begin(self) -> None:
            stream: Any = self.fp
            lines: Any = _Lines(stream)
            self.fp = lines
            super().begin()
            if self.fp is lines:  # an answer without a body has closed it
                self.fp = stream
            if lines.last not in (b"\r\n", b"\n"):
                raise RemoteDisconnected("it ended among the headers of the answer")

    return WholeHeaders


def _remembering(kind: Any, remember: Callable[[socket.socket | None], None]) -> Any:
    """A kind of connection whose sockets are told of: what another thread waits for can be ended by no other way."""

    class Remembering(kind):  # type: ignore[misc]
        response_class = _whole_headers()

        def connect(self) -> None:
            super().connect()
            remember(self.sock)

    return Remembering


class Transport:
    """Connections to servers, kept and used again. Thread-safe. ``close`` makes what is under way fail with Aborted.

    ``insecure`` are hosts (with their ports) whose certificates are not verified and that may be spoken to in plain
    HTTP; this machine's own may always.
    """

    def __init__(self, access: Access, *, insecure: frozenset[str] = frozenset()) -> None:
        self._access, self._insecure = access, insecure
        self._lock = threading.Lock()
        self._pools: dict[Origin, HTTPConnectionPool] = {}
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._reached: set[Origin] = set()
        self._ended = threading.Event()
        self._timer: threading.Timer | None = None
        self._late = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._ended.is_set()

    def close(self) -> None:
        """Close every connection; other threads that wait for one are waiting no longer."""
        self._ended.set()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            sockets, pools = list(self._sockets), list(self._pools.values())
            self._pools.clear()
        for connected in sockets:
            with suppress(OSError):  # of TLS too, whose own way to shut down is not for two threads
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
        for pool in pools:
            pool.close()

    def _start_timer(self) -> None:
        """Begin to count towards the deadline, with the first request."""
        with self._lock:
            if self._timer is None and self._access.deadline is not None and not self.closed:
                self._timer = threading.Timer(self._access.deadline, self._expire)
                self._timer.daemon = True
                self._timer.start()

    def _expire(self) -> None:
        self._late = True
        self.close()

    def ended(self) -> LamellaError:
        """Why nothing can be asked any longer: the deadline has passed, or the client was closed."""
        if self._late:
            return Unavailable(
                f"it took longer than the {self._access.deadline:g} seconds that it may", code="registry-deadline"
            )
        return Aborted("the client was closed", code="registry-closed")

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Aborted when the transport is closed meanwhile, Unavailable when the deadline passes."""
        if self._access.sleep is not None:
            self._access.sleep(seconds)
        elif self._ended.wait(seconds):
            raise self.ended()

    def open(self, request: Request) -> Response:
        """Send a request and follow where the answer leads. Raises Unavailable, without trying again."""
        url, authorization, method, body = request.url, request.authorization, request.method, request.body
        for _ in range(_REDIRECTS):
            response = self._exchange(method, url, request.headers, body, authorization)
            target = self._redirect(response, method)
            if target is None:
                return response
            response.discard()
            if origin(target) != origin(url):
                authorization = None
                if method == "POST" and body:  # what is posted to a token server is a secret too
                    raise Unavailable(
                        "it redirects to another host what was for it alone",
                        code="registry-protocol",
                        subject=origin(url)[1],
                    )
                if request.secret:
                    raise Unavailable(
                        f"it would have credentials sent on to {origin(target)[1]}",
                        code="registry-redirects",
                        subject=origin(url)[1],
                    )
            if response.status == 303 and method != "HEAD":
                method, body = "GET", None
            elif body is not None and not isinstance(body, bytes):
                raise Unavailable(
                    "it redirects while it is sent a stream", code="registry-protocol", subject=origin(url)[1]
                )
            url = target
        raise Unavailable("it redirects without end", code="registry-redirects", subject=origin(url)[1])

    def _redirect(self, response: Response, method: str) -> str | None:
        """Where an answer redirects to. Raises Unavailable for a way from TLS to plain HTTP."""
        followed = (301, 302, 303, 307, 308) if method in ("GET", "HEAD") else (307, 308)
        location = response.header("Location")
        if response.status not in followed or not location:
            return None
        return self.safe_target(response.url, location)

    def safe_target(self, base: str, location: str) -> str:
        """The URL that an answer names. Raises Unavailable (``registry-insecure``) for plain HTTP to elsewhere."""
        target = resolve(base, location)
        self._check(target)
        return target

    def _check(self, url: str) -> None:
        scheme, host, port = origin(url)
        if scheme == "http" and not is_loopback(host) and not {host, f"{host}:{port}"} & self._insecure:
            raise Unavailable(
                "plain HTTP is refused",
                code="registry-insecure",
                subject=f"{host}:{port}",
                hint="--tls-verify=false, or insecure in registries.conf",
            )

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        authorization: str | None,
    ) -> Response:
        from urllib3.util import parse_url

        self._check(url)
        if self.closed:
            raise self.ended()
        self._start_timer()
        sent = {"User-Agent": self._access.user_agent, "Accept-Encoding": "identity", **headers}
        if authorization is not None:
            sent["Authorization"] = authorization
        target = parse_url(url).request_uri
        proxy = self._proxy(*origin(url)[:2])
        if proxy is not None and origin(url)[0] == "http":  # through TLS a proxy only passes bytes on
            target = url
            sent |= _proxy_headers(proxy)
        with _Failures(url, self, known=origin(url) in self._reached):
            raw = self._pool(url).urlopen(
                method,
                target,
                body=body,
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        self._reached.add(origin(url))
        return Response(raw, url, self)

    def _pool(self, url: str) -> HTTPConnectionPool:
        key = origin(url)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = self._connect(key)
        return pool

    def _connect(self, key: Origin) -> HTTPConnectionPool:
        pool = self._new_pool(key)
        pool.ConnectionCls = _remembering(pool.ConnectionCls, self._remember)
        return pool

    def _remember(self, connected: socket.socket | None) -> None:
        with self._lock:
            if connected is not None:
                self._sockets.add(connected)

    def _new_pool(self, key: Origin) -> HTTPConnectionPool:
        import urllib3

        scheme, host, port = key
        timeout = urllib3.Timeout(connect=self._access.connect_timeout, read=self._access.read_timeout)
        options: dict[str, Any] = {"maxsize": _POOL, "timeout": timeout, "blocksize": _BLOCK}
        if scheme == "https":
            named = host if port == 443 else f"{host}:{port}"
            verify = not {host, f"{host}:{port}"} & self._insecure
            options["ssl_context"] = tls_context(named, self._access.certificates, verify=verify)
            if not verify:
                options["assert_hostname"] = False
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it is what was asked for
        proxy = self._proxy(scheme, host)
        if proxy is not None:
            manager = urllib3.ProxyManager(proxy, proxy_headers=_proxy_headers(proxy), **options)
            return manager.connection_from_host(host, port, scheme)
        return (urllib3.HTTPSConnectionPool if scheme == "https" else urllib3.HTTPConnectionPool)(host, port, **options)

    def _proxy(self, scheme: str, host: str) -> str | None:
        proxies = self._access.proxies
        exempt = [name.strip().lstrip(".").lower() for name in proxies.get("no", "").split(",") if name.strip()]
        if is_loopback(host) or any(n == "*" or host == n or host.endswith(f".{n}") for n in exempt):
            return None
        return proxies.get(scheme)
