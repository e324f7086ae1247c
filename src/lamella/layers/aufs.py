"""The branches of an AUFS union, read as they lie on disk (Linux AUFS; ``.wh.`` whiteouts, pseudo-links)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from lamella.layers.compare import Change, compare
from lamella.layers.scan import scan
from lamella.layers.tree import MergedTree
from lamella.mounts.model import Form
from lamella.spec.limits import DEFAULT_LIMITS, Limits

Member: TypeAlias = "tuple[int, bytes]"
"""A file of a branch: the position of the branch, from the bottom, and the first of the names that it has there."""


def branch_trees(
    layers: Sequence[Path], rw: Path | None, *, limits: Limits = DEFAULT_LIMITS
) -> tuple[MergedTree, MergedTree]:
    """The union of the read-only ``layers`` (topmost first, as AUFS takes them), and the same under the branch ``rw``.

    Pseudo-links that name an inode of a lower branch join the names of that inode, which AUFS itself forgets when it is
    unmounted without auplink.
    """
    tree = MergedTree(limits=limits)
    members: dict[int, Member] = {}
    for number, layer in enumerate(reversed(layers)):
        found = scan(layer, Form.AUFS, lower_name=LowerNames(tree, members).name, limits=limits)
        tree = tree.apply(found.index, found.source)
        members.update((inode, (number, path)) for inode, path in found.inodes.items())
    if rw is None:
        return tree, tree
    found = scan(rw, Form.AUFS, lower_name=LowerNames(tree, members).name, limits=limits)
    return tree, tree.apply(found.index, found.source)


class LowerNames:
    """Under which name a file of some branches, told by its inode number, shows in their union."""

    def __init__(self, tree: MergedTree, members: Mapping[int, Member]) -> None:
        self._tree, self._members = tree, members
        self._shown: dict[Member, bytes] | None = None

    def name(self, inode: int) -> bytes:
        """The first such name; empty when no branch has the file, or others cover every name of it."""
        member = self._members.get(inode)
        if member is None:
            return b""
        if self._shown is None:
            self._shown = {}
            for path, node in self._tree.walk():
                if node.children is None:
                    self._shown.setdefault((node.layer, node.entry.path), path)
        return self._shown.get(member, b"")


def branch_changes(layers: Sequence[Path], rw: Path, *, limits: Limits = DEFAULT_LIMITS) -> list[Change]:
    """What the writable branch ``rw`` changes over ``layers`` (topmost first)."""
    return compare(*branch_trees(layers, rw, limits=limits))
