"""Layers between an archive and a directory, by the engine's own reader, merged tree and differ."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.archive.compression import Compression, CompressWriter
from lamella.layers.aufs import branch_trees
from lamella.layers.compare import Change, ChangeKind, compare
from lamella.layers.extract import extract
from lamella.layers.ingest import TAR_NAME, ingest_layer
from lamella.layers.sources import TarSource
from lamella.layers.tree import MergedTree
from lamella.layers.write import write_layer
from lamella.mounts.model import Form
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_BLOB = "layer.blob"


def unpack(
    layer: Reader | None,
    below: MergedTree,
    target: Path,
    staging: Path,
    *,
    whole: bool = False,
    archive: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = NO_PROGRESS,
    key: str = "",
) -> int:
    """Unpack a layer's archive into the new directory ``target``; return the bytes that its files hold.

    ``below`` is the tree of the image that the layer stands on. ``target`` becomes an AUFS branch, or with ``whole``
    the tree of both. The archive's own bytes, however compressed, are kept as ``archive`` if that is given. ``staging``
    is an empty directory on the same file system, the caller's to remove. No layer at all is an empty one. Nothing is
    synced. Raises what a damaged or hostile archive raises.
    """
    with os_errors(str(target)):
        target.mkdir(mode=0o755)
        if layer is None:
            tree = below
        else:
            with open(staging / _BLOB, "xb") as blob:
                found = ingest_layer(layer, staging, blob.write, limits=limits, progress=progress, key=key)
            tree = below.apply(found.index, TarSource(key or str(target), lambda: staging / TAR_NAME))
        form = Form.PLAIN if whole else Form.AUFS
        extract(None if whole else below, tree, target, form, progress=progress, key=key)
        size = content_size(below, tree, changes_between(below, tree))
        if archive is not None and layer is not None:
            plain = found.compression is Compression.NONE
            os.rename(staging / (TAR_NAME if plain else _BLOB), archive)
            os.chmod(archive, 0o600)
    return size


def changes_between(below: MergedTree, tree: MergedTree) -> list[Change]:
    """What a layer changes, its root left out, as docker left it out."""
    return [change for change in compare(below, tree) if change.path]


def content_size(below: MergedTree, tree: MergedTree, changes: list[Change]) -> int:
    """The bytes of the files that a layer adds or changes, each file once however many names it has."""
    return sum(change.size for change in changes)


def own_changes(below: MergedTree, tree: MergedTree) -> list[Change]:
    """All that the topmost layer of ``tree`` holds, changed or not, and what it takes away from ``below``."""
    gone = [change for change in compare(below, tree) if change.kind == ChangeKind.DELETED]
    layer = len(tree.sources) - 1
    held = [Change(path, ChangeKind.MODIFIED) for path, node in tree.walk() if node.layer == layer]
    return sorted(gone + held, key=lambda change: change.path)


def tar_layer(
    branch: Path,
    lowers: list[Path],
    write: Callable[[bytes], object],
    compression: Compression = Compression.NONE,
    *,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Write the branch of a layer as a tar: the same directory gives the same bytes.

    ``lowers`` are the branches below it, topmost first. What AUFS keeps for itself is left out: whiteouts are plain
    whiteouts of what there is below, files with several names are links of each other.
    """
    below, tree = branch_trees(lowers, branch, limits=limits)
    with CompressWriter(write, compression) as writer:
        write_layer(below, tree, own_changes(below, tree), writer.write, progress=progress)


def tar_difference(
    below: MergedTree,
    tree: MergedTree,
    write: Callable[[bytes], object],
    compression: Compression = Compression.NONE,
) -> None:
    """Write what leads from one whole tree to another as the tar of a layer."""
    with CompressWriter(write, compression) as writer:
        write_layer(below, tree, compare(below, tree), writer.write)
