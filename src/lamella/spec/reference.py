"""References: names of images in the grammar of distribution-spec 1.1, as docker normalises them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from lamella.errors import InvalidInput
from lamella.spec.digest import Digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_LEGACY_DOMAIN = "index.docker.io"

_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_NAME = 255
_MAX_TEXT = 1024


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A repository, and in it a tag, a digest, or both (which then verify each other)."""

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name as users write it: ``alpine`` is ``docker.io/library/alpine:latest``.

        Raises InvalidInput for anything that the grammar does not have: upper case in a path, empty components,
        ``..``, over 255 characters, 64 hexadecimal digits alone (they could be taken for an id).
        """
        if len(text) > _MAX_TEXT:
            raise _syntax(text[:60] + "...", f"it has {len(text)} characters")
        if re.fullmatch(r"[a-f0-9]{64}", text):
            raise _syntax(text, "64 hexadecimal digits are an id, not a name")
        rest, _, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if "@" in text else None
        name, tag = _split_tag(rest)
        domain, path = _split_domain(name)
        if not _DOMAIN.fullmatch(domain):
            raise _syntax(text, f"'{domain}' is not a host")
        if not _PATH.fullmatch(path):
            raise _syntax(text, "the repository may have lower-case letters, digits and single . _ - / between them")
        if len(domain) + 1 + len(path) > _MAX_NAME:
            raise _syntax(text[:60], f"the repository has more than {_MAX_NAME} characters")
        if tag is not None and not _TAG.fullmatch(tag):
            raise _syntax(text, "a tag has up to 128 letters, digits, _ . - and does not start with . or -")
        return cls(domain, path, tag or ("" if digest else DEFAULT_TAG), digest)

    @property
    def repository(self) -> str:
        """The canonical name of the repository, host included."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The repository as docker shows it: without ``docker.io/`` and ``library/``, where that is not ambiguous."""
        if self.domain != DEFAULT_DOMAIN or _split_domain(self.path)[0] != DEFAULT_DOMAIN:
            return self.repository
        return self.path.removeprefix(_OFFICIAL) if self.path.count("/") == 1 else self.path

    @property
    def familiar(self) -> str:
        """The shortest text that parses to this reference again, its tag included."""
        return self.familiar_repository + self._suffix()

    def without_digest(self) -> Self:
        """The same name without the digest; the tag defaults to ``latest``."""
        return replace(self, tag=self.tag or DEFAULT_TAG, digest=None)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.repository + self._suffix()


def _split_domain(name: str) -> tuple[str, str]:
    """The host and the path; what could be no user's name (``.``, ``:``, upper case, ``localhost``) is a host."""
    first, slash, rest = name.partition("/")
    domain, path = DEFAULT_DOMAIN, name
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, path = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first, rest
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _split_tag(text: str) -> tuple[str, str | None]:
    """Cut at the last colon, unless a slash follows it: then the colon belongs to a host's port."""
    name, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        return text, None
    return name, tag


def _syntax(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"'{text[:300]}' is not an image name: {why}", code="reference-syntax")
