"""Layers as directories, for the drivers that stack directories: ``trees/<form>/<chain_id>/``.

A directory holds what one layer adds to the layers below it, in the form that a kind of union reads (whiteouts as
devices for overlay, as ``.wh.`` files for AUFS). It is kept by chain_id and not by diff_id, because what a layer comes
to depends on what it stands on: a member below a linked directory, a hard link to a lower file, and a directory without
a member of its own all look down. A chain that two images share is written once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamella._sys import processes
from lamella._sys.files import drop_temporaries, os_errors, remove_tree, write_atomic
from lamella._sys.locks import FileLock
from lamella.layers.extract import extract
from lamella.layers.store import LayerStore
from lamella.layers.tree import MergedTree
from lamella.mounts.model import Form
from lamella.spec.digest import Digest, chain_ids
from lamella.spec.progress import NO_PROGRESS, Progress


class TreeStore:
    """The directories of layers. Thread-safe; of many processes that want one directory, one writes it."""

    def __init__(self, root: Path, layers: LayerStore) -> None:
        self._root = root
        self._layers = layers

    def path(self, form: Form, chain_id: Digest) -> Path:
        """Where a layer's directory is, there or not."""
        return self._root / form.value / chain_id.hex

    def ensure(
        self, form: Form, diff_ids: Sequence[Digest], staging: Path, *, progress: Progress = NO_PROGRESS
    ) -> list[Path]:
        """The directories of a stack of layers, bottom first, written where they are missing.

        Each is written below ``staging`` and renamed into place. It is not synced, which would cost more than writing
        it: a mark beside it, which is durable before it shows, tells in which boot it was written, and one of an
        earlier boot is written anew.
        """
        chains = chain_ids(tuple(diff_ids))
        paths = [self.path(form, chain) for chain in chains]
        if all(_is_whole(path) for path in paths):
            return paths
        with os_errors(str(self._root)):
            (self._root / form.value).mkdir(parents=True, exist_ok=True)
        below: MergedTree | None = None
        for depth, (diff_id, path) in enumerate(zip(diff_ids, paths, strict=True)):
            under = below or MergedTree()
            below = under.apply(self._layers.index(diff_id), self._layers.source(diff_id))
            if _is_whole(path):
                continue
            with FileLock(path.with_name(f"{path.name}.lock")):
                if not _is_whole(path):
                    self._write(under, below, path, form, staging, paths[:depth], progress)
        return paths

    def ensure_whole(
        self, diff_ids: Sequence[Digest], tree: MergedTree, staging: Path, *, progress: Progress = NO_PROGRESS
    ) -> Path:
        """The directory of a whole image, without any union: what is cloned where the file system shares blocks."""
        path = self.path(Form.PLAIN, chain_ids(tuple(diff_ids))[-1] if diff_ids else Digest.of(b""))
        with os_errors(str(self._root)):
            path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if not _is_whole(path):
                self._write(None, tree, path, Form.PLAIN, staging, (), progress)
        return path

    def _write(
        self,
        under: MergedTree | None,
        tree: MergedTree,
        path: Path,
        form: Form,
        staging: Path,
        lowers: Sequence[Path],
        progress: Progress,
    ) -> None:
        target = staging / f"tree-{form.value}-{path.name}"
        key = path.name[:12]
        progress.start(key, "extracting")
        try:
            with os_errors(str(target)):
                target.mkdir(mode=0o700)
                extract(under, tree, target, form, lowers=lowers, progress=progress, key=key)
                if os.path.lexists(path):
                    os.rename(path, target.with_name(f"{target.name}-old"))
                drop_temporaries(_boot_mark(path))
                write_atomic(_boot_mark(path), processes.boot_id().encode())
                os.rename(target, path)
        except BaseException:
            progress.done(key, "failed")
            if target.exists():
                remove_tree(target)
            raise
        progress.done(key)

    def walk(self) -> Iterator[tuple[Form, Digest]]:
        """Every directory that is here."""
        for form in Form:
            directory = self._root / form.value
            if directory.is_dir():
                for name in sorted(os.listdir(directory)):
                    if len(name) == 64:
                        yield form, Digest("sha256", name)

    def drop_locks(self) -> None:
        """Remove the lock files and marks of directories that are not there; those that somebody holds stay."""
        for path in sorted(self._root.glob("*/*.lock")):
            lock = FileLock(path)
            if not path.with_suffix("").exists() and lock.acquire(blocking=False):
                mark = _boot_mark(path.with_suffix(""))
                drop_temporaries(mark)
                mark.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                lock.release()


def _boot_mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.boot")


def _is_whole(path: Path) -> bool:
    """Whether a directory is there and was written since the machine started; a power cut may have cut an older one."""
    try:
        return _boot_mark(path).read_bytes() == processes.boot_id().encode() and path.is_dir()
    except (FileNotFoundError, IsADirectoryError):
        return False
