"""Trees of images that layers are put on, kept for a while: a chain that is written is not read at each layer anew."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.layers.aufs import LowerNames, Member
from lamella.layers.scan import scan
from lamella.layers.tree import MergedTree
from lamella.mounts.model import Form
from lamella.spec.limits import DEFAULT_LIMITS, Limits

_KEPT = 8


@dataclass(frozen=True, slots=True)
class _Stack:
    """The tree of some layers, and what each inode number in them is, for AUFS' pseudo-links."""

    identity: tuple[int, ...]
    tree: MergedTree
    members: dict[int, Member]


class Stacks:
    """The trees of the stacks that were asked for last. Thread-safe.

    A layer is taken for the same while its directory is: nobody may write to the layers of a graph.
    """

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, ...], _Stack] = OrderedDict()

    def tree(self, layers: Sequence[Path]) -> MergedTree:
        """The tree of AUFS branches, topmost first. Raises what scanning them raises."""
        stack = tuple(reversed(layers))
        identities = [_identity(layer) for layer in stack]
        depth, found = self._deepest(stack, identities)
        for at in range(depth, len(stack)):
            names = LowerNames(found.tree, found.members)
            scanned = scan(stack[at], Form.AUFS, lower_name=names.name, limits=self._limits)
            tree = found.tree.apply(scanned.index, scanned.source)
            own = {inode: (at, path) for inode, path in scanned.inodes.items()}
            found = _Stack(_flat(identities[: at + 1]), tree, found.members | own)
        if stack:
            with self._lock:
                self._kept[stack] = found
                self._kept.move_to_end(stack)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return found.tree

    def _deepest(self, stack: tuple[Path, ...], identities: list[tuple[int, ...]]) -> tuple[int, _Stack]:
        with self._lock:
            for depth in range(len(stack), 0, -1):
                kept = self._kept.get(stack[:depth])
                if kept is not None and kept.identity == _flat(identities[:depth]):
                    return depth, kept
        return 0, _Stack((), MergedTree(limits=self._limits), {})


def _identity(layer: Path) -> tuple[int, ...]:
    with os_errors(str(layer)):
        status = layer.stat()
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _flat(identities: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(number for identity in identities for number in identity)
