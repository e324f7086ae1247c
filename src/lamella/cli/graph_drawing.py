"""A graph of 2013 as a tree of lines and for Graphviz, as ``docker images -tree`` and ``-viz`` drew it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamella.cli.output import clean, human_size, write_text
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.formats.docker_graph import Graph, GraphImage

_STYLE = 'shape=box,fillcolor="paleturquoise",style="filled,rounded"'


def draw(graph: Graph, name: str | None, *, full: bool, dot: bool) -> None:
    """Print all images, or the image ``name`` and what stands on it. Raises NotFound."""
    images = graph.map()
    children: dict[str, list[GraphImage]] = {}
    for image in sorted(images.values(), key=lambda image: (image.record.created.epoch_ns, image.id)):
        children.setdefault(image.parent if image.parent in images else "", []).append(image)
    roots = [graph.tags.lookup(name)] if name is not None else children.get("", [])
    names = graph.tags.by_id()
    for line in (_dot if dot else _tree)(roots, children, names, full=full):
        write_text(line)


def sizes(image: GraphImage) -> tuple[int | None, int | None]:
    """The bytes of an image's layer, and those of all below it too; None where damage keeps one from knowing."""
    try:
        own = image.size
    except LamellaError:
        return None, None
    try:
        return own, image.virtual_size
    except LamellaError:
        return own, None


def show_size(size: int | None) -> str:
    """Bytes for people."""
    return "N/A" if size is None else human_size(size)


def _id(image: GraphImage, *, full: bool) -> str:
    return image.id if full else image.short_id


def _tree(
    roots: list[GraphImage], children: dict[str, list[GraphImage]], names: dict[str, list[str]], *, full: bool
) -> Iterator[str]:
    stack = [("", image, number == 0) for number, image in enumerate(reversed(roots))]
    while stack:
        indent, image, last = stack.pop()
        text = f"{indent}{'└─' if last else '├─'}{_id(image, full=full)} Virtual Size: {show_size(sizes(image)[1])}"
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
