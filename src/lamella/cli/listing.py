"""What ``lamella images`` lists, and which of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from lamella.spec.reference import Reference

if TYPE_CHECKING:
    from lamella.catalog.records import DocumentRecord
    from lamella.images.image import Image
    from lamella.spec.digest import Digest
    from lamella.store.store import Store

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_FILTERS = ("dangling", "label", "reference")


@dataclass(frozen=True, slots=True)
class Listed:
    """A document of the store: an image, a multi-platform image, an artifact.

    ``names`` are (repository, tag) as users write them, with ``@DIGEST`` for the tag of what was pulled by digest;
    ``part`` says that it belongs to another one: to an index, or as the parent of an image.
    """

    kind: str
    id: Digest
    digest: Digest
    names: tuple[tuple[str, str], ...]
    created: datetime | None
    size: int
    platforms: tuple[str, ...]
    labels: dict[str, str]
    parent: Digest | None
    part: bool

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        from lamella.cli.describe import moment

        return {
            "kind": self.kind,
            "id": str(self.id),
            "digest": str(self.digest),
            "names": [joined(repository, tag) for repository, tag in self.names],
            "parent": None if self.parent is None else str(self.parent),
            "created": moment(self.created),
            "size": self.size,
            "platforms": list(self.platforms),
        }


def parse_filters(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """``--filter`` as (key, value) pairs. Raises UsageError."""
    pairs = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in _FILTERS or (key == "dangling" and value not in ("true", "false")):
            known = "dangling=true, dangling=false, label=KEY, label=KEY=VALUE or reference=NAME"
            raise click.UsageError(f"'{text}' is no filter: write {known}")
        pairs.append((key, value))
    return pairs


def select(store: Store, pattern: str | None, conditions: list[tuple[str, str]], *, everything: bool) -> list[Listed]:
    """What is to be shown, the newest first."""
    found = []
    for item in _all(store):
        if not (item.names or everything or (not item.part and item.kind != "artifact")):
            continue
        if pattern is not None:
            item = _narrowed(item, pattern)
        if (pattern is None or item.names) and all(_meets(item, key, value) for key, value in conditions):
            found.append(item)
    return sorted(found, key=lambda item: (-(item.created or _LONG_AGO).timestamp(), item.names, str(item.digest)))


def _narrowed(item: Listed, pattern: str) -> Listed:
    from dataclasses import replace

    return replace(item, names=tuple(name for name in item.names if _fits(name, pattern)))


def _fits(name: tuple[str, str], pattern: str) -> bool:
    repository, tag = name
    if any(fnmatchcase(text, pattern) for text in (repository, joined(repository, tag))):
        return True
    full = Reference.parse(joined(repository, tag))
    return any(fnmatchcase(text, pattern) for text in (full.repository, str(full)))


def _meets(item: Listed, key: str, value: str) -> bool:
    if key == "dangling":
        return (not item.names and not item.part) == (value == "true")
    if key == "reference":
        return any(_fits(name, value) for name in item.names)
    wanted, equals, text = value.partition("=")
    return wanted in item.labels and (not equals or item.labels[wanted] == text)


def _all(store: Store) -> list[Listed]:
    images = {image.digest: image for image in store.images()}
    documents = store.catalog.documents()
    names = {digest: tuple(_split(name) for name in texts) for digest, texts in store.graph.names_by_target().items()}
    parts = {child.digest for document in documents for child in document.children}
    parts |= {image.record.parent for image in images.values() if image.record.parent is not None}
    return [_listed(document, images, names.get(document.digest, ()), parts) for document in documents]


def _split(name: str) -> tuple[str, str]:
    reference = Reference.parse(name)
    return reference.familiar_repository, reference.tag or f"@{reference.digest}"


def joined(repository: str, tag: str) -> str:
    """The name that both make."""
    return f"{repository}{tag}" if tag.startswith("@") else f"{repository}:{tag}"


def _listed(
    document: DocumentRecord, images: dict[Digest, Image], names: tuple[tuple[str, str], ...], parts: set[Digest]
) -> Listed:
    image = images.get(document.digest)
    if image is not None:
        parent = image.parent
        return Listed(
            "image", image.id, image.digest, names, image.created, image.size, (str(image.platform),), image.labels,
            None if parent is None else parent.id, image.digest in parts,
        )  # fmt: skip
    children = [child for child in document.children if child.digest in images]
    members = [images[child.digest] for child in children]
    created = max((member.created for member in members if member.created is not None), default=None)
    size = sum(member.size for member in members) if members else sum(child.size for child in document.children)
    platforms = tuple(str(child.platform or images[child.digest].platform) for child in children)
    return Listed(
        document.kind, document.digest, document.digest, names, created, size, platforms, {}, None,
        document.digest in parts,
    )  # fmt: skip
