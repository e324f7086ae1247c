"""A token server as the registries of the world have it: Docker's token specification, over HTTP, with users.

It grants by user, remembers what it was asked and with which credentials, and signs with a certificate that Debian's
docker-registry trusts (RS256, the certificate in ``x5c``).
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support import needs
from support.certificates import Certificate

ISSUER = "lamella tests"
SERVICE = "registry.test"


@dataclass(frozen=True)
class Asked:
    """One request for a token: how, with which ``Authorization``, and its parameters (of the query, or of the form)."""

    method: str
    authorization: str
    parameters: Mapping[str, list[str]]
    status: int

    @property
    def scopes(self) -> list[str]:
        """The scopes that were asked for, each on its own."""
        return [scope for text in self.parameters.get("scope", []) for scope in text.split(" ") if scope]

    @property
    def user(self) -> str:
        """The user whose password was sent, if one was."""
        if self.authorization.lower().startswith("basic "):
            return base64.b64decode(self.authorization[6:]).decode().partition(":")[0]
        return self.parameters.get("username", [""])[0]


@dataclass
class TokenServer:
    """The server's address, users and rules; tests change ``lifetime`` and the like while it runs.

    Whoever gives a password that is right may do everything; others may pull if ``anonymous`` says so. ``oauth2`` says
    whether POST is understood: where it is not, as in old servers, the answer is 404 and clients go on with GET.
    """

    realm: str
    signer: Certificate
    users: dict[str, str]
    anonymous: bool = True
    lifetime: int = 300
    oauth2: bool = True
    field_name: str = "token"
    asked: list[Asked] = field(default_factory=list)
    refresh_tokens: dict[str, str] = field(default_factory=dict)

    def token(self, user: str, scopes: list[str]) -> str:
        """A signed token for what ``user`` ("" is nobody) may do of what the scopes ask."""
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [_der(self.signer.certificate)]}
        claims = {
            "iss": ISSUER, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 10, "exp": now + self.lifetime,
            "jti": secrets.token_hex(8), "access": [found for scope in scopes if (found := self._access(user, scope))],
        }  # fmt: skip
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        command = [needs.tool("openssl"), "dgst", "-sha256", "-sign", str(self.signer.key)]
        signature = subprocess.run(command, input=signed.encode(), stdout=subprocess.PIPE, check=True).stdout
        return f"{signed}.{_base64url(signature)}"

    def _access(self, user: str, scope: str) -> dict[str, Any] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        granted = set(actions.split(",")) & ({"pull", "push", "delete", "*"} if user else {"pull"})
        if not granted or not (user or self.anonymous):
            return None
        return {"type": kind, "name": name, "actions": sorted(granted)}

    def answer(self, method: str, authorization: str, parameters: Mapping[str, list[str]]) -> tuple[int, Any]:
        """What is said to a request, and remembered of it."""
        status, document = self._decide(method, authorization, parameters)
        self.asked.append(Asked(method, authorization, parameters, status))
        return status, document

    def _decide(self, method: str, authorization: str, parameters: Mapping[str, list[str]]) -> tuple[int, Any]:
        if method == "POST" and not self.oauth2:
            return 404, {"errors": [{"code": "NOT_FOUND"}]}
        user = self._user(method, authorization, parameters)
        if user is None:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "the password is wrong"}]}
        scopes = [scope for text in parameters.get("scope", []) for scope in text.split(" ") if scope]
        token = self.token(user, scopes)
        name = "access_token" if method == "POST" else self.field_name
        document = {name: token, "expires_in": self.lifetime, "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ")}
        offline = {*parameters.get("offline_token", []), *parameters.get("access_type", [])} & {"true", "offline"}
        if user and offline:
            refresh = secrets.token_hex(16)
            self.refresh_tokens[refresh] = user
            document["refresh_token"] = refresh
        return 200, document

    def _user(self, method: str, authorization: str, parameters: Mapping[str, list[str]]) -> str | None:
        """Who asks: "" is nobody; None if the credentials are wrong."""
        if method == "POST":
            if parameters.get("grant_type") == ["refresh_token"]:
                return self.refresh_tokens.get(parameters.get("refresh_token", [""])[0])
            name, password = (parameters.get(key, [""])[0] for key in ("username", "password"))
        elif authorization:
            kind, _, text = authorization.partition(" ")
            if kind.lower() != "basic":
                return None
            name, _, password = base64.b64decode(text).decode().partition(":")
        else:
            return ""
        return name if name in self.users and self.users[name] == password else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _der(certificate: Path) -> str:
    """The certificate in standard base64, as ``x5c`` has it."""
    found = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END", certificate.read_text(), re.DOTALL)
    assert found is not None
    return "".join(found[1].split())


def _handler(server: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(server.answer("GET", self._authorization(), parse_qs(urlsplit(self.path).query)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            self._reply(server.answer("POST", self._authorization(), parse_qs(body)))

        def _authorization(self) -> str:
            return self.headers.get("Authorization", "")

        def _reply(self, answer: tuple[int, Any]) -> None:
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def token_server(signer: Certificate, users: Mapping[str, str]) -> Iterator[TokenServer]:
    """Run a token server, in a thread of this process, while the block runs."""
    server = TokenServer("", signer, dict(users))
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listener:
        server.realm = f"http://127.0.0.1:{listener.server_address[1]}/token"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
