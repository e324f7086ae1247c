"""A proxy between a client and a registry that fails on purpose: at the byte, and at the request, that a test says.

It stands where the registry should be: clients are given its address. Each request is one of a few kinds; the first
fault that fits, and has something left of its ``times``, happens to it. Everything else passes as it is. What happens
depends on nothing but the requests, so the same client meets the same failures.
"""

from __future__ import annotations

import base64
import http.client
import re
import select
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal[
    "ping", "manifest-get", "manifest-head", "manifest-put", "blob-get", "blob-head", "upload-post", "upload-patch",
    "upload-put", "upload-get", "upload-delete", "tags", "referrers", "token", "other",
]  # fmt: skip
Action = Literal[
    "refuse",  # close at once, with nothing said
    "cut-head",  # close in the middle of the answer's head
    "cut",  # pass ``at`` bytes of the answer's body, then close
    "stall",  # pass ``at`` bytes of the answer's body, then say nothing more
    "cut-request",  # pass ``at`` bytes of the request's body, then close both sides
    "stall-request",  # pass ``at`` bytes of the request's body, then take no more and say nothing
    "lose-answer",  # pass the request, and close in place of the answer
    "corrupt",  # change the byte ``at`` of the answer's body
    "corrupt-request",  # change the byte ``at`` of the request's body
    "truncate",  # pass ``at`` bytes of the body and say that these are all
    "extend",  # pass the body and more, and say that it is so long
    "length",  # say that the body has ``at`` bytes more (or fewer) than it has
    "no-length",  # say nothing of the length, and close at the end
    "digest",  # say another Docker-Content-Digest
    "type",  # say another Content-Type
    "range",  # say another Content-Range
    "no-range",  # answer all of it when a part was asked for
    "status",  # answer with the status ``at`` instead
    "redirect",  # lead to ``elsewhere`` with the status ``at``
    "loop",  # lead back to here
    "location",  # say a Location on ``elsewhere``
    "realm",  # ask for a token of ``elsewhere``
    "basic",  # ask for a password
    "garbage",  # answer something that is no HTTP
    "flood",  # answer a head that does not end
]
_KINDS: tuple[tuple[str, str, Kind], ...] = (
    ("GET", r"/v2/?", "ping"),
    ("GET", r"/v2/.+/manifests/[^/]+", "manifest-get"),
    ("HEAD", r"/v2/.+/manifests/[^/]+", "manifest-head"),
    ("PUT", r"/v2/.+/manifests/[^/]+", "manifest-put"),
    ("POST", r"/v2/.+/blobs/uploads/?", "upload-post"),
    ("PATCH", r"/v2/.+/blobs/uploads/[^/]+", "upload-patch"),
    ("PUT", r"/v2/.+/blobs/uploads/[^/]+", "upload-put"),
    ("GET", r"/v2/.+/blobs/uploads/[^/]+", "upload-get"),
    ("DELETE", r"/v2/.+/blobs/uploads/[^/]+", "upload-delete"),
    ("GET", r"/v2/.+/blobs/[^/]+", "blob-get"),
    ("HEAD", r"/v2/.+/blobs/[^/]+", "blob-head"),
    ("GET", r"/v2/.+/tags/list", "tags"),
    ("GET", r"/v2/.+/referrers/[^/]+", "referrers"),
    ("GET", r"/token", "token"),
    ("POST", r"/token", "token"),
)
_CHUNK = 16 << 10
_STALL = 30.0
"""Seconds after which a stalled connection is closed, if its client has not."""
_LIE = "sha256:" + "ab" * 32


def kind_of(method: str, target: str) -> Kind:
    """The kind of a request."""
    path = target.partition("?")[0]
    for wanted, pattern, kind in _KINDS:
        if method == wanted and re.fullmatch(pattern, path):
            return kind
    return "other"


@dataclass
class Fault:
    """One thing that goes wrong, ``times`` times, after the first ``skip`` requests that it fits."""

    kind: Kind
    action: Action
    at: int = 0
    times: int = 1
    skip: int = 0
    elsewhere: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    """Only requests whose path has this in it."""


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    kind: Kind
    method: str
    target: str
    headers: dict[str, str]
    fault: Action | None


class FaultProxy:
    """The proxy: its address, the faults that are left, the requests that came."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.host = ""
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._skipped: dict[int, int] = {}

    def kinds(self) -> list[Kind]:
        """The kinds of the requests that came, in order."""
        return [request.kind for request in self.seen]

    def take(self, method: str, target: str, headers: dict[str, str]) -> tuple[Kind, Fault | None]:
        """Note a request; what is to happen to it."""
        kind = kind_of(method, target)
        with self._lock:
            fault = next((fault for fault in self.faults if self._fits(fault, kind, target)), None)
            if fault is not None:
                fault.times -= 1
            self.seen.append(Seen(kind, method, target, headers, None if fault is None else fault.action))
        return kind, fault

    def _fits(self, fault: Fault, kind: Kind, target: str) -> bool:
        if fault.kind != kind or fault.times <= 0 or fault.digest not in target:
            return False
        skipped = self._skipped.get(id(fault), 0)
        self._skipped[id(fault)] = skipped + 1
        return skipped >= fault.skip


class _Close(Exception):
    """Ends a connection in order, so that what was sent so far arrives."""


class _Reset(_Close):
    """Ends a connection as a crash does: what is under way may be lost."""


class _Handler(socketserver.StreamRequestHandler):
    """One connection of a client."""

    server: Any
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.connection.settimeout(60)
        try:
            with suppress(ConnectionError, TimeoutError, http.client.HTTPException):
                while self._one():
                    pass
        except _Reset:
            with suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except _Close:
            pass

    # -- one request

    def _one(self) -> bool:
        line = self.rfile.readline(65537)
        if not line.strip():
            return False
        words = line.decode("latin-1").split(" ", 2)
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return False  # TLS, say
        method, target = words[:2]
        headers = {}
        for name, value in http.client.parse_headers(self.rfile).items():
            headers[name.lower()] = value
        proxy: FaultProxy = self.server.proxy
        _, fault = proxy.take(method, target, headers)
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._before(fault)
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            self._forward(upstream, method, target, headers, fault)
            response = upstream.getresponse()
            self._answer(method, response, fault)
        finally:
            upstream.close()
        return "close" not in headers.get("connection", "").lower()

    def _before(self, fault: Fault | None) -> None:
        """The faults of which the registry hears nothing."""
        action = None if fault is None else fault.action
        if fault is None or action is None:
            return
        if action == "refuse":
            raise _Reset
        if action == "garbage":
            self._last(b"\x00\xffthis is no HTTP\r\n\r\n" * 3)
        if action == "flood":
            self._last(b"HTTP/1.1 200 OK\r\n" + b"X-Flood: 1\r\n" * 100_000)
        where = {
            "redirect": fault.elsewhere + self._path(),
            "loop": self._path(),
        }.get(action)
        if where is not None:
            self._say(fault.at or 307, {"Location": where})
        if action == "status":
            self._say(fault.at, fault.headers)
        if action == "realm":
            self._say(401, {"WWW-Authenticate": f'Bearer realm="{fault.elsewhere}/token",service="x",scope="y"'})
        if action == "basic":
            self._say(401, {"WWW-Authenticate": 'Basic realm="x"'})

    def _path(self) -> str:
        return str(self.server.proxy.seen[-1].target)

    def _say(self, status: int, headers: dict[str, str]) -> None:
        body = b'{"errors":[{"code":"UNKNOWN","message":"a fault"}]}'
        lines = [f"HTTP/1.1 {status} Fault", f"Content-Length: {len(body)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._last("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)

    def _last(self, data: bytes) -> None:
        """Send this, take what the client still sends, and close in order."""
        self.wfile.write(data)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(0.2)
            while self.connection.recv(65536):
                pass
        raise _Close

    # -- to the registry

    def _forward(
        self,
        upstream: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: dict[str, str],
        fault: Fault | None,
    ) -> None:
        passed = {name: value for name, value in headers.items() if name not in ("connection", "expect", "host")}
        passed["host"] = str(headers.get("host"))
        if fault is not None and fault.action == "no-range":
            passed.pop("range", None)
        upstream.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in passed.items():
            upstream.putheader(name, value)
        upstream.endheaders()
        sent = 0
        for data in self._body(headers):
            data = self._spoil_request(upstream, data, sent, fault)
            framed = f"{len(data):x}\r\n".encode() + data + b"\r\n" if "transfer-encoding" in headers else data
            with suppress(BrokenPipeError, ConnectionResetError):  # it answers early
                upstream.send(framed)
            sent += len(data)
        if "transfer-encoding" in headers:
            upstream.send(b"0\r\n\r\n")
        if fault is not None and fault.action == "lose-answer":
            upstream.getresponse().read()
            raise _Close

    def _body(self, headers: dict[str, str]) -> Iterator[bytes]:
        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(headers.get("content-length", "0"))
        while left:
            data = self.rfile.read1(min(left, _CHUNK))
            if not data:
                raise _Close
            left -= len(data)
            yield data

    def _spoil_request(
        self, upstream: http.client.HTTPConnection, data: bytes, sent: int, fault: Fault | None
    ) -> bytes:
        if fault is None or not sent <= fault.at < sent + len(data):
            return data
        if fault.action in ("cut-request", "stall-request"):
            upstream.send(data[: fault.at - sent])
            if fault.action == "stall-request":
                self._wait()
            raise _Reset
        if fault.action == "corrupt-request":
            at = fault.at - sent
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    # -- back to the client

    def _answer(self, method: str, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        headers = {name.lower(): value for name, value in response.getheaders()}
        headers.pop("transfer-encoding", None)
        headers.pop("connection", None)
        body = b"" if method == "HEAD" else response.read()
        if method != "HEAD":
            headers["content-length"] = str(len(body))
        action = None if fault is None else fault.action
        status = response.status
        if fault is not None:
            body = self._spoil(body, headers, fault)
        lines = [f"HTTP/1.1 {status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if action in ("no-length", "length"):
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if action == "cut-head":
            self.wfile.write(head[: min(fault.at if fault else 0, len(head) - 1)])
            raise _Close
        if action in ("cut", "stall"):
            assert fault is not None
            self.wfile.write(head + body[: fault.at])
            if action == "stall":
                self._wait()
            raise _Close
        self.wfile.write(head)
        for at in range(0, len(body), _CHUNK):
            self.wfile.write(body[at : at + _CHUNK])
        if action in ("no-length", "length"):
            self._last(b"")

    def _spoil(self, body: bytes, headers: dict[str, str], fault: Fault) -> bytes:
        """The faults that leave an answer which is one."""
        match fault.action:
            case "corrupt" if body:
                at = min(fault.at, len(body) - 1)
                body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            case "truncate":
                body = body[: fault.at]
                headers["content-length"] = str(len(body))
            case "extend":
                body += b"\0" * max(1, fault.at)
                headers["content-length"] = str(len(body))
            case "length":
                headers["content-length"] = str(max(0, int(headers["content-length"]) + fault.at))
            case "no-length":
                headers.pop("content-length", None)
            case "digest":
                headers["docker-content-digest"] = _LIE
            case "type":
                headers["content-type"] = "text/html"
            case "range":
                headers["content-range"] = f"bytes {fault.at}-{fault.at + len(body) - 1}/{fault.at + len(body) + 1}"
            case "location":
                parts = urlsplit(headers.get("location", "/"))
                headers["location"] = f"{fault.elsewhere}{parts.path}?{parts.query}"
        return body

    def _wait(self) -> None:
        """Say nothing until the client has had enough."""
        select.select([self.connection], [], [], _STALL)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    block_on_close = False

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy

    def server_bind(self) -> None:
        super().server_bind()
        while self.server_address[1] in _PORTS:
            self.socket.close()
            self.socket = socket.socket(self.address_family, self.socket_type)
            self.server_address = ("127.0.0.1", 0)
            super().server_bind()
        _PORTS.add(self.server_address[1])


_PORTS: set[int] = set()
"""Every port that a proxy had. A store knows which registry has a blob: at a port of before, nothing would be sent."""


@contextmanager
def fault_proxy(upstream: str, *faults: Fault) -> Iterator[FaultProxy]:
    """Run a proxy in front of ``upstream`` (``HOST:PORT``, plain HTTP) while the block runs."""
    proxy = FaultProxy(upstream)
    proxy.faults = list(faults)
    with _Server(proxy) as server:
        proxy.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Elsewhere:
    """Another host, which remembers what it was sent, body and all. It has a name of its own: ``localhost``.

    With ``serves`` it has what the registry at that address has, and gives it to everybody, as storage behind a
    registry does; without, it says that it has nothing.
    """

    url: str = ""
    serves: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def said(self, secret: str) -> bool:
        """Whether it was ever sent this text: in a path, a header or a body, plain or in Base64."""
        wanted = [secret.encode(), *(base64.b64encode(b" " * n + secret.encode())[4 : -4 or None] for n in range(3))]
        everything = b"\n".join(
            b"\n".join([target.encode(), *(f"{k}: {v}".encode() for k, v in headers.items()), body])
            for _, target, headers, body in self.requests
        )
        return any(text and text in everything for text in wanted)

    @property
    def authorizations(self) -> list[str]:
        """Every ``Authorization`` that it was sent."""
        return [headers["authorization"] for _, _, headers, _ in self.requests if "authorization" in headers]


@contextmanager
def elsewhere(serves: str = "") -> Iterator[Elsewhere]:
    """Run such a host while the block runs."""
    other = Elsewhere(serves=serves)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            other.requests.append((self.command, self.path, headers, body))
            status, said, data = 404, {}, b"{}"
            if other.serves and self.command in ("GET", "HEAD"):
                upstream = http.client.HTTPConnection(other.serves, timeout=60)
                passed = {name: value for name, value in headers.items() if name in ("range", "accept")}
                upstream.request(self.command, self.path, headers=passed)
                response = upstream.getresponse()
                status, said, data = response.status, dict(response.getheaders()), response.read()
                upstream.close()
            self.send_response(status)
            for name, value in said.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if self.command != "HEAD" else b"")

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        other.url = f"http://localhost:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield other
        finally:
            listener.shutdown()
            thread.join()
