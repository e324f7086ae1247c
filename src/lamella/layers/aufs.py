"""The branches of an AUFS union, read as they lie on disk (Linux AUFS; ``.wh.`` whiteouts, pseudo-links)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamella.layers.compare import Change, compare
from lamella.layers.scan import scan
from lamella.layers.tree import MergedTree
from lamella.mounts.model import Form
from lamella.spec.limits import DEFAULT_LIMITS, Limits


def branch_trees(
    layers: Sequence[Path], rw: Path | None, *, limits: Limits = DEFAULT_LIMITS
) -> tuple[MergedTree, MergedTree]:
    """The union of the read-only ``layers`` (topmost first, as AUFS takes them), and the same under the branch ``rw``.

    Pseudo-links that name an inode of a lower branch join the names of that inode, which AUFS itself forgets when it is
    unmounted without auplink.
    """
    tree = MergedTree(limits=limits)
    inodes: dict[int, bytes] = {}
    for layer in reversed(layers):
        found = scan(layer, Form.AUFS, lower_inodes=inodes, limits=limits)
        tree = tree.apply(found.index, found.source)
        inodes.update(found.inodes)
    if rw is None:
        return tree, tree
    found = scan(rw, Form.AUFS, lower_inodes=inodes, limits=limits)
    return tree, tree.apply(found.index, found.source)


def branch_changes(layers: Sequence[Path], rw: Path, *, limits: Limits = DEFAULT_LIMITS) -> list[Change]:
    """What the writable branch ``rw`` changes over ``layers`` (topmost first)."""
    return compare(*branch_trees(layers, rw, limits=limits))
