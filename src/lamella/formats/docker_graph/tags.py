"""The names of a graph's images: docker's TagStore, the file ``repositories``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from lamella.errors import Conflict, InvalidInput, NotFound
from lamella.formats.docker_graph import gojson
from lamella.formats.docker_graph.ids import short_id
from lamella.formats.docker_graph.image import GraphImage
from lamella.formats.docker_graph.sidefile import SideFile, parse_repositories
from lamella.spec.progress import Progress

DEFAULT_TAG = "latest"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}")
_COMPONENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]+")

Repositories = dict[str, dict[str, str]]


class Images(Protocol):
    """What a TagStore asks of its graph."""

    progress: Progress

    def get(self, name: str) -> GraphImage:
        """The image of an id or a prefix."""

    def ids(self) -> list[str]:
        """All ids."""

    def lookup(self, name: str) -> str:
        """The id that a name means."""

    def locked(self) -> AbstractContextManager[None]:
        """The lock of the graph, which is also that of its names."""


def parse_repository_tag(name: str) -> tuple[str, str]:
    """A name as repository and tag; the tag is empty where none is given. A colon before a slash is a port's."""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "")


def validate_repository(name: str) -> str:
    """``name`` if it can name a repository: ``[host:port/]component/...``. Raises InvalidInput."""
    if not name:
        raise InvalidInput("Repository name can't be empty", code="graph-repository-name")
    first, *rest = name.split("/")
    first_fits = _COMPONENT.fullmatch(first) or (rest and _HOST.fullmatch(first))
    if not first_fits or not all(_COMPONENT.fullmatch(part) for part in rest) or len(name) > 255:
        raise InvalidInput(f"Illegal repository name: {name[:80]}", code="graph-repository-name")
    return name


def validate_tag(tag: str) -> str:
    """``tag`` if it can be one. Raises InvalidInput."""
    if not tag:
        raise InvalidInput("Tag name can't be empty", code="graph-tag-name")
    if not _TAG.fullmatch(tag):
        text = f"Illegal tag name ({tag[:80]}): only [A-Za-z0-9_.-] are allowed, 128 of them, the first no '.' or '-'"
        raise InvalidInput(text, code="graph-tag-name")
    return tag


class TagStore:
    """Names of images. Every call reads the file: what another process writes counts at once.

    A damaged file is read as far as it can be, with a note; who writes next keeps the damaged bytes beside it.
    Names that could not be given today are found all the same.
    """

    def __init__(self, path: Path, graph: Images) -> None:
        self.path = path
        self._file = SideFile(path)
        self._graph = graph

    # -- reading

    @property
    def repositories(self) -> Repositories:
        """The id of each tag of each repository."""
        return self._read()[0]

    def reload(self) -> Repositories:
        """What the file says now; what somebody removed from it is gone."""
        return self.repositories

    def get(self, repository: str, tag: str = "") -> GraphImage | None:
        """The image of a tag (``latest`` for none); None when there is no such repository or tag.

        Raises NotFound when the tag names an image that is gone.
        """
        id = self.repositories.get(repository, {}).get(tag or DEFAULT_TAG)
        return None if id is None else self._graph.get(id)

    def lookup(self, name: str) -> GraphImage:
        """The image that ``name`` means: a whole id, a repository with or without its tag, or the prefix of an id.

        In this order; ``repository:id`` finds a whole id that has a tag there, never a part of one. Raises NotFound,
        Ambiguous.
        """
        return self._graph.get(self.find(name))

    def find(self, name: str) -> str:
        """The id that ``name`` means, as for ``lookup``; its image may be damaged, or gone."""
        if name in self._graph.ids():
            return name
        repository, tag = parse_repository_tag(name)
        tags = self.repositories.get(repository, {})
        id = tags.get(tag or DEFAULT_TAG)
        if id is None and tag in tags.values():
            id = tag
        if id is not None:
            return id
        try:
            if name:
                return self._graph.lookup(name)
        except NotFound as error:
            if error.code != "graph-no-such-id":
                raise
        raise NotFound(f"Image does not exist: {name[:255]}", code="graph-no-such-image")

    def by_id(self) -> dict[str, list[str]]:
        """The names of each id that has some, sorted."""
        result: dict[str, list[str]] = {}
        for repository, tags in self.repositories.items():
            for tag, id in tags.items():
                result.setdefault(id, []).append(f"{repository}:{tag}")
        return {id: sorted(names) for id, names in result.items()}

    def names(self, id: str) -> list[str]:
        """The names of an id, sorted."""
        return self.by_id().get(id, [])

    def image_name(self, id: str) -> str:
        """The first name of an id; its short form when it has none."""
        return next(iter(self.names(id)), short_id(id))

    # -- writing

    def set(self, repository: str, tag: str, image: str, *, force: bool = False) -> GraphImage:
        """Give the image that ``image`` means a name; no tag is ``latest``. Returns the image.

        Raises NotFound, InvalidInput, and Conflict for a name that another image has, unless ``force``.
        """
        tag = tag or DEFAULT_TAG
        validate_repository(repository)
        validate_tag(tag)
        with self._graph.locked():
            found = self.lookup(image)
            repositories, damaged = self._read()
            there = repositories.get(repository, {}).get(tag)
            if there is not None and there != found.id and not force:
                text = f"Tag {tag} is already set to image {there}, if you want to replace it, please use -f option"
                raise Conflict(f"Conflict: {text}", code="graph-tag-exists", subject=f"{repository}:{tag}")
            if there != found.id or damaged:
                repositories.setdefault(repository, {})[tag] = found.id
                self._save(repositories, damaged)
        return found

    def delete(self, repository: str, tag: str = "") -> list[str]:
        """Take a name away, or without ``tag`` all of a repository; return them. Raises NotFound."""
        with self._graph.locked():
            repositories, damaged = self._read()
            tags = repositories.get(repository)
            if tags is None:
                raise NotFound(f"No such repository: {repository[:255]}", code="graph-no-such-repository")
            if tag and tag not in tags:
                raise NotFound(f"No such tag: {repository[:255]}:{tag[:128]}", code="graph-no-such-tag")
            gone = [tag] if tag else sorted(tags)
            for name in gone:
                del tags[name]
            self._save(repositories, damaged)
        return [f"{repository}:{name}" for name in gone]

    def delete_all(self, id: str) -> list[str]:
        """Take all names of an id away; return them."""
        with self._graph.locked():
            names = self.names(id)
            with self.without(id):
                return names

    @contextmanager
    def without(self, id: str) -> Iterator[None]:
        """Take all names of ``id`` away for good, unless what is done inside fails. For the holder of the lock."""
        repositories, damaged = self._read()
        if not any(id in tags.values() for tags in repositories.values()):
            yield
            return
        left = {name: {tag: to for tag, to in tags.items() if to != id} for name, tags in repositories.items()}
        with self._file.restored_on_failure():
            self._save(left, damaged)
            yield

    def _read(self) -> tuple[Repositories, bytes | None]:
        """The names, and the bytes of the file if they are damaged."""
        raw = self._file.read()
        if not raw and not self.path.exists():
            return {}, None
        repositories, damage = parse_repositories(raw)
        if damage is None:
            return repositories, None
        count = sum(map(len, repositories.values()))
        self._graph.progress.note(f"{self.path} is damaged, {count} names of it are used: {damage}")
        return repositories, raw

    def _save(self, repositories: Repositories, damaged: bytes | None) -> None:
        if damaged is not None:
            self._graph.progress.note(f"the damaged file is kept as {self._file.set_aside(damaged)}")
        kept = {name: gojson.sorted_map(tags) for name, tags in repositories.items() if tags}
        self._file.write(gojson.render({"Repositories": gojson.sorted_map(kept)}))
