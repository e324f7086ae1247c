"""Removing images of a graph by name or id: what ``docker rmi`` did from 0.9 to 1.0."""

from __future__ import annotations

from dataclasses import dataclass

from lamella.errors import Conflict, FailedPrecondition, LamellaError, NotFound
from lamella.formats.docker_graph import Graph, parse_repository_tag
from lamella.formats.docker_graph.ids import short_id
from lamella.formats.docker_graph.tags import DEFAULT_TAG

_KEPT = frozenset({"graph-image-has-children", "graph-image-tagged", "graph-image-used"})


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that was done: a name was taken away (``Untagged``), an image removed (``Deleted``)."""

    action: str
    what: str

    def __str__(self) -> str:
        return f"{self.action}: {self.what}"


def remove_image(graph: Graph, name: str, *, force: bool = False, prune: bool = True) -> list[Removed]:
    """Take a name away, or by id every name of an image; then remove the image if nothing needs it any more.

    With ``prune`` its ancestors go with it, up to the first that has names, other children or containers. ``force``
    removes by id what has names in several repositories or containers. Nothing that is tagged or has children is ever
    removed. An image that is damaged can be: what stands below it stays then.

    Raises NotFound for what is not there, Conflict (``graph-tagged-widely``, ``graph-image-used``,
    ``graph-not-removed``) in docker's words.
    """
    id, named = _find(graph, name)
    if named is None and not force:
        _check_unused(graph, id)
    tags = _untag_all(graph, id, force=force) if named is None else graph.tags.delete(*named)
    done = [Removed("Untagged", tag) for tag in tags]
    if id in graph.ids():  # a name may outlive its image
        done += _remove_upwards(graph, id, prune=prune, force=force and named is None)
    if not done:
        raise Conflict(f"Conflict, {name} wasn't deleted", code="graph-not-removed", hint="images stand on it")
    return done


def _find(graph: Graph, name: str) -> tuple[str, tuple[str, str] | None]:
    """The id that ``name`` means, and repository and tag if it means those. Raises NotFound."""
    repository, tag = parse_repository_tag(name)
    tag = tag or DEFAULT_TAG
    tags = graph.tags.repositories.get(repository, {})
    if tag in tags and name not in graph.ids():
        return tags[tag], (repository, tag)
    try:
        return graph.tags.find(name), None
    except NotFound as error:
        if error.code != "graph-no-such-image":
            raise
        text = f"No such image: {f'{repository}:{tag}' if tags else name}"
        raise NotFound(text[:400], code="graph-no-such-image") from None


def _untag_all(graph: Graph, id: str, *, force: bool) -> list[str]:
    tags = graph.tags.names(id)
    if len({parse_repository_tag(tag)[0] for tag in tags}) > 1 and not force:
        raise Conflict(
            f"Conflict, cannot delete image {short_id(id)} because it is tagged in multiple repositories, use -f to "
            "force",
            code="graph-tagged-widely",
        )
    return graph.tags.delete_all(id)


def _check_unused(graph: Graph, id: str) -> None:
    """Raise Conflict, before any name is taken away, for an image that a container was made of."""
    for container in graph.containers(id)[:1]:
        text = f"Conflict, cannot delete {short_id(id)} because the container {short_id(container)} is using it"
        raise Conflict(f"{text}, use -f to force", code="graph-image-used")


def _remove_upwards(graph: Graph, id: str, *, prune: bool, force: bool) -> list[Removed]:
    done: list[Removed] = []
    at = id
    while at:
        parent = _parent(graph, at) if prune else ""
        try:
            graph.delete(at, containers=force and at == id)
        except FailedPrecondition as error:
            if error.code in _KEPT:
                break
            raise
        except NotFound:
            if at == id:
                raise
            break  # somebody else removed its last child too, and was faster
        done.append(Removed("Deleted", at))
        at = parent
    return done


def _parent(graph: Graph, id: str) -> str:
    """The id of the parent; empty where there is none that can be read."""
    try:
        parent = graph.get(id).get_parent()
    except LamellaError:
        return ""
    return parent.id if parent is not None else ""
