"""The graph of images as a tree of lines and as Graphviz, in the forms that docker had in 2013 and 2014."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lamella.cli.output import human_size, show_id

if TYPE_CHECKING:
    from lamella.images.image import Image
    from lamella.spec.digest import Digest
    from lamella.store.store import Store

_LINE = "\\n"
"""How Graphviz is told to begin a new line of a label."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def dot(store: Store, *, full: bool) -> str:
    """A ``digraph`` with an edge from each parent to its child, and the names of images in boxes.

    Images without a parent hang on the invisible node ``base``.
    """
    known = {image.digest: image for image in store.images()}
    names = store.graph.names_by_target()
    edges: list[str] = []
    labels: dict[str, list[str]] = {}
    for image in known.values():
        id = _text(image, full=full)
        parent = known.get(image.record.parent) if image.record.parent is not None else None
        if parent is None:
            edges.append(f' base -> "{id}" [style=invis]')
        else:
            edges.append(f' "{_text(parent, full=full)}" -> "{id}"')
        # One image may be here in several compressions: one node, the names of all.
        if image.digest in names:
            labels.setdefault(id, [id]).extend(names[image.digest])
    style = 'shape=box,fillcolor="paleturquoise",style="filled,rounded"'
    boxes = [f' "{id}" [label="{_LINE.join(label)}",{style}];' for id, label in labels.items()]
    return "\n".join(["digraph docker {", *dict.fromkeys(edges), *boxes, " base [style=invisible]", "}"])


def tree(store: Store, *, full: bool) -> Iterator[str]:
    """A line an image, below its parent; the images of a multi-platform image are below that."""
    return _Drawing(store, full=full).lines()


class _Drawing:
    def __init__(self, store: Store, *, full: bool) -> None:
        self._full = full
        self._names = store.graph.names_by_target()
        self._images = {image.digest: image for image in store.images()}
        self._below: dict[Digest, list[Digest]] = {}
        held: set[Digest] = set()
        self._platforms: dict[Digest, str] = {}
        for document in store.catalog.documents():
            if document.kind == "index":
                members = {
                    child.digest: child.platform or self._images[child.digest].platform
                    for child in document.children
                    if child.digest in self._images
                }
                self._below[document.digest] = list(members)
                self._platforms.update({digest: str(platform) for digest, platform in members.items()})
                held.update(members)
        self._indexes = list(self._below)
        for image in self._images.values():
            parent = image.record.parent
            if parent in self._images and parent is not None:
                self._below.setdefault(parent, []).append(image.digest)
                held.add(image.digest)
        roots = [digest for digest in self._images if digest not in held]
        self._roots = [*sorted(roots, key=self._age), *sorted(self._indexes, key=str)]

    def _age(self, digest: Digest) -> tuple[datetime, str]:
        return (self._images[digest].created or _LONG_AGO, str(digest))

    def lines(self) -> Iterator[str]:
        stack = [("", digest, last) for digest, last in self._marked(self._roots)]
        while stack:
            indent, digest, last = stack.pop()
            yield f"{indent}{'└─' if last else '├─'}{self._line(digest)}"
            deeper = indent + ("  " if last else "│ ")
            stack.extend((deeper, below, is_last) for below, is_last in self._marked(self._below.get(digest, [])))

    @staticmethod
    def _marked(digests: list[Digest]) -> list[tuple[Digest, bool]]:
        """In the order of a stack: the last first, and marked as such."""
        return [(digest, number == 0) for number, digest in enumerate(reversed(digests))]

    def _line(self, digest: Digest) -> str:
        image = self._images.get(digest)
        if image is None:
            text = f"{show_id(digest, full=self._full)} {len(self._below[digest])} platforms"
        else:
            text = f"{_text(image, full=self._full)} Virtual Size: {human_size(image.size)}"
            if digest in self._platforms:
                text += f" Platform: {self._platforms[digest]}"
        names = self._names.get(digest)
        return f"{text} Tags: {', '.join(names)}" if names else text


def _text(image: Image, *, full: bool) -> str:
    return image.id.hex if full else image.short_id
