"""Removing images of a graph by name or id: what ``docker rmi`` did from 0.9 to 1.0."""

from __future__ import annotations

from dataclasses import dataclass

from lamella.errors import Conflict, FailedPrecondition, LamellaError, NotFound
from lamella.formats.docker_graph import Graph, GraphImage, parse_repository_tag
from lamella.formats.docker_graph.tags import DEFAULT_TAG

_KEPT = frozenset({"graph-image-has-children", "graph-image-tagged"})


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that was done: a name was taken away (``Untagged``), an image removed (``Deleted``)."""

    action: str
    what: str

    def __str__(self) -> str:
        return f"{self.action}: {self.what}"


def remove_image(graph: Graph, name: str, *, force: bool = False, prune: bool = True) -> list[Removed]:
    """Take a name away, or by id every name of an image; then remove the image if nothing needs it any more.

    With ``prune`` its ancestors go with it, up to the first that has names or other children. ``force`` removes by id
    what has names in several repositories. Nothing that is tagged or has children is ever removed.

    Raises NotFound for what is not there, Conflict (``graph-tagged-widely``, ``graph-not-removed``) in docker's words.
    """
    image, named = _find(graph, name)
    if named is not None:
        tags = graph.tags.delete(*named)
    else:
        assert image is not None
        tags = _untag_all(graph, image, force=force)
    done = [Removed("Untagged", tag) for tag in tags]
    if image is not None:
        done += _remove_upwards(graph, image, prune=prune)
    if not done:
        raise Conflict(f"Conflict, {name} wasn't deleted", code="graph-not-removed", hint="images stand on it")
    return done


def _find(graph: Graph, name: str) -> tuple[GraphImage | None, tuple[str, str] | None]:
    """The image that ``name`` means (None if it is gone), and repository and tag if it means those. Raises NotFound."""
    if name not in graph.ids():
        repository, tag = parse_repository_tag(name)
        tag = tag or DEFAULT_TAG
        identity = graph.tags.repositories.get(repository, {}).get(tag)
        if identity is not None:
            return (graph.get(identity) if identity in graph.ids() else None), (repository, tag)
    try:
        return graph.tags.lookup(name), None
    except NotFound as error:
        if error.code != "graph-no-such-image":
            raise
        raise NotFound(f"No such image: {name[:255]}", code="graph-no-such-image") from None


def _untag_all(graph: Graph, image: GraphImage, *, force: bool) -> list[str]:
    tags = graph.tags.names(image.id)
    if len({parse_repository_tag(tag)[0] for tag in tags}) > 1 and not force:
        raise Conflict(
            f"Conflict, cannot delete image {image.short_id} because it is tagged in multiple repositories, use -f to "
            "force",
            code="graph-tagged-widely",
        )
    return graph.tags.delete_all(image.id)


def _remove_upwards(graph: Graph, image: GraphImage, *, prune: bool) -> list[Removed]:
    done: list[Removed] = []
    at: GraphImage | None = image
    while at is not None:
        parent = _parent(at) if prune else None
        try:
            graph.delete(at.id)
        except FailedPrecondition as error:
            if error.code in _KEPT:
                break
            raise
        except NotFound:
            if at is image:
                raise
            break  # somebody else removed its last child too, and was faster
        done.append(Removed("Deleted", at.id))
        at = parent
    return done


def _parent(image: GraphImage) -> GraphImage | None:
    """The parent, if there is one that can be read."""
    try:
        return image.get_parent()
    except LamellaError:
        return None
