"""A server that says what a test tells it to, and remembers what it was asked: for answers that no real one gives."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    """One request, its headers by lower-case name."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What is answered. ``cut`` breaks the connection after so many bytes of the body; -1: before any header."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


Answer = Callable[[Asked], Reply]


class Scripted:
    """The server: ``host`` is ``127.0.0.1:PORT``; ``answer`` may be replaced while it runs."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.host = ""

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"http://{self.host}"

    def with_credentials(self) -> list[Asked]:
        """The requests that carried an ``Authorization``."""
        return [asked for asked in self.asked if "authorization" in asked.headers]


def _handler(server: Scripted) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def _act(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked = Asked(self.command, self.path, {n.lower(): v for n, v in self.headers.items()}, body)
            server.asked.append(asked)
            reply = server.answer(asked)
            if reply.cut == -1:
                self._break()
                return
            self.send_response(reply.status)
            headers = {"Content-Length": str(len(reply.body)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[: reply.cut])
            if reply.cut is not None:
                self._break()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _act

        def _break(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def send_error(self, *arguments: object, **options: object) -> None:
            """Somebody tries TLS: no answer is one too."""
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Connections break here all the time."""


@contextmanager
def scripted(answer: Answer, address: str = "127.0.0.1") -> Iterator[Scripted]:
    """Run a server, in threads of this process, while the block runs."""
    server = Scripted(answer)
    with _Server((address, 0), _handler(server)) as listener:
        server.host = f"{address}:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
