"""A graph of 2013 as a tree of lines and for Graphviz, as ``docker images -tree`` and ``-viz`` drew it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamella.cli import graph_words
from lamella.cli.output import clean, write_text
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.formats.docker_graph import Graph, GraphImage
    from lamella.spec.progress import Progress

_STYLE = 'shape=box,fillcolor="paleturquoise",style="filled,rounded"'


def draw(graph: Graph, name: str | None, *, full: bool, dot: bool) -> None:
    """Print all images, or the image ``name`` and what stands on it. Raises NotFound.

    An image whose parent is missing stands at the bottom, as does one of each circle of ancestors; that is noted.
    """
    images = graph.map()
    first = [] if name is None else [graph.tags.lookup(name)]
    ordered = sorted(images.values(), key=lambda image: (image.record.created.epoch_ns, image.id))
    parents = _parents(images, [*first, *ordered], graph.progress)
    children: dict[str, list[GraphImage]] = {}
    for image in ordered:
        children.setdefault(parents.get(image.id, ""), []).append(image)
    names = graph.tags.by_id()
    for line in (_dot if dot else _tree)(first or children.get("", []), children, names, full=full):
        write_text(line)


def _parents(images: dict[str, GraphImage], ordered: list[GraphImage], progress: Progress) -> dict[str, str]:
    """The parent of each image that has one here, a circle being cut below the one of it that comes first."""
    parents = {image.id: image.parent for image in images.values() if image.parent}
    settled: set[str] = set()
    for image in ordered:
        way: dict[str, None] = {}
        at = image.id
        while at in parents and at not in settled and at not in way:
            way[at] = None
            at = parents[at]
        settled.update(way)
        if at in way or at not in images:
            cut = at if at in way else next(reversed(way))
            del parents[cut]
            try:
                images[cut].history()
            except LamellaError as error:
                progress.note(str(error))
    return parents


class Sizes:
    """The bytes of layers, looked for once each; None where damage keeps one from knowing."""

    def __init__(self) -> None:
        self._own: dict[str, int | None] = {}
        self._whole: dict[str, int | None] = {}

    def own(self, image: GraphImage) -> int | None:
        """Of an image's own layer."""
        if image.id not in self._own:
            try:
                self._own[image.id] = image.size
            except LamellaError:
                self._own[image.id] = None
        return self._own[image.id]

    def whole(self, image: GraphImage) -> int | None:
        """Of its layer and of all below."""
        way: list[GraphImage] = []
        total: int | None = 0
        try:
            for at in image.walk_history():
                if at.id in self._whole:
                    total = self._whole[at.id]
                    break
                way.append(at)
        except LamellaError:
            total = None
        for at in reversed(way):
            own = self.own(at)
            total = None if total is None or own is None else total + own
            self._whole[at.id] = total
        return self._whole[image.id]


def _id(image: GraphImage, *, full: bool) -> str:
    return image.id if full else image.short_id


def _tree(
    roots: list[GraphImage], children: dict[str, list[GraphImage]], names: dict[str, list[str]], *, full: bool
) -> Iterator[str]:
    sizes = Sizes()
    stack = [("", image, number == 0) for number, image in enumerate(reversed(roots))]
    while stack:
        indent, image, last = stack.pop()
        size = graph_words.size(sizes.whole(image))
        text = f"{indent}{'└─' if last else '├─'}{_id(image, full=full)} Virtual Size: {size}"
        tags = names.get(image.id)
        yield clean(f"{text} Tags: {', '.join(tags)}" if tags else text)
        deeper = indent + ("  " if last else "│ ")
        below = reversed(children.get(image.id, []))
        stack.extend((deeper, child, number == 0) for number, child in enumerate(below))


def _dot(
    roots: list[GraphImage], children: dict[str, list[GraphImage]], names: dict[str, list[str]], *, full: bool
) -> Iterator[str]:
    yield "digraph docker {"
    reached: list[GraphImage] = []
    stack = list(reversed(roots))
    tops = {image.id for image in roots}
    while stack:
        image = stack.pop()
        reached.append(image)
        own = _id(image, full=full)
        if image.id in tops:
            yield f' base -> "{own}" [style=invis]'
        else:
            yield f' "{image.parent if full else image.parent[:12]}" -> "{own}"'
        stack.extend(reversed(children.get(image.id, [])))
    for image in reached:
        if image.id in names:
            label = "\\n".join([_id(image, full=full), *(clean(name).replace('"', "") for name in names[image.id])])
            yield f' "{_id(image, full=full)}" [label="{label}",{_STYLE}];'
    yield " base [style=invisible]"
    yield "}"
