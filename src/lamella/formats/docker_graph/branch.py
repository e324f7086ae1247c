"""A writable branch of 2013, ``rw``: the form that it is in, and what is kept beside it (``.rw.union``).

AUFS reads whiteouts as files, overlays as devices, and a copy is a whole tree: a branch is brought into the form of the
driver that mounts it next, and says the same in each.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lamella._sys.files import drop_temporaries, fsync_dir, os_errors, remove_tree, sync_tree, write_atomic
from lamella._sys.locks import DirectoryLock
from lamella._sys.syscalls import RENAME_EXCHANGE, renameat2
from lamella.archive import whiteouts
from lamella.errors import InvalidInput, NotFound
from lamella.formats.docker_graph.layout import read_file
from lamella.formats.docker_graph.stacks import Stacks
from lamella.layers.aufs import branch_trees
from lamella.layers.erofs import write_erofs
from lamella.layers.extract import dress_directory, extract
from lamella.layers.scan import scan
from lamella.layers.tree import MergedTree
from lamella.mounts import image_mounts
from lamella.mounts import mount as mounting
from lamella.mounts.model import Driver, ErofsImage, Form, Mount
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import Progress

STATE_LIMIT = 64 << 10
"""Bytes of a file that says how something is mounted."""
_OVERLAYS = {Form.OVERLAY: b"trusted.overlay.opaque", Form.OVERLAY_USER: b"user.overlay.opaque"}


class Branch:
    """A writable branch and what is kept beside it, in the directory ``side``."""

    def __init__(self, rw: Path) -> None:
        self.rw = rw
        self.side = rw.with_name(f".{rw.name}.union")

    def make(self) -> None:
        """Make the branch where it is missing; what was noted of an earlier one of its name does not count for it."""
        with os_errors(str(self.rw)):
            self.side.mkdir(mode=0o700, exist_ok=True)
            with self.held(), suppress(FileExistsError):
                self.rw.mkdir(mode=0o755)
                (self.side / "form").unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the branch: of those who mount it, read it or clear up after it, one at a time does.

        One that was never mounted, and has nothing beside it, cannot be held.
        """
        lock = DirectoryLock(self.side)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @property
    def form(self) -> Form:
        """The form it is in: as noted when it was mounted, else as what lies in it tells."""
        with os_errors(str(self.rw)):
            noted = self._noted()
            if len(noted) == 1:
                return next(iter(noted.values()))
            return noted.get(self.rw.stat().st_ino) or _form_of(self.rw)

    def trees(
        self, layers: Sequence[Path], form: Form, limits: Limits = DEFAULT_LIMITS
    ) -> tuple[MergedTree, MergedTree]:
        """The merged trees of ``layers`` (child first), and of them under the branch, which is in ``form``."""
        if form is Form.AUFS:
            return branch_trees(layers, self.rw, limits=limits)
        below = branch_trees(layers, None, limits=limits)[0]
        found = scan(self.rw, form, limits=limits)
        return below, below.apply(found.index, found.source, complete=form is Form.PLAIN)

    def become(self, form: Form, layers: Sequence[Path]) -> None:
        """Bring the branch into a form that a driver writes; what it says stays the same. Atomic."""
        with os_errors(str(self.side)):
            fresh = self.side / "fresh"
            remove_tree(fresh)
            if self._is_new():
                # A whole tree starts as a branch that changes nothing.
                first = Form.AUFS if form is Form.PLAIN else form
                dress_directory(self.rw, branch_trees(layers, None)[0].root.entry, first)
                self._note({self.rw.stat().st_ino: first})
            have = self.form
            if have is form:
                self._note({self.rw.stat().st_ino: form})
                return
            below, tree = self.trees(layers, have)
            fresh.mkdir(mode=0o755)
            extract(None if form is Form.PLAIN else below, tree, fresh, form)
            sync_tree(fresh)
            self._exchange(fresh, form)
            remove_tree(fresh)

    def _is_new(self) -> bool:
        """Whether nothing was ever written: an empty one that was mounted may say that all is gone."""
        with os.scandir(self.rw) as entries:
            return next(entries, None) is None and self.rw.stat().st_ino not in self._noted()

    def _exchange(self, fresh: Path, form: Form) -> None:
        """Put ``fresh`` in the place of the branch: which of the two forms is right then follows from which it is."""
        self._note({self.rw.stat().st_ino: self.form, fresh.stat().st_ino: form})
        renameat2(os.fsencode(fresh), os.fsencode(self.rw), RENAME_EXCHANGE)
        fsync_dir(self.rw.parent)
        fsync_dir(self.side)
        self._note({self.rw.stat().st_ino: form})

    def _note(self, forms: dict[int, Form]) -> None:
        text = "".join(f"{inode} {form.value}\n" for inode, form in forms.items())
        write_atomic(self.side / "form", text.encode(), mode=0o600)

    def _noted(self) -> dict[int, Form]:
        """The form of each directory that may be the branch, by its inode number."""
        try:
            lines = read_file(self.side / "form", STATE_LIMIT).decode().splitlines()
            return {int(inode): Form(form) for inode, _, form in (line.partition(" ") for line in lines)}
        except (NotFound, ValueError):
            return {}

    def note_place(self, root: Path) -> None:
        """Note where it is about to be mounted."""
        write_atomic(self.side / "place", os.path.realpath(os.fsencode(root)), mode=0o600, durable=False)

    def is_noted_at(self, place: Path) -> bool:
        """Whether that is the place that was noted."""
        try:
            return read_file(self.side / "place", STATE_LIMIT) == os.fsencode(place)
        except (NotFound, InvalidInput):
            return False

    def release(self) -> None:
        """Remove what only a mount needs, and what those left who were killed."""
        mounting.clear_probes(self.side)
        with os_errors(str(self.side)):
            self._drop_image()
            for name in ("form", "place"):
                drop_temporaries(self.side / name)
            for name in ("lowers", "work", "fresh", "place"):
                remove_tree(self.side / name)

    def mount(self, driver: Driver, layers: Sequence[Path], progress: Progress) -> Mount:
        """What to mount; what ``driver`` cannot read of the layers is translated first."""
        if driver.form is Form.PLAIN:
            return Mount(driver.name, (), self.rw)
        if driver.form is Form.AUFS:
            return Mount(driver.name, tuple(layers), self.rw)
        with os_errors(str(self.side)):
            work = self.side / "work"
            remove_tree(work)
            work.mkdir(mode=0o700)
            self._drop_image()
            if driver.in_place:
                return Mount(driver.name, (), self.rw, work, self._image(layers, driver.form, progress))
            lowers = self._translated(layers, driver.form, progress)
        return Mount(driver.name, tuple(reversed(lowers)), self.rw, work)

    def _image(self, layers: Sequence[Path], form: Form, progress: Progress) -> ErofsImage:
        """The union of the layers as one image: the metadata, and beside it what the files hold."""
        directory = self.side / "image"
        metadata, content, at = (directory / name for name in ("metadata", "content", "mnt"))
        at.mkdir(mode=0o700, parents=True)
        with open(metadata, "xb") as out, open(content, "xb") as side:
            # Of an image of its own each time: an overlay notes in its upper by uuid and inode what it copied up.
            layout = write_erofs(branch_trees(layers, None)[0], out, side, form=form, uuid=uuid4().bytes)
        for note in layout.notes:
            progress.note(note)
        return ErofsImage(metadata, (content,) if layout.side_size else (), at)

    def _drop_image(self) -> None:
        """Remove the image that a mount stood on, which a killed process can have left mounted."""
        directory = self.side / "image"
        if directory.is_dir():
            image_mounts.drop(directory / "mnt")
            remove_tree(directory)

    def _translated(self, layers: Sequence[Path], form: Form, progress: Progress) -> list[Path]:
        """The layers for an overlay, bottom first: as they are where they hold no marks, else as copies that do."""
        copies = self.side / "lowers"
        remove_tree(copies)
        copies.mkdir(mode=0o700)
        result: list[Path] = []
        trees = Stacks()
        for number, layer in enumerate(reversed(layers)):
            if not _has_marks(layer):
                result.append(layer)
                continue
            stack = layers[len(layers) - 1 - number :]
            below, tree = trees.tree(stack[1:]), trees.tree(stack)
            target = copies / f"{number:04d}"
            target.mkdir(mode=0o755)
            extract(below, tree, target, form, progress=progress, key=f"{number:04d}")
            result.append(target)
        return result


def _has_marks(layer: Path) -> bool:
    """Whether a branch holds what an overlay would not show as AUFS does: its whiteouts, or what looks like one's."""
    if _is_marked(os.fsencode(layer)):
        return True
    pending = [os.fsencode(layer)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(whiteouts.PREFIX) or _is_marked(entry.path):
                    return True
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif not entry.is_file(follow_symlinks=False) and _is_overlay_whiteout(entry.path):
                    return True
    return False


def _is_marked(path: bytes) -> bool:
    """Whether a file has an xattr that an overlay takes for its own."""
    try:
        return any(".overlay." in name for name in os.listxattr(path, follow_symlinks=False))
    except OSError:  # no xattrs here, or none that we may see
        return False


def _is_overlay_whiteout(path: bytes) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _form_of(rw: Path) -> Form:
    """The form that the marks in a branch are of; AUFS where there are none."""
    prefix = whiteouts.PREFIX
    for directory, names, files in os.walk(os.fsencode(rw)):
        for form, opaque in _OVERLAYS.items():
            with suppress(OSError):
                if os.getxattr(directory, opaque) == b"y":
                    return form
        for name in (*names, *files):
            if name.startswith(prefix) and name != prefix:
                return Form.AUFS
            if _is_overlay_whiteout(os.path.join(directory, name)):
                return Form.OVERLAY
    return Form.AUFS
