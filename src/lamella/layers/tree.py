"""The merged tree: what an image's layers come to, one on top of the other.

Layers are applied bottom up exactly as OCI image-spec 1.1 ``layer.md`` says. Whiteouts and opaque markers act on the
layers below only, wherever they stand in the stream; then the layer's own entries are put in, in their order. A tree is
immutable: applying a layer gives a new tree, which shares every directory that the layer did not touch. That is what
makes telling two trees apart cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from lamella.errors import InvalidInput, NotFound, ResourceExhausted, printable
from lamella.layers.entry import Entry, Kind, implied_directory
from lamella.layers.index import LayerIndex
from lamella.layers.paths import components, join
from lamella.layers.sources import ContentSource
from lamella.spec.limits import DEFAULT_LIMITS, Limits

Names: TypeAlias = "dict[bytes, Node]"

_DIRECTORY, _HARDLINK, _SYMLINK = Kind.DIRECTORY, Kind.HARDLINK, Kind.SYMLINK
"""Looked up for every entry: in the class of an enumeration that costs more than what is done with them."""

_STEPS = 100_000
_STEPS_A_ROW = 64
"""What one layer may take of steps along links: a few links of a few kilobytes can make any entry take 80,000."""


class Node(msgspec.Struct, gc=False, eq=False):
    """A file, directory or link of a merged tree. Names that are hard links of each other share one node.

    ``layer`` is the position of the layer that wrote it. ``children`` is None for all but directories. ``owner`` tells
    which application of a layer may still change the node in place. The collector of cycles passes nodes over: none
    leads back to itself, and a tree of them is large.
    """

    entry: Entry
    layer: int
    children: Names | None
    owner: object


class MergedTree:
    """The tree of a stack of layers. ``sources[node.layer]`` is where a node's content is."""

    __slots__ = ("_links", "limits", "root", "sources")

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._links: dict[int, int] | None = None
        self.root = Node(implied_directory(b""), 0, {}, None)
        self.sources: tuple[ContentSource, ...] = ()
        self.limits = limits

    def apply(self, index: LayerIndex, source: ContentSource, *, complete: bool = False) -> MergedTree:
        """The tree with one more layer on top; this one stays as it is.

        ``complete`` says that the index lists a whole tree: nothing that is below and not in it stays. Raises
        InvalidInput, naming entry and layer, for entries that cannot be applied: a hard link to nothing or to a
        directory, a parent that is no directory, a root that is none, a chain of links that does not end.
        """
        tree = MergedTree(limits=self.limits)
        tree.sources = (*self.sources, source)
        tree.root = self.root
        try:
            _Application(tree, len(self.sources)).run(index, complete=complete)
        except (InvalidInput, ResourceExhausted) as error:
            raise error.about(layer=source.label) from None
        return tree

    def lookup(self, path: bytes, *, follow: bool = True) -> Node:
        """The node at ``path``, links in it (and, with ``follow``, at its end) resolved inside the tree only.

        ``..`` is taken after links are resolved, and at the root it stays at the root. Raises NotFound, and
        InvalidInput for a chain of links that does not end.
        """
        return self.resolve(path, follow=follow)[1]

    def resolve(self, path: bytes, *, follow: bool = True) -> tuple[bytes, Node]:
        """The path without links that ``path`` leads to, and its node."""
        walk = Resolver(self.root, self.limits.links)
        node = walk.to(path, follow=follow)
        if node is None:
            raise NotFound("no such file or directory in the image", code="path-not-found", entry=path)
        return b"/".join(name for name, _ in walk.trail), node

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Every path with its node, the root first, a directory before what is in it, names in byte order."""
        stack: list[tuple[bytes, Node]] = [(b"", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            if node.children:
                below = node.children
                stack.extend((join(path, name), below[name]) for name in sorted(below, reverse=True))

    def link_counts(self) -> dict[int, int]:
        """How many names each file with more than one has, by ``id`` of its node."""
        if self._links is None:
            self._links = self._count_links()
        return self._links

    def _count_links(self) -> dict[int, int]:
        seen: set[int] = set()
        counts: dict[int, int] = {}
        stack = [self.root]
        while stack:
            for node in stack.pop().children.values():  # type: ignore[union-attr]
                if node.children is not None:
                    stack.append(node)
                elif id(node) in seen:
                    counts[id(node)] = counts.get(id(node), 1) + 1
                else:
                    seen.add(id(node))
        return counts


class Resolver:
    """One walk along a path. ``trail`` is where it stands: (name, node) of each directory from the root down."""

    def __init__(self, root: Node, links: int, budget: _Budget | None = None) -> None:
        self._root = root
        self._links = links
        self._budget = budget
        self.trail: list[tuple[bytes, Node]] = []

    def to(self, path: bytes, *, follow: bool) -> Node | None:
        """The node that ``path`` leads to, or None. Raises InvalidInput after too many links."""
        todo = path.split(b"/")[::-1]
        node = self._root
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if self.trail:
                    self.trail.pop()
                node = self.trail[-1][1] if self.trail else self._root
                continue
            below = node.children.get(name) if node.children is not None else None
            if below is None:
                return None
            if below.entry.kind == _SYMLINK and (todo or follow):
                node = self._follow(below, todo, node, path)
                continue
            self.trail.append((name, below))
            node = below
        return node

    def _follow(self, link: Node, todo: list[bytes], here: Node, path: bytes) -> Node:
        self._links -= 1
        if self._links < 0:
            raise InvalidInput("too many levels of symbolic links", code="link-loop", entry=path)
        target = link.entry.link
        parts = target.split(b"/")
        if self._budget is not None:
            self._budget.spend(len(parts), path)
        todo.extend(reversed(parts))
        if target.startswith(b"/"):
            self.trail.clear()
            return self._root
        return here


class _Budget:
    """Bounds the work that the links of a layer cause."""

    def __init__(self, rows: int) -> None:
        self._left = _STEPS + _STEPS_A_ROW * rows

    def spend(self, steps: int, path: bytes) -> None:
        """Take steps. Raises ResourceExhausted when there are none left."""
        self._left -= steps
        if self._left < 0:
            raise ResourceExhausted("the links on the way to entries are too long", code="link-steps", entry=path)


class _Application:
    """Applies one layer to a tree under construction."""

    def __init__(self, tree: MergedTree, layer: int) -> None:
        self._tree = tree
        self._layer = layer
        self._token = object()
        self._lower = tree.root
        # Directories that entries were put into: those that no link leads to, and the last of any kind.
        self._plain: dict[bytes, Node] = {}
        self._last: tuple[bytes, Node] | None = None
        self._budget = _Budget(0)

    def run(self, index: LayerIndex, *, complete: bool) -> None:
        self._budget = _Budget(len(index.entries) + len(index.markers))
        pseudo = self._pseudo_links(index.markers)
        self._tree.root = self._owned(self._tree.root)
        if complete:
            self._tree.root.children = {}
        own = _LazyPaths(index.entries)
        for marker in index.markers:
            self._mark(marker, own)
        for entry in index.entries:
            self._put(entry)
        self._relink(pseudo)

    def _resolver(self, root: Node | None = None) -> Resolver:
        return Resolver(root or self._tree.root, self._tree.limits.links, self._budget)

    # -- markers, which see the layers below only

    def _mark(self, marker: Entry, own: _LazyPaths) -> None:
        if marker.kind == Kind.OPAQUE:
            found = self._lower_directory(marker.path, own)
            if found is not None:
                found.children = {}
        elif marker.kind == Kind.WHITEOUT:
            parent, _, name = marker.path.rpartition(b"/")
            found = self._lower_directory(parent, own)
            if found is not None and found.children is not None:
                found.children.pop(name, None)

    def _lower_directory(self, path: bytes, own: _LazyPaths) -> Node | None:
        """The directory of the layers below that ``path`` means, ready to be changed; None if there is none.

        A link on the way is followed, as it is for entries, unless this very layer puts something else in its place.
        """
        node = self._tree.root
        at = b""
        for name in components(path):
            at = join(at, name)
            below = (node.children or {}).get(name)
            if below is None:
                return None
            if below.entry.kind == _SYMLINK:
                if at in own:
                    return None
                return self._linked_directory(path)
            if below.children is None:
                return None
            node = self._own_child(node, name, below)
        return node

    def _linked_directory(self, path: bytes) -> Node | None:
        resolver = self._resolver()
        found = resolver.to(path, follow=True)
        if found is None or found.children is None:
            return None
        node = self._tree.root
        for name, below in resolver.trail:
            node = self._own_child(node, name, below)
        return node

    # -- the layer's own entries

    def _put(self, entry: Entry) -> None:
        path = entry.path
        if not path:
            self._put_root(entry)
            return
        parent_path, _, name = path.rpartition(b"/")
        parent = self._plain.get(parent_path)
        if parent is None:
            last = self._last
            parent = last[1] if last is not None and last[0] == parent_path else self._directory(parent_path, entry)
            self._last = (parent_path, parent)
        names = parent.children
        assert names is not None
        there = names.get(name)
        if there is not None and (
            there.entry.kind == _SYMLINK or (there.children is not None and entry.kind != _DIRECTORY)
        ):
            # It may be on the way to what is remembered, under any name. A directory in place of a directory keeps
            # what is in it, and what is remembered of it.
            self._plain.clear()
            self._last = None
        if entry.kind == _DIRECTORY:
            children = there.children if there is not None and there.children is not None else {}
            keep = children if there is not None and there.owner is self._token else dict(children)
            names[name] = Node(entry, self._layer, keep, self._token)
        elif entry.kind == _HARDLINK:
            names[name] = self._link_target(entry)
        else:
            names[name] = Node(entry, self._layer, None, None)

    def _put_root(self, entry: Entry) -> None:
        if entry.kind != _DIRECTORY:
            raise InvalidInput("the root of an image must be a directory", code="root-not-directory", entry=b"/")
        self._tree.root = Node(entry, self._layer, self._tree.root.children, self._token)

    def _directory(self, path: bytes, entry: Entry) -> Node:
        """The directory at ``path``, made where it is missing, links on the way followed inside the tree."""
        above, _, last = path.rpartition(b"/")
        known = self._plain.get(above) if path else None
        if known is not None:
            found = known.children.get(last)  # type: ignore[union-attr]
            if found is not None and found.children is not None:
                node = self._plain[path] = self._own_child(known, last, found)
                return node
        node = self._tree.root
        trail: list[tuple[bytes, Node]] = []
        todo = components(path)[::-1]
        links = self._tree.limits.links
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if trail:
                    trail.pop()
                node = trail[-1][1] if trail else self._tree.root
                continue
            below = node.children.get(name)  # type: ignore[union-attr]
            if below is not None and below.entry.kind == _SYMLINK:
                links -= 1
                if links < 0:
                    raise InvalidInput("too many links on the way to the entry", code="link-loop", entry=entry.path)
                parts = below.entry.link.split(b"/")
                self._budget.spend(len(parts), entry.path)
                todo.extend(reversed(parts))
                if below.entry.link.startswith(b"/"):
                    trail, node = [], self._tree.root
                continue
            if below is None:
                above = b"/".join(part for part, _ in trail)
                below = Node(implied_directory(join(above, name)), self._layer, {}, self._token)
                node.children[name] = below  # type: ignore[index]
            elif below.children is None:
                raise InvalidInput(
                    f"'{printable(name)}' on the way to the entry is no directory",
                    code="entry-parent-not-directory",
                    entry=entry.path,
                )
            node = self._own_child(node, name, below)
            trail.append((name, node))
        if links < self._tree.limits.links:
            self._check_length(trail, entry)
        else:
            self._plain[path] = node
        return node

    def _check_length(self, trail: list[tuple[bytes, Node]], entry: Entry) -> None:
        """Names were checked as they came; a link can lead to a place where they come to more."""
        limits = self._tree.limits
        size = sum(len(name) + 1 for name, _ in trail) + len(entry.path.rpartition(b"/")[2])
        if size > limits.path_bytes or len(trail) >= limits.path_depth:
            raise ResourceExhausted(
                "the path that links lead to is longer or deeper than the limit",
                code="entry-path-long",
                entry=entry.path,
            )

    def _link_target(self, entry: Entry) -> Node:
        if entry.link == entry.path:
            raise InvalidInput("a hard link to itself", code="hardlink-to-itself", entry=entry.path)
        parent, _, name = entry.link.rpartition(b"/")
        directory = self._resolver().to(parent, follow=True)
        node = (directory.children or {}).get(name) if directory is not None else None
        if not name or (node is not None and node.children is not None):
            raise InvalidInput("a hard link to a directory", code="hardlink-to-directory", entry=entry.path)
        if node is None:
            raise InvalidInput(
                f"a hard link to '{printable(entry.link)}', which is not there",
                code="hardlink-target-missing",
                entry=entry.path,
            )
        return node

    # -- AUFS pseudo-links: the other names of a lower file follow the copy in the upper branch

    def _pseudo_links(self, markers: list[Entry]) -> list[tuple[bytes, Node]]:
        found = []
        for marker in markers:
            if marker.kind == Kind.PSEUDO_LINK:
                old = self._resolver(self._lower).to(marker.link or marker.path, follow=False)
                if old is not None and old.children is None:
                    found.append((marker.path, old))
        return found

    def _relink(self, pseudo: list[tuple[bytes, Node]]) -> None:
        """Let every name of the old file of each pair stand for what is at the path now."""
        replaced: dict[int, Node] = {}
        for path, old in pseudo:
            new = self._resolver().to(path, follow=False)
            if new is not None and new.children is None:
                replaced.setdefault(id(old), new)
        if not replaced:
            return
        for path, node in list(self._tree.walk()):
            if id(node) in replaced:
                parent, _, name = path.rpartition(b"/")
                names = self._directory(parent, node.entry).children
                assert names is not None
                names[name] = replaced[id(node)]

    # -- copying on write

    def _own_child(self, parent: Node, name: bytes, child: Node) -> Node:
        if child.owner is self._token:
            return child
        child = self._owned(child)
        parent.children[name] = child  # type: ignore[index]
        return child

    def _owned(self, node: Node) -> Node:
        """The node itself if this application made it, else a copy that it may change."""
        if node.owner is self._token:
            return node
        return Node(node.entry, node.layer, dict(node.children or {}), self._token)


class _LazyPaths:
    """The paths that a layer has entries for, gathered only when asked: few layers need it."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries
        self._paths: frozenset[bytes] | None = None

    def __contains__(self, path: bytes) -> bool:
        if self._paths is None:
            self._paths = frozenset(entry.path for entry in self._entries)
        return path in self._paths
