"""Running the registry: a socket, TLS, users, and uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import FailedPrecondition, InvalidInput, Unsupported
from lamella.server.limits import DEFAULT_LIMITS, ServerLimits
from lamella.store.store import Store

_BACKLOG = 128
_KEEP_ALIVE = 75
"""Seconds that a connection may wait for its next request."""
_GRACE = 10
"""Seconds that requests under way have when the server is asked to stop."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve: where to listen (port 0 takes a free one), who may write, and by which certificate one is known."""

    host: str = "127.0.0.1"
    port: int = 5000
    writable: bool = False
    htpasswd: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    limits: ServerLimits = DEFAULT_LIMITS

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` (every address) or ``HOST``. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "5000"
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InvalidInput(f"'{text[:200]}' is not HOST:PORT", code="listen-address")
    return host, int(port)


def serve(store: Store, options: Options, *, ready: Callable[[str], object]) -> None:
    """Serve until a signal ends it. ``ready`` is told the URL when clients can connect.

    Raises FailedPrecondition (``serve-open``) where everybody on the network could write, Unsupported when the extra
    is not installed, and what opening the socket, the certificate or the users raises.
    """
    _check(options)
    try:
        import uvicorn

        from lamella.server.app import application
        from lamella.server.connection import Announcing, protocol_with
        from lamella.server.users import Users
    except ImportError as error:
        raise Unsupported(
            f"{error.name} is not installed", code="server-extra", hint="pip install 'lamella[server]'"
        ) from None
    users = None if options.htpasswd is None else Users(options.htpasswd)
    with os_errors(f"{options.host}:{options.port}"), _listen(options) as listener:
        host, port = listener.getsockname()[:2]
        app = application(
            store, writable=options.writable, users=users, hosts=_hosts(host, port), limits=options.limits
        )
        config = uvicorn.Config(
            app,
            http=protocol_with(options.limits),
            loop="asyncio",
            lifespan="on",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=options.limits.connections,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
            h11_max_incomplete_event_size=options.limits.head_bytes,
            ssl_certfile=options.certificate,
            ssl_keyfile=options.key,
        )
        with os_errors(str(options.certificate)):
            config.load()
        url = f"{'http' if options.certificate is None else 'https'}://{_joined(host, port)}"
        Announcing(config, lambda: ready(url)).run(sockets=[listener])


def _check(options: Options) -> None:
    if (options.certificate is None) != (options.key is None):
        raise InvalidInput("a certificate and its key belong together", code="serve-tls")
    if options.writable and options.htpasswd is None and not options.is_local:
        raise FailedPrecondition(
            f"everybody who reaches {options.host or 'this machine'} could write to the store",
            code="serve-open",
            hint="give users with --htpasswd, or listen on 127.0.0.1",
        )


def _listen(options: Options) -> socket.socket:
    """A socket that listens; without a host on every address, IPv6 and IPv4."""
    if not options.host and socket.has_dualstack_ipv6():
        return socket.create_server(("", options.port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    return socket.create_server((options.host, options.port), family=family)


def _hosts(host: str, port: int) -> list[str]:
    """What clients on this machine call the server."""
    return list(dict.fromkeys([_joined(host, port), f"localhost:{port}", f"127.0.0.1:{port}"]))


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
