"""Hosts: what of an address decides where credentials may go."""

from __future__ import annotations

import ipaddress
from urllib.parse import urljoin, urlsplit

from lamella.errors import Unavailable

DOCKER_HUB = "docker.io"
_HUB_SERVER = "registry-1.docker.io"
_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host, port."""


def server_of(domain: str) -> str:
    """The host that serves the images of ``domain``: the same one, but for Docker's own."""
    return _HUB_SERVER if domain == DOCKER_HUB else domain


def host_name(host: str) -> str:
    """A host without its port, in lower case and without the brackets of an IPv6 address."""
    return (urlsplit(f"//{host}").hostname or "").lower()


def is_loopback(host: str) -> bool:
    """Whether a host (with or without a port) is this machine itself, by its name alone: nothing is looked up."""
    try:
        name = host_name(host)
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:  # a name, or brackets around what is no address
        return False


def origin(url: str) -> Origin:
    """Where a URL leads. Raises Unavailable (``registry-protocol``) for what is no HTTP URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise Unavailable(f"the server names the address '{url[:200]}'", code="registry-protocol") from None
    if not parts.hostname or parts.username is not None or not url.isprintable():
        raise Unavailable(f"the server names the address '{url[:200]}'", code="registry-protocol")
    return parts.scheme, parts.hostname.lower(), port


def resolve(base: str, location: str) -> str:
    """The URL that ``location`` means in an answer of ``base``. Raises Unavailable for what is no HTTP URL."""
    try:
        url = urljoin(base, location.strip())
    except ValueError:
        url = location
    origin(url)
    return url


def may_get_credentials(registry: str, realm: str, *, named: frozenset[str], insecure: bool) -> bool:
    """Whether the token server ``realm`` (a URL) may be given the credentials for ``registry`` (a host).

    It may if it is the registry's own host, on any port; if it lies in the domain that the registry is in
    (``auth.docker.io`` for ``registry-1.docker.io``); or if the caller named it. Over plain HTTP only if it is this
    machine, or the registry's own host and the caller accepts that the registry is insecure.
    """
    scheme, name, _ = origin(realm)
    own = host_name(registry)
    if scheme == "http" and not (is_loopback(name) or (insecure and name == own)):
        return False
    return name == own or name in named or _same_domain(own, name)


def _same_domain(registry: str, realm: str) -> bool:
    """Whether ``realm`` is in the domain above the registry's first label, if that is one that people register."""
    _, _, domain = registry.partition(".")
    labels = domain.split(".")
    if len(labels) < 2 or _is_public(labels) or labels[-1].isdigit():
        return False
    return realm == domain or realm.endswith(f".{domain}")


def _is_public(labels: list[str]) -> bool:
    """Whether everybody can have a name below this domain: ``co.uk`` and its like, and hosts of many customers."""
    short = len(labels) == 2 and len(labels[1]) == 2 and (len(labels[0]) <= 3 or labels[0] == "nom")
    return short or ".".join(labels) in _SHARED or ".".join(labels[-2:]) in _SHARED


_SHARED = frozenset(
    """
    amazonaws.com azurecr.io azurewebsites.net cloudapp.net cloudfront.net duckdns.org fly.dev github.io gitlab.io
    herokuapp.com jfrog.io netlify.app ngrok-free.app ngrok.io nip.io on.aws pages.dev pkg.dev run.app sslip.io
    vercel.app web.app windows.net workers.dev
    """.split()  # noqa: SIM905 - a list would be one line each
)
"""Domains of providers, who give names in them to all who come."""
