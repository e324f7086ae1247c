"""Authentication at a registry: none, basic, or bearer tokens, whichever it asks for.

Formats: RFC 7617 (basic), RFC 6750 (bearer), and the token specification of the distribution project: a GET with basic
credentials, or a POST with an identity token (OAuth2). Credentials go to the registry itself, and to a token server
that it names if ``hosts.may_get_credentials`` allows that one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from lamella.errors import Authentication, LamellaError, Unavailable
from lamella.registry.challenge import Challenge, parse_challenges
from lamella.registry.credentials import Credentials
from lamella.registry.hosts import host_name, may_get_credentials, origin, server_of
from lamella.registry.transport import Request
from lamella.spec import jsondoc

_CLIENT = "lamella"
_LIFETIME = 60.0
"""Seconds that a token lives if nobody says."""
_MARGIN = 0.1
"""The part of a token's life that is left unused, so that it does not end on its way."""
_TOKEN_LIMIT = 1 << 20

Scopes = frozenset[str]
Fetch = Callable[[Request, int], tuple[int, bytes]]
"""Sends a request, tried again as usual, and gives the status and the body, which has a limit."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    ends: float


class Authenticator:
    """What ``Authorization`` to send to one registry. Thread-safe; of several threads that need a token one fetches it.

    ``credentials`` is asked once, when the registry wants some, with the path of the repository.
    """

    def __init__(
        self,
        host: str,
        credentials: Callable[[str], Credentials | None],
        fetch: Fetch,
        *,
        realms: frozenset[str] = frozenset(),
        insecure: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._find, self._fetch = host, credentials, fetch
        self._realms, self._insecure, self._clock = realms, insecure, clock
        self._lock = threading.RLock()
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._known: dict[str, Credentials | None] = {}

    def header(self, scopes: Scopes, path: str) -> str | None:
        """What is known to be needed; None before the registry has asked, or if there is nothing to offer."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                credentials = self._credentials(path)
                return None if credentials is None or not credentials.username else credentials.basic
            return f"Bearer {self._token(self._challenge, scopes, path)}"

    def challenged(self, lines: Iterable[str], scopes: Scopes, path: str, refused: str | None) -> str:
        """What to try next after an answer of 401 to a request that was sent with ``refused``.

        Raises Authentication if there is nothing left to try: no credentials, or those that there are were refused.
        """
        challenges = {challenge.scheme: challenge for challenge in reversed(parse_challenges(lines))}
        with self._lock:
            bearer, basic = challenges.get("bearer"), challenges.get("basic")
            if bearer is not None and bearer.parameters.get("realm"):
                asked = frozenset(bearer.parameters.get("scope", "").split())
                previous = self._tokens.get(scopes)
                if previous is not None and refused == f"Bearer {previous.text}":
                    del self._tokens[scopes]
                self._challenge = bearer
                header = f"Bearer {self._token(bearer, scopes, path, asked)}"
            elif basic is not None:
                self._challenge = basic
                credentials = self._credentials(path)
                header = credentials.basic if credentials is not None and credentials.username else ""
            else:
                raise Authentication(
                    "it asks for a kind of authentication that is not known here",
                    code="auth-scheme",
                    subject=self._host,
                )
            if not header or header == refused:
                raise self.refusal(path)
            return header

    def refusal(self, path: str) -> Authentication:
        """The failure of a request that the registry does not take as authenticated."""
        if self._credentials(path) is None:
            return Authentication(
                "it asks for credentials", code="credentials-missing", subject=self._host, hint=self._hint()
            )
        return Authentication(
            "it refuses the credentials", code="credentials-refused", subject=self._host, hint=self._hint()
        )

    def _hint(self) -> str:
        return f"'lamella login {self._host}'"

    def _credentials(self, path: str) -> Credentials | None:
        with self._lock:
            if path not in self._known:
                self._known[path] = self._find(path)
            return self._known[path]

    def _token(self, challenge: Challenge, scopes: Scopes, path: str, asked: Scopes = frozenset()) -> str:
        token = self._tokens.get(scopes)
        if token is None or token.ends <= self._clock():
            token = self._tokens[scopes] = self._request(challenge, scopes | asked, path)
        return token.text

    def _request(self, challenge: Challenge, scopes: Scopes, path: str) -> _Token:
        realm = challenge.parameters["realm"]
        origin(realm)
        credentials = self._credentials(path)
        if credentials is not None:
            self._check_realm(realm)
        service = challenge.parameters.get("service", "")
        if credentials is not None and credentials.identity_token:
            request = _refresh(realm, service, scopes, credentials.identity_token)
        else:
            request = _query(realm, service, scopes, credentials)
        status, body = self._fetch(request, _TOKEN_LIMIT)
        if status in (400, 401, 403):
            raise self.refusal(path)
        if status != 200:
            raise Unavailable(f"the token server answers {status}", code="token-server", subject=origin(realm)[1])
        return self._read(body, realm)

    def _check_realm(self, realm: str) -> None:
        """Raise Authentication if credentials may not go to the token server that the registry names."""
        if not may_get_credentials(server_of(self._host), realm, named=self._realms, insecure=self._insecure):
            scheme, name, _ = origin(realm)
            raise Authentication(
                f"it sends for a token to {scheme}://{name}, which may not be given its credentials",
                code="realm-refused",
                subject=self._host,
                hint=f"if {name} is right, allow it with --allow-realm {host_name(name)}",
            )

    def _read(self, body: bytes, realm: str) -> _Token:
        what = "the answer of the token server"
        try:
            document = jsondoc.parse_object(body, what)
            text = jsondoc.optional(document, "token", str, what) or jsondoc.optional(
                document, "access_token", str, what
            )
            lifetime = document.get("expires_in")
        except LamellaError as error:
            raise Unavailable(f"{error.reason[:200]}", code="token-server", subject=origin(realm)[1]) from None
        if not text or not text.isascii() or not text.isprintable():
            raise Unavailable(f"{what} has no token", code="token-server", subject=origin(realm)[1])
        seconds = float(lifetime) if isinstance(lifetime, (int, float)) and lifetime > 0 else _LIFETIME
        return _Token(text, self._clock() + seconds * (1 - _MARGIN))


def _query(realm: str, service: str, scopes: Scopes, credentials: Credentials | None) -> Request:
    fields = [("service", service)] if service else []
    fields += [("scope", scope) for scope in sorted(scopes)]
    if credentials is not None:
        fields.append(("account", credentials.username))
    query = urlencode(fields)
    url = f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
    return Request("GET", url, authorization=None if credentials is None else credentials.basic)


def _refresh(realm: str, service: str, scopes: Scopes, token: str) -> Request:
    fields = {"grant_type": "refresh_token", "service": service, "client_id": _CLIENT, "refresh_token": token}
    if scopes:
        fields["scope"] = " ".join(sorted(scopes))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("POST", realm, headers, urlencode(fields).encode(), secret=True)


def repository_scope(path: str, *actions: str) -> str:
    """The scope of a repository, as the token specification writes it."""
    return f"repository:{path}:{','.join(actions)}"
