"""Which names of the store a repository of the registry stands for.

A repository is what it would be if it were typed: ``app`` is ``docker.io/library/app``, ``quay.io/org/app`` is that. A
name that was given to an image for being pushed to this very server (``localhost:5000/app``) shows as ``app`` too.
Names on other hosts with a port cannot be asked for, as no repository has a colon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lamella.catalog.protocol import Catalog
from lamella.errors import InvalidInput
from lamella.server.failures import Refusal
from lamella.spec.digest import Digest
from lamella.spec.reference import Reference

_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)  # distribution-spec 1.1, "Pulling manifests"
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository: ``text`` as it was asked for, ``own`` the repository of the store that it is written to.

    ``prefixes`` are the canonical names (without tag) that are read as this one, ``own`` first.
    """

    text: str
    own: Reference
    prefixes: tuple[str, ...]

    def tagged(self, tag: str) -> Reference:
        """The name in the store of a tag. Raises Refusal."""
        return _tagged(self.text, tag)

    def pinned(self, digest: Digest) -> Reference:
        """The name in the store of what was pushed by its digest alone."""
        return Reference(self.own.domain, self.own.path, "", digest)


class Repositories:
    """The repositories that a catalog comes to. ``hosts`` are the addresses (with port) that lead to this server."""

    def __init__(self, catalog: Catalog, hosts: Sequence[str] = ()) -> None:
        self._catalog = catalog
        self._hosts = tuple(hosts)

    def parse(self, text: str) -> Repository:
        """The repository of this name, there or not. Raises Refusal (``NAME_INVALID``)."""
        if len(text) > _MAX_NAME or not _REPOSITORY.fullmatch(text):
            raise Refusal(400, "NAME_INVALID", "a repository has lower-case letters, digits and single . _ - / in it")
        own = _tagged(text, "latest")
        return Repository(text, own, (own.repository, *(f"{host}/{text}" for host in self._hosts)))

    def find(self, repository: Repository, tag: str) -> Digest | None:
        """The document that a tag points at."""
        for prefix in repository.prefixes:
            record = self._catalog.name(f"{prefix}:{tag}")
            if record is not None:
                return record.target
        return None

    def names(self, repository: Repository) -> Iterator[tuple[str, str, Digest]]:
        """Everything in a repository: the canonical name, the tag ("" where there is a digest), what it points at."""
        for record in self._catalog.names():
            for prefix in repository.prefixes:
                if record.name.startswith(prefix) and record.name[len(prefix) : len(prefix) + 1] in (":", "@"):
                    rest = record.name[len(prefix) :]
                    yield record.name, rest[1:] if rest[0] == ":" else "", record.target

    def tags(self, repository: Repository) -> list[str] | None:
        """The tags of a repository, sorted; None if there is no such repository."""
        found = [tag for _, tag, _ in self.names(repository)]
        return sorted({tag for tag in found if tag}) if found else None

    def all(self) -> list[str]:
        """Every repository that can be asked for, sorted."""
        found: set[str] = set()
        for record in self._catalog.names():
            reference = Reference.parse(record.name)
            own = reference.domain in self._hosts
            text = reference.path if own else reference.familiar_repository
            if _REPOSITORY.fullmatch(text):
                found.add(text)
        return sorted(found)


def _tagged(text: str, tag: str) -> Reference:
    try:
        reference = Reference.parse(f"{text}:{tag}")
    except InvalidInput as error:
        raise Refusal(400, "NAME_INVALID", error.reason) from None
    if reference.tag != tag or reference.digest is not None:
        raise Refusal(400, "TAG_INVALID", "a tag has up to 128 letters, digits, _ . -")
    return reference
