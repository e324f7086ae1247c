"""Random trees, tarred by GNU tar and bsdtar in every format that they write, come out of the index as they were."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME, ingest_layer
from lamella.layers.sources import TarSource
from lamella.layers.tree import MergedTree
from lamella.layers.view import TreeView
from lamella.spec.digest import Digest
from support import needs, randomtree
from support.needs import needs_root, needs_tool
from support.trees import Tree, assert_same, read_directory, read_view

_SECOND = 10**9
_GNU = ("tar", "--create", "--numeric-owner", "--sort=name")
_XATTRS = ("--xattrs", "--xattrs-include=*")


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a tar, what trees it can hold, and whether times are whole seconds and xattrs are lost in it."""

    command: tuple[str, ...]
    bounds: randomtree.Bounds = randomtree.ALL
    whole_seconds: bool = False
    no_xattrs: bool = False


def _gnu(*options: str) -> tuple[str, ...]:
    return (*_GNU, *options)


def _bsd(*options: str) -> tuple[str, ...]:
    return ("bsdtar", "--create", "--numeric-owner", *options)


OLD = randomtree.OLD
# What libarchive cannot: it writes -0.5 s as "-1.5", the name of an xattr that is not ASCII with %XX in it, and cuts
# the name of a sparse file that is no UTF-8.
BSD = replace(randomtree.ALL, times=OLD.times, utf8=True, xattrs=("user.a", "user.long.name", "trusted.b"))
FORMATS = {
    "gnu-v7": Format(_gnu("--format=v7"), replace(OLD, special=False), whole_seconds=True),
    "gnu-ustar": Format(_gnu("--format=ustar"), OLD, whole_seconds=True),
    "gnu-oldgnu": Format(_gnu("--format=oldgnu"), whole_seconds=True, no_xattrs=True),
    "gnu-gnu": Format(_gnu("--format=gnu"), whole_seconds=True, no_xattrs=True),
    "gnu-gnu-sparse": Format(_gnu("--format=gnu", "--sparse"), whole_seconds=True, no_xattrs=True),
    "gnu-posix": Format(_gnu("--format=posix", *_XATTRS)),
    "gnu-posix-sparse-0.0": Format(_gnu("--format=posix", "--sparse", "--sparse-version=0.0", *_XATTRS)),
    "gnu-posix-sparse-0.1": Format(_gnu("--format=posix", "--sparse", "--sparse-version=0.1", *_XATTRS)),
    "gnu-posix-sparse-1.0": Format(_gnu("--format=posix", "--sparse", "--sparse-version=1.0", *_XATTRS)),
    "bsd-v7": Format(_bsd("--format=v7tar"), replace(OLD, special=False), whole_seconds=True),
    "bsd-ustar": Format(_bsd("--format=ustar"), OLD, whole_seconds=True),
    "bsd-gnutar": Format(_bsd("--format=gnutar"), BSD, whole_seconds=True, no_xattrs=True),
    "bsd-paxr": Format(_bsd("--format=paxr"), replace(BSD, fractions=False)),
    "bsd-pax": Format(_bsd("--format=pax"), BSD),
}


def _tar(command: Sequence[str], tree: Path, target: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    needs.tool(command[0])
    subprocess.run([*command, "-f", target, "-C", tree, "."], check=True, env=environment, capture_output=True)


def _read(tar: Path, staging: Path) -> Tree:
    staging.mkdir()
    with tar.open("rb", buffering=0) as reader:
        layer = ingest_layer(reader, staging, lambda data: None)
    index = LayerIndex.load(staging / INDEX_NAME)
    assert index.diff_id == layer.diff_id == Digest.of(tar.read_bytes())
    return read_view(TreeView(MergedTree().apply(index, TarSource("layer", lambda: staging / TAR_NAME))))


@needs_root
@needs_tool("tar", "bsdtar")
@pytest.mark.parametrize("name", FORMATS)
def test_a_tree_comes_out_of_the_index_as_it_was(name, disk):
    how = FORMATS[name]

    @settings(max_examples=15)
    @given(files=randomtree.trees(how.bounds))
    def check(files):
        place = Path(tempfile.mkdtemp(dir=disk))
        (place / "tree").mkdir()
        randomtree.make(files, place / "tree")
        expected = read_directory(place / "tree")
        _tar(how.command, place / "tree", place / "tar")
        assert_same(_held(expected, how), _read(place / "tar", place / "staging"))

    check()


def _held(tree: Tree, how: Format) -> Tree:
    """What a format keeps of a tree."""
    if how.whole_seconds:
        tree = {path: replace(leaf, mtime=leaf.mtime // _SECOND * _SECOND) for path, leaf in tree.items()}
    if how.no_xattrs:
        tree = {path: replace(leaf, xattrs=()) for path, leaf in tree.items()}
    return tree
