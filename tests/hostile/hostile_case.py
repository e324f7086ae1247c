"""What a hostile case is: an input, and the one right outcome of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from build import MTIME, Layout, digest, directory, file, layout, tar
from hostile_world import GOOD, World

import lamella
from lamella import Limits
from support.noted import Noted
from support.trees import Leaf

Tree: TypeAlias = "dict[bytes, Leaf]"
NAME = "hostile"
_NS = 10**9


# -- what is expected of a tree


def a_directory(mode: int = 0o755, *, mtime: int = MTIME, **more: object) -> Leaf:
    """A directory that has a member of its own."""
    return replace(Leaf("directory", mode, 0, 0, mtime * _NS), **more)


IMPLIED = a_directory(mtime=0)
"""A directory that only the names of other members tell of; the root too."""


def a_file(content: bytes = b"", mode: int = 0o644, *, mtime: int = MTIME, **more: object) -> Leaf:
    """A regular file."""
    return replace(Leaf("file", mode, 0, 0, mtime * _NS, len(content), content=digest(content)[7:]), **more)


def a_link(target: bytes, *, mtime: int = MTIME, **more: object) -> Leaf:
    """A symbolic link."""
    return replace(Leaf("link", 0o777, 0, 0, mtime * _NS, link=target), **more)


def a_special(kind: str, major: int = 0, minor: int = 0, mode: int = 0o644, **more: object) -> Leaf:
    """A device (``char``, ``block``) or a ``fifo``."""
    return replace(Leaf(kind, mode, 0, 0, MTIME * _NS, device=(major, minor)), **more)


def together(*paths: bytes, leaf: Leaf) -> Tree:
    """Hard links of each other."""
    return {path: replace(leaf, group=min(paths)) for path in paths}


def implied(path: bytes) -> Tree:
    """The directories above ``path`` (absolute or not) and itself, none of which has a member."""
    parts = path.strip(b"/").split(b"/")
    return {b"/".join(parts[: i + 1]): IMPLIED for i in range(len(parts))}


BASE = tar(
    directory(b"base"), file(b"base/file", b"base"), file(b"base/other", b"other"), directory(b"etc"),
    file(b"etc/passwd", b"root:image\n"),
)  # fmt: skip
"""The layer below single hostile ones."""

BASE_TREE: Tree = {
    b"": IMPLIED,
    b"base": a_directory(),
    b"base/file": a_file(b"base"),
    b"base/other": a_file(b"other"),
    b"etc": a_directory(),
    b"etc/passwd": a_file(b"root:image\n"),
}


# -- outcomes


ANY = b"\0any"
"""An entry that does not matter."""


@dataclass(frozen=True)
class Refused:
    """The typed error that must come. ``layer`` is the position of the layer that it has to name."""

    kind: type[lamella.LamellaError]
    code: str
    entry: bytes | None = None
    layer: int | None = None
    says: str = ""


@dataclass(frozen=True)
class Holds:
    """It works: the image has exactly ``tree``. Imported alone, or over BASE where ``over`` says how that ends.

    ``hidden`` are paths that an overlay cannot show, ``shown`` what a mount shows otherwise. ``notes`` are (parts of)
    what the user has to be told on the way. Without ``mounts`` it is only read as it lies in the store.
    """

    tree: Tree
    over: Tree | None = None
    hidden: frozenset[bytes] = frozenset()
    shown: Mapping[bytes, Leaf] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    mounts: bool = True


@dataclass(frozen=True)
class Taken:
    """It is taken; there is nothing to look at but that it can be removed again."""


@dataclass(frozen=True)
class Unmountable:
    """It is an image, but none that can be written to a directory here: the error that ``prepare`` raises."""

    kind: type[lamella.LamellaError]
    code: str
    entry: bytes | None = None


Outcome: TypeAlias = "Refused | Holds | Taken | Unmountable"


# -- inputs


@dataclass(frozen=True)
class Attempt:
    """One way to give the input to the product; ``layers`` are the texts by which an error may name each layer."""

    what: str
    run: Callable[[Noted], None]
    tree: Tree = field(default_factory=dict)
    layers: Sequence[frozenset[str]] = ()


@dataclass(frozen=True)
class Layers:
    """Tars of layers. A single one is imported as a root file system, and loaded as the layer over BASE."""

    tars: tuple[bytes, ...]
    limits: Limits | None = None

    def attempts(self, world: World, scratch: Path, outcome: Outcome) -> list[Attempt]:
        """Import, and load."""
        tree = outcome.tree if isinstance(outcome, Holds) else {}
        if len(self.tars) > 1:
            return [self._load(world, scratch, self.tars, {b"": IMPLIED, **tree})]
        over = outcome.over if isinstance(outcome, Holds) else None
        whole = {**BASE_TREE, **tree} if over is None else over
        return [
            self._import(world, {b"": IMPLIED, **tree}),
            self._load(world, scratch, (BASE, *self.tars), whole),
        ]

    def _import(self, world: World, tree: Tree) -> Attempt:
        data = self.tars[0]

        def run(notes: Noted) -> None:
            with world.opened(self.limits) as store:
                store.import_rootfs(io.BytesIO(data), NAME, progress=notes)

        return Attempt("import", run, tree, [frozenset({"-", digest(data)})])

    def _load(self, world: World, scratch: Path, tars: Sequence[bytes], tree: Tree) -> Attempt:
        place = layout(*tars, name=NAME)
        names = [frozenset({digest(data), found["digest"]}) for data, found in zip(tars, _layers(place), strict=True)]
        place.write(scratch / "layout")

        def run(notes: Noted) -> None:
            with world.opened(self.limits) as store:
                store.load(scratch / "layout", progress=notes)

        return Attempt("load", run, tree, names)


def _layers(place: Layout) -> list[dict[str, str]]:
    for raw in place.blobs.values():
        if raw.startswith(b'{"schemaVersion"'):
            return json.loads(raw)["layers"]
    raise AssertionError


@dataclass(frozen=True)
class Stream:
    """What is imported as a root file system, as it is: compressed, cut off, or no tar at all."""

    data: bytes
    limits: Limits | None = None

    def attempts(self, world: World, scratch: Path, outcome: Outcome) -> list[Attempt]:
        """Import."""
        tree = outcome.tree if isinstance(outcome, Holds) else {}

        def run(notes: Noted) -> None:
            with world.opened(self.limits) as store:
                store.import_rootfs(io.BytesIO(self.data), NAME, progress=notes)

        return [Attempt("import", run, {b"": IMPLIED, **tree}, [frozenset({"-"})])]


@dataclass(frozen=True)
class Place:
    """A layout or an archive that ``make`` writes below a directory and gives the path of."""

    make: Callable[[Path], Path]
    limits: Limits | None = None

    def attempts(self, world: World, scratch: Path, outcome: Outcome) -> list[Attempt]:
        """Load."""
        path = self.make(scratch)
        tree = outcome.tree if isinstance(outcome, Holds) else {}

        def run(notes: Noted) -> None:
            with world.opened(self.limits) as store:
                store.load(path, progress=notes)

        return [Attempt("load", run, {b"": IMPLIED, **tree})]


@dataclass(frozen=True)
class Act:
    """A call that a user could make."""

    call: Callable[[World], object]

    def attempts(self, world: World, scratch: Path, outcome: Outcome) -> list[Attempt]:
        """The call."""
        return [Attempt("call", lambda _notes: self.call(world) and None)]


Input: TypeAlias = "Layers | Stream | Place | Act"
Build: TypeAlias = "Callable[[World], tuple[Input, Outcome]]"


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    build: Build


class Table:
    """The cases of one module, in order."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def case(self, name: str) -> Callable[[Build], Build]:
        """Add what builds a case: given the world, for its canary's path, it returns the input and the outcome."""

        def add(build: Build) -> Build:
            self.cases.append(Case(name, build))
            return build

        return add

    def add(self, name: str, what: Input, outcome: Outcome) -> None:
        """Add a case that needs nothing of the world."""
        self.cases.append(Case(name, lambda _world: (what, outcome)))


def layers(*tars: bytes, limits: Limits | None = None) -> Layers:
    """Layers of these tars."""
    return Layers(tars, limits)


def members(*parts: bytes, limits: Limits | None = None) -> Layers:
    """One layer of these members."""
    return Layers((tar(*parts),), limits)


__all__ = [name for name in globals() if not name.startswith("_")] + ["GOOD"]
