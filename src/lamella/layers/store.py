"""The layers that a store holds unpacked: ``layers/<diff_id>/{layer.tar,layer.index}``, and the trees made of them."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lamella._sys.files import fsync_dir, os_errors, write_atomic
from lamella._sys.syscalls import RENAME_EXCHANGE, renameat2
from lamella.errors import Integrity, NotFound
from lamella.layers.filedigests import FileHasher, has_digest
from lamella.layers.hashing import ThreadedHasher
from lamella.layers.index import LayerIndex, with_digests
from lamella.layers.ingest import INDEX_NAME, TAR_NAME
from lamella.layers.sources import TarSource
from lamella.layers.tree import MergedTree
from lamella.spec.digest import Digest
from lamella.spec.limits import DEFAULT_LIMITS, Limits

_KEPT_INDEXES = 16
_CHUNK = 1 << 20


class LayerStore:
    """Layers by diff_id. What is here can always be made again from the blobs; ``rebuild`` does so when it is missing.

    Thread-safe; many processes may use one directory. A layer appears by a rename, whole.
    """

    def __init__(self, root: Path, *, rebuild: Callable[[Digest], None] | None = None) -> None:
        self._root = root
        self._rebuild = rebuild
        self._lock = threading.RLock()  # an index that is read may be rebuilt, and published, by the one who reads it
        self._recent: OrderedDict[Digest, LayerIndex] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[Digest, LayerIndex] = weakref.WeakValueDictionary()
        self._tree: tuple[tuple[Digest, ...], MergedTree] = ((), MergedTree())

    def path(self, diff_id: Digest) -> Path:
        """The directory of a layer, there or not."""
        return self._root / diff_id.hex

    def has(self, diff_id: Digest) -> bool:
        """Whether the layer is here, whole."""
        return (self.path(diff_id) / INDEX_NAME).is_file() and (self.path(diff_id) / TAR_NAME).is_file()

    def publish(self, staging: Path, diff_id: Digest, index: LayerIndex) -> None:
        """Put the finished directory ``staging`` in its place, durably; if the layer is there whole, drop it.

        ``index`` is what its index file holds, and remembered.
        """
        with os_errors(f"layer {diff_id}"):
            self._root.mkdir(parents=True, exist_ok=True)
            fsync_dir(staging)
            try:
                os.rename(staging, self.path(diff_id))
            except OSError:
                if not self.path(diff_id).is_dir():
                    raise
                if not self.has(diff_id):  # its tar was dropped, or somebody removed a part of it
                    renameat2(os.fsencode(staging), os.fsencode(self.path(diff_id)), RENAME_EXCHANGE)
                shutil.rmtree(staging)
            fsync_dir(self._root)
        with self._lock:
            self._remember(diff_id, self._alive.get(diff_id) or index)

    def replace(self, staging: Path, diff_id: Digest) -> None:
        """Exchange ``staging`` and a damaged layer, durably: whoever reads sees the one or the other."""
        with os_errors(f"layer {diff_id}"):
            fsync_dir(staging)
            renameat2(os.fsencode(staging), os.fsencode(self.path(diff_id)), RENAME_EXCHANGE)
            fsync_dir(self._root)

    def index(self, diff_id: Digest) -> LayerIndex:
        """The index of a layer; a missing or damaged one is rebuilt first. Raises NotFound, Integrity."""
        with self._lock:
            found = self._alive.get(diff_id)
            if found is None:
                found = self._load(diff_id)
            self._remember(diff_id, found)
            return found

    def _remember(self, diff_id: Digest, index: LayerIndex) -> None:
        self._alive[diff_id] = index
        self._recent[diff_id] = index
        self._recent.move_to_end(diff_id)
        while len(self._recent) > _KEPT_INDEXES:
            self._recent.popitem(last=False)

    def digested_index(self, diff_id: Digest) -> LayerIndex:
        """As ``index``, but read anew if the one at hand has no digests of files and the one on disk does."""
        index = self.index(diff_id)
        path = self.path(diff_id) / INDEX_NAME
        if index.digests is None and path.is_file() and LayerIndex.has_digests(path):
            self.forget(diff_id)
            index = self.index(diff_id)
        return index

    def tar(self, diff_id: Digest, *, size: int | None = None) -> Path:
        """The uncompressed tar of a layer; one that is missing, or not of this size, is rebuilt first. NotFound."""
        path = self.path(diff_id) / TAR_NAME
        if not path.is_file() or (size is not None and path.stat().st_size != size):
            self._mend(diff_id)
        return path

    def source(self, diff_id: Digest) -> TarSource:
        """Where the content of the layer's files is read from; a tar that is not whole is rebuilt first."""
        index = self.index(diff_id)
        size = index.tar_size
        return TarSource(str(diff_id), lambda: self.tar(diff_id, size=size), index.digests)

    def tree(self, diff_ids: Sequence[Digest], *, limits: Limits = DEFAULT_LIMITS) -> MergedTree:
        """The merged tree of a stack of layers, bottom first.

        The one that was asked for last is kept; of a stack that stands on it only the layers above are applied.
        """
        wanted = tuple(diff_ids)
        with self._lock:
            kept, tree = self._tree
        if tree.limits != limits or kept != wanted[: len(kept)]:
            kept, tree = (), MergedTree(limits=limits)
        for diff_id in wanted[len(kept) :]:
            tree = tree.apply(self.index(diff_id), self.source(diff_id))
        with self._lock:
            self._tree = (wanted, tree)
        return tree

    def trees(self, diff_ids: Sequence[Digest], *, limits: Limits = DEFAULT_LIMITS) -> list[MergedTree]:
        """The merged tree of every prefix of a stack of layers, the shortest first."""
        trees: list[MergedTree] = []
        tree = MergedTree(limits=limits)
        for diff_id in diff_ids:
            tree = tree.apply(self.index(diff_id), self.source(diff_id))
            trees.append(tree)
        return trees

    def add_file_digests(self, diff_id: Digest) -> bool:
        """Put the digests of files into the index of a layer that lacks them, atomically; whether it lacked them.

        The whole tar is read, and checked against the diff_id. Raises Integrity for one that is damaged.
        """
        index = self.digested_index(diff_id)
        if index.digests is not None:
            return False
        files, whole = FileHasher(), ThreadedHasher()
        for entry in sorted(index.entries, key=lambda entry: entry.offset):
            if has_digest(entry):
                files.begin(entry.offset, entry.size)
        path = self.path(diff_id) / INDEX_NAME
        try:
            with os_errors(f"layer {diff_id}"), open(self.source(diff_id).open_tar(), "rb", buffering=0) as tar:
                while data := tar.read(_CHUNK):
                    whole.update(data)
                    files.put(data)
                if whole.digest() != diff_id:
                    raise Integrity("the stored tar is damaged", code="layer-damaged", layer=str(diff_id))
                write_atomic(path, with_digests(path.read_bytes(), files.finish()))
        finally:
            whole.close()
            files.stop()
        self.forget(diff_id)
        return True

    def forget(self, diff_id: Digest) -> None:
        """Drop what is remembered of a layer whose directory is gone."""
        with self._lock:
            self._recent.pop(diff_id, None)
            self._alive.pop(diff_id, None)
            if diff_id in self._tree[0]:
                self._tree = ((), MergedTree())

    def walk(self) -> Iterator[Digest]:
        """The diff_ids that have a directory here."""
        if self._root.is_dir():
            for name in sorted(os.listdir(self._root)):
                if len(name) == 64:
                    yield Digest("sha256", name)

    def _load(self, diff_id: Digest) -> LayerIndex:
        path = self.path(diff_id) / INDEX_NAME
        try:
            index = LayerIndex.load(path)
            if index.diff_id == diff_id:
                return index
        except Integrity:
            pass
        self._mend(diff_id)
        return LayerIndex.load(path)

    def mend(self, diff_id: Digest) -> None:
        """Make a layer that was found damaged anew. Raises NotFound, Integrity if there is nothing to make it of."""
        self._mend(diff_id)

    def _mend(self, diff_id: Digest) -> None:
        if self._rebuild is None:
            raise NotFound("the layer is not in the store", code="layer-not-found", layer=str(diff_id))
        self._rebuild(diff_id)
