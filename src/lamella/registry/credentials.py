"""Credentials where docker and podman keep them: ``auth.json``, ``config.json``, ``.dockercfg``, credential helpers.

Format: containers-auth.json(5) and docker's ``config.json``. Secrets show in no representation of a value and in no
error.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamella._sys.files import os_errors
from lamella.errors import Authentication, InvalidInput, LamellaError, NotFound
from lamella.registry import helpers
from lamella.registry.hosts import DOCKER_HUB
from lamella.spec import jsondoc

_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.docker.io"})
HUB_KEY = "https://index.docker.io/v1/"
"""What docker and its helpers call Docker Hub."""

_SYSTEM = Path("/run/containers")
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_TWO_LINES = re.compile(rb"auth = ([A-Za-z0-9+/=]*)\s*\n(?:email = .*)?\s*")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password, or an identity token (OAuth2: a refresh token)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Read ``user:password``; the password may have colons. Raises InvalidInput, which does not show it."""
        name, colon, password = text.partition(":")
        if not colon or not name:
            raise InvalidInput("credentials are written USER:PASSWORD", code="credentials-syntax")
        return cls(name, password)

    @property
    def basic(self) -> str:
        """The value of ``Authorization`` by RFC 7617."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode("utf-8", "replace")).decode()


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Files to look through for credentials, the first that has some counts; ``written`` is the one for ``login``.

    ``legacy`` are files in the form of ``~/.dockercfg``, without a level ``auths``, or of the one of docker 0.4. A file
    that is not there is nothing; one that is malformed is an error.
    """

    paths: tuple[Path, ...]
    legacy: tuple[Path, ...] = ()

    @classmethod
    def of_user(
        cls, home: Path, runtime: Path | None = None, *, config: Path | None = None, system: Path = _SYSTEM
    ) -> CredentialFiles:
        """The files of containers/image, in its order. ``config`` is docker's directory, ``~/.docker`` if None.

        Who has no ``runtime`` directory, as root often has none, may have a file below ``system``.
        """
        per_user = system / str(os.getuid()) / "auth.json"
        first: tuple[Path, ...] = (per_user,) if per_user.is_file() else ()
        if runtime is not None and runtime.is_dir():
            first = (runtime / "containers/auth.json",)
        own = home / ".config/containers/auth.json"
        return cls((*first, own, (config or home / ".docker") / "config.json"), (home / ".dockercfg",))

    @property
    def written(self) -> Path:
        """Where ``login`` writes."""
        return self.paths[0]

    def find(self, domain: str, path: str = "") -> Credentials | None:
        """The credentials for a repository, or for a whole registry; the most specific key of the first file that has
        any. Raises InvalidInput for a malformed file, Authentication for a helper that fails.
        """
        for file in self.paths:
            found = _of_file(read_file(file), domain, path, file)
            if found is not None:
                return found
        for file in self.legacy:
            found = _of_auths(_read_legacy(file), domain, "", file)
            if found is not None:
                return found
        return None


def read_file(path: Path) -> jsondoc.Object:
    """The document in a file; an absent or empty one is an empty document."""
    return _document(_bytes(path), path)


def _read_legacy(path: Path) -> jsondoc.Object:
    """The document in a ``.dockercfg``. Before docker 0.5.1 it was two lines, and for docker's own index."""
    raw = _bytes(path)
    lines = _TWO_LINES.fullmatch(raw)
    return _document(raw, path) if lines is None else {HUB_KEY: {"auth": lines[1].decode()}}


def _bytes(path: Path) -> bytes:
    try:
        with os_errors(str(path)):
            return path.read_bytes()
    except NotFound:
        return b""
    except LamellaError as error:
        if error.code == "path-invalid":  # a component that is no directory
            return b""
        raise


def _document(raw: bytes, path: Path) -> jsondoc.Object:
    if not raw.strip():
        return {}
    try:
        return jsondoc.parse_object(raw, "the file of credentials")
    except LamellaError as error:
        raise error.about(subject=str(path)) from None


def _of_file(document: jsondoc.Object, domain: str, path: str, file: Path) -> Credentials | None:
    helper = _own_helper(document, domain)
    if helper is not None:
        return _from_helper(helper, domain)
    found = _of_auths(jsondoc.field(document, "auths", dict, str(file), {}), domain, path, file)
    if found is None and document.get("credsStore"):
        return _from_helper(jsondoc.field(document, "credsStore", str, str(file)), domain)
    return found


def _own_helper(document: jsondoc.Object, domain: str) -> str | None:
    configured = document.get("credHelpers")
    if not isinstance(configured, dict):
        return None
    for key, name in configured.items():
        if isinstance(name, str) and (key == domain or {normal_key(key), domain} <= _HUB_NAMES):
            return name
    return None


def _from_helper(name: str, domain: str) -> Credentials | None:
    if not _HELPER.fullmatch(name):
        raise InvalidInput(f"'{name[:60]}' is no credential helper", code="credential-helper")
    answer = helpers.call(name, "get", helper_key(domain).encode())
    if answer is None:
        return None
    try:
        document = jsondoc.parse_object(answer, "answer")
        user, secret = (jsondoc.optional(document, key, str, "answer") or "" for key in ("Username", "Secret"))
    except LamellaError:
        raise Authentication(
            "it answers with no JSON", code="credential-helper", subject=helpers.PREFIX + name
        ) from None
    if user == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(user, secret) if user or secret else None


def helper_key(domain: str) -> str:
    """What a helper knows a registry by."""
    return HUB_KEY if domain == DOCKER_HUB else domain


def normal_key(key: str) -> str:
    """The host that a key which docker wrote means: without a scheme and a path such as ``/v1/``."""
    bare = key.partition("://")[2] if "://" in key else key
    return bare.partition("/")[0]


def keys_for(domain: str, path: str) -> Iterator[str]:
    """The keys of a repository, the most specific first: ``host/a/b``, ``host/a``, ``host``."""
    name = f"{domain}/{path}" if path else domain
    while name != domain:
        yield name
        name = name.rpartition("/")[0]
    yield domain


def _of_auths(auths: jsondoc.Object, domain: str, path: str, file: Path) -> Credentials | None:
    for key in keys_for(domain, path):
        if isinstance(auths.get(key), dict):
            return _entry(auths[key], key, file)
    for key, value in auths.items():
        if isinstance(value, dict) and names_host(key, domain):
            return _entry(value, key, file)
    return None


def names_host(key: str, domain: str) -> bool:
    """Whether a key means this whole registry: its host, or a URL of it as docker writes it, and no repository."""
    host = normal_key(key)
    whole = "/" not in key or "://" in key or key.rstrip("/").endswith(("/v1", "/v2"))
    return whole and (host == domain or {host, domain} <= _HUB_NAMES)


def helper_for(document: jsondoc.Object, domain: str) -> str | None:
    """The helper that a file sets up for a registry: its own, or the one for all; None if there is none."""
    return _own_helper(document, domain) or jsondoc.optional(document, "credsStore", str, "the file of credentials")


def _entry(value: dict[str, Any], key: str, file: Path) -> Credentials | None:
    what = f"'{key}' of {file}"
    token = jsondoc.optional(value, "identitytoken", str, what) or ""
    user = jsondoc.optional(value, "username", str, what) or ""
    password = jsondoc.optional(value, "password", str, what) or ""
    packed = jsondoc.optional(value, "auth", str, what) or ""
    if packed:
        try:
            user, colon, password = base64.b64decode(packed, validate=True).decode().partition(":")
            password = password.rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            raise InvalidInput(f"'auth' of {what} is no base64 of user:password", code="credentials-syntax") from None
    if not (token or user or password):
        return None
    return Credentials(user, password, token)
