"""An index and registries of version 1, as docker.io ran them in 2013: real servers on free ports of this machine.

They follow the rules of the protocol's documents: a token is given to whom asks for it with credentials and may be used
once, then the session cookie counts; nothing is accepted at a host that it is not for. Each request is written down.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.certificates import Certificate


@dataclass
class Asked:
    """A request as it came."""

    server: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Stored:
    """An image in a registry. ``complete`` tells that its checksum was stated and found right."""

    json: bytes
    layer: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    complete: bool = True


@dataclass
class World:
    """What all servers of one test share, and what they are to do wrong.

    ``fail`` has the statuses to answer with, used up one by one, by ``METHOD path`` (a regular expression); a text in
    place of a status is sent as the location of a ``redirect``. ``fail_headers`` and ``fail_body`` go with statuses.
    ``cut`` has after how many bytes layers break off, ``broken`` the same of other answers by ``METHOD path``, and
    ``cut_headers`` the texts in the headers of answers behind whose first byte they do; ``damage`` how many times
    layers come with a wrong byte. ``listed`` is what the index says in place of its images, ``part`` how many bytes a
    range has at most (0: all of it comes again), ``content_range`` what is said of it in place of the truth.
    """

    images: dict[str, Stored] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    ancestries: dict[str, list[str]] = field(default_factory=dict)
    listed: Any = None
    remote: str = "library/demo"
    user: str = ""
    password: str = ""
    standalone: bool = False
    tls: Certificate | None = None
    with_tokens: bool = True
    more_tokens: list[str] = field(default_factory=list)
    ranges: bool = True
    part: int = 1 << 40
    content_range: str | None = None
    endpoints: list[str] = field(default_factory=list)
    endpoint_header: str | None = None
    fail: dict[str, list[int | str]] = field(default_factory=dict)
    broken: dict[str, list[int]] = field(default_factory=dict)
    redirect: int = 307
    cut_headers: dict[str, list[bytes]] = field(default_factory=dict)
    fail_headers: dict[str, str] = field(default_factory=dict)
    fail_body: bytes = b'{"error":"so it was asked"}'
    cut: list[int] = field(default_factory=list)
    damage: int = 0
    log: list[Asked] = field(default_factory=list)
    announced: list[Any] = field(default_factory=list)
    concluded: list[Any] = field(default_factory=list)
    tokens: dict[str, bool] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)
    index: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, record: dict[str, Any], layer: bytes, *, tag: str = "", checksum: str | None = None) -> str:
        """Put an image there; the index knows its simple checksum, unless it is said what it knows."""
        raw = json.dumps(record, separators=(",", ":")).encode()
        identity = record["id"]
        self.images[identity] = Stored(raw, layer)
        self.checksums[identity] = simple(raw, layer) if checksum is None else checksum
        if tag:
            self.tags[tag] = identity
        return identity

    def ancestry(self, identity: str) -> list[str]:
        if identity in self.ancestries:
            return self.ancestries[identity]
        found = [identity]
        while (parent := json.loads(self.images[found[-1]].json).get("parent")) in self.images:
            found.append(parent)
        return found + ([parent] if parent else [])

    def asked(self, server: str = "", method: str = "", path: str = "") -> list[Asked]:
        """The requests that fit."""
        return [
            one
            for one in self.log
            if server in ("", one.server) and method in ("", one.method) and re.search(path, one.path)
        ]


def simple(raw: bytes, layer: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw + b"\n" + layer).hexdigest()


@contextmanager
def world(*registries: str, **options: Any) -> Iterator[World]:
    """An index and registries of these names (one, ``registry``, by default); without tokens, the index is all."""
    here = World(**options)
    with ExitStack() as stack:
        here.index = stack.enter_context(serving(here, "index"))
        if not here.standalone:
            here.endpoints = [stack.enter_context(serving(here, name)) for name in registries or ("registry",)]
        yield here


@contextmanager
def serving(here: World, name: str) -> Iterator[str]:
    """One more server of this world; its address."""
    handler = type("Handler", (_Handler,), {"world": here, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if here.tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(here.tls.certificate, here.tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    world: World
    name: str
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written one after the other

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # whoever asked has gone
            self.close_connection = True

    def do_GET(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        here, body = self.world, self._body()
        headers = {key.lower(): value for key, value in self.headers.items()}
        with here.lock:
            here.log.append(Asked(self.name, self.command, self.path, headers, body))
            for pattern, statuses in here.fail.items():
                if statuses and re.search(pattern, f"{self.command} {self.path}"):
                    self._fail(statuses.pop(0))
                    return
        if self.path == "/v1/_ping":
            self._answer(200, b"true", {"X-Docker-Registry-Standalone": str(here.standalone)})
            return
        path = self.path.removeprefix("/v1/")
        bare = here.remote.removeprefix("library/")
        if self.name == "index" and path.startswith(f"repositories/{bare}/") and "/tags" not in path:
            self._index(path.removeprefix(f"repositories/{bare}/"), body)
        elif self.name != "index" or here.standalone:
            self._registry(path, body)
        else:
            self._answer(404, b'{"error":"not here"}')

    def _fail(self, status: int | str) -> None:
        here = self.world
        if isinstance(status, str):
            self._answer(here.redirect, b"", {"Location": status})
        elif status == 0:
            self.close_connection = True
        else:
            self._answer(status, here.fail_body, here.fail_headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str | list[str]] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            for line in [value] if isinstance(value, str) else value:
                self.send_header(key, line)
        if status != 204 and "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(self._part_of(body))

    def _part_of(self, body: bytes) -> bytes:
        """All of an answer, or as much of it as comes before the connection breaks."""
        for pattern, sizes in self.world.broken.items():
            if sizes and re.search(pattern, f"{self.command} {self.path}"):
                self.close_connection = True
                return body[: sizes.pop(0)]
        return body

    def end_headers(self) -> None:
        """All headers, or as many bytes of them as come before the connection breaks."""
        for pattern, sizes in self.world.cut_headers.items():
            if sizes and self.command and re.search(pattern, f"{self.command} {self.path}"):
                head = b"".join(self._headers_buffer)
                self._headers_buffer = []
                self.wfile.write(head[: head.index(sizes.pop(0)) + 1])
                raise ConnectionAbortedError
        super().end_headers()

    # -- the index

    def _index(self, what: str, body: bytes) -> None:
        here = self.world
        wanted = "Basic " + base64.b64encode(f"{here.user}:{here.password}".encode()).decode()
        if here.user and self.headers.get("Authorization") != wanted:
            self._answer(401, b"")
            return
        headers: dict[str, str | list[str]] = {}
        if not here.standalone:
            endpoints = ", ".join(here.endpoints) if here.endpoint_header is None else here.endpoint_header
            headers["X-Docker-Endpoints"] = endpoints
        if here.with_tokens and not here.standalone and self.headers.get("X-Docker-Token") == "true":
            token = f'signature={secrets.token_hex(8)},repository="{here.remote}",access=read'
            given = [token, *here.more_tokens]
            here.tokens[",".join(given)] = True
            headers["X-Docker-Token"] = given
        if self.command == "GET" and what == "images":
            listed = [{"id": key, "checksum": here.checksums.get(key, "")} for key in here.images]
            self._answer(200, json.dumps(listed if here.listed is None else here.listed).encode(), headers)
        elif self.command == "PUT" and what == "":
            here.announced.append(json.loads(body))
            self._answer(200, b"true", headers)
        elif self.command == "PUT" and what == "images":
            here.concluded.append(json.loads(body))
            for item in json.loads(body):
                here.checksums[item["id"]] = item.get("checksum", "")
            self._answer(204, b"")
        else:
            self._answer(404, b"")

    # -- a registry

    def _registry(self, path: str, body: bytes) -> None:
        here = self.world
        cookie = self._admitted()
        if cookie is None:
            self._answer(401, b'{"error":"Requires authorization"}')
            return
        headers = {"Set-Cookie": f"session={cookie}; Path=/; HttpOnly"} if cookie else {}
        found = re.fullmatch(r"images/([^/]+)/(ancestry|json|layer|checksum)", path)
        if path == f"repositories/{here.remote}/tags" and self.command == "GET":
            self._answer(200, json.dumps(here.tags).encode(), headers)
        elif path.startswith(f"repositories/{here.remote}/tags/") and self.command == "PUT":
            here.tags[path.rpartition("/")[2]] = json.loads(body)
            self._answer(200, b"true", headers)
        elif found is not None:
            self._image(found[1], found[2], body, headers)
        else:
            self._answer(404, b'{"error":"Repository not found"}', headers)

    def _admitted(self) -> str | None:
        """The session to begin, empty to go on with one; None for whom nobody knows."""
        here = self.world
        if not here.with_tokens or here.standalone:
            return ""
        found = re.search(r"session=(\w+)", self.headers.get("Cookie", ""))
        if found is not None and f"{self.name}-{found[1]}" in here.sessions:
            return ""
        given = self.headers.get("Authorization", "")
        token = given.removeprefix("Token ")
        if not given.startswith("Token ") or not here.tokens.get(token):
            return None
        here.tokens[token] = len(here.endpoints) > 1  # with several registries each asks the index for itself
        session = secrets.token_hex(4)
        here.sessions.add(f"{self.name}-{session}")
        return session

    def _image(self, identity: str, what: str, body: bytes, headers: dict[str, str]) -> None:
        here = self.world
        if self.command == "PUT":
            self._put(identity, what, body, headers)
        elif identity not in here.images:
            self._answer(404, b'{"error":"Image not found"}', headers)
        elif what == "ancestry":
            self._answer(200, json.dumps(here.ancestry(identity)).encode(), headers)
        elif what == "json":
            self._answer(200, here.images[identity].json, {**headers, **here.images[identity].headers})
        elif what == "layer":
            self._send_layer(here.images[identity].layer, headers)
        else:
            self._answer(405, b"", headers)

    def _send_layer(self, data: bytes, headers: dict[str, str]) -> None:
        here = self.world
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        offset, end, status = 0, len(data), 200
        if here.ranges:
            headers["Accept-Ranges"] = "bytes"
        if asked is not None and here.ranges and here.part:
            offset, status = int(asked[1]), 206
            end = min(len(data), offset + here.part)
            headers["Content-Range"] = f"bytes {offset}-{end - 1}/{len(data)}"
            if here.content_range is not None:
                headers["Content-Range"] = here.content_range
        if here.damage > 0:
            here.damage -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        data = data[offset:end]
        if not here.cut:
            self._answer(status, data, headers)
            return
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data[: here.cut.pop(0)])
        self.close_connection = True

    def _put(self, identity: str, what: str, body: bytes, headers: dict[str, str]) -> None:
        here = self.world
        stored = here.images.get(identity)
        if what == "json":
            if stored is not None and stored.complete:
                self._answer(409, b'{"error":"Image already exists"}', headers)
                return
            parent = json.loads(body).get("parent")
            if parent and parent not in here.images:
                self._answer(400, b'{"error":"Image depends on a non existing parent"}', headers)
                return
            here.images[identity] = Stored(body, complete=False)
        elif stored is None:
            self._answer(404, b'{"error":"JSON not found"}', headers)
            return
        elif what == "layer":
            stored.layer = body
        elif simple(stored.json, stored.layer) != self.headers.get("X-Docker-Checksum-Payload"):
            self._answer(400, b'{"error":"Checksum mismatch, ignoring the layer"}', headers)
            return
        else:
            stored.complete = True
        self._answer(200, b"true", headers)
