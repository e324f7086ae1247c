"""Mounting an image of a graph the way of 2013, ``rootfs`` over ``rw`` over its layers, and what ``rw`` changed.

Where the kernel has AUFS the call is that of 0.4.0, to the letter, and ``rw`` is an AUFS branch. Elsewhere the first
driver that stacks directories shows the same union: layers that hold whiteouts are translated, ``rw`` takes the form of
that driver. One that mounts images is given one that all layers are copied into, when it is asked for.
Which one, and what the driver needs, is kept beside ``rw`` (``.rw.union``); beside ``rootfs`` stands how it was mounted
(``.rootfs.mount``), so that any process can unmount it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lamella._sys import mountinfo
from lamella._sys.files import drop_temporaries, fsync_dir, os_errors, remove_tree, sync_tree, write_atomic
from lamella._sys.locks import DirectoryLock
from lamella._sys.syscalls import RENAME_EXCHANGE, renameat2
from lamella.archive import whiteouts
from lamella.errors import FailedPrecondition, InvalidInput, LamellaError, NotFound
from lamella.formats.docker_graph import gojson
from lamella.formats.docker_graph.layout import read_file
from lamella.formats.docker_graph.stacks import Stacks
from lamella.layers.aufs import branch_trees
from lamella.layers.compare import Change, compare
from lamella.layers.erofs import write_erofs
from lamella.layers.extract import dress_directory, extract
from lamella.layers.scan import scan
from lamella.layers.tree import MergedTree
from lamella.layers.write import write_layer
from lamella.mounts import image_mounts
from lamella.mounts import mount as mounting
from lamella.mounts.checks import record
from lamella.mounts.model import Driver, ErofsImage, Form, Mount, Mounted
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_OVERLAYS = {Form.OVERLAY: b"trusted.overlay.opaque", Form.OVERLAY_USER: b"user.overlay.opaque"}
_STATE_LIMIT = 64 << 10


def mount(
    layers: Sequence[Path],
    root: Path,
    rw: Path,
    *,
    driver: str | None = None,
    progress: Progress = NO_PROGRESS,
) -> Mounted:
    """Mount ``layers`` (AUFS branches, child first) and the writable branch ``rw`` over them at ``root``.

    ``root`` and ``rw`` are made (0755) where they are missing. ``driver`` forces one. The tree is at the ``root`` of
    what is returned. Of many that mount at one ``root``, or over one ``rw``, one does; a failure leaves no mount, and
    no ``root`` that was not there. Raises FailedPrecondition when something is mounted at ``root`` already, or
    ``rw`` is mounted anywhere, InvalidInput when one of them lies in the other, NotFound when there is no layer, and
    what the driver raises.
    """
    _refuse_mounted(root)
    if not layers:
        raise NotFound(f"No layer found for {root}", code="graph-no-layers")
    _check_apart(root, rw)
    branch = Branch(rw)
    branch.make()
    chosen = choose(branch.side, driver)
    with _place(root), branch.held():
        _refuse_mounted(root)
        drop_temporaries(_record_of(root))
        if mounting.upper_in_use(rw) is not None:
            raise FailedPrecondition("the writable branch is mounted already", code="snapshot-mounted", subject=str(rw))
        try:
            branch.become(chosen.form, layers)
            branch.note_place(root)
            _write_record(root, rw, None)
            done = mounting.perform(branch.mount(chosen, layers, progress), root)
            try:
                _write_record(root, rw, done)
            except BaseException:
                mounting.unmount(done)
                raise
        except BaseException:
            with suppress(LamellaError, OSError):
                _record_of(root).unlink(missing_ok=True)
                branch.release()
            raise
    return done


def _refuse_mounted(root: Path) -> None:
    if mounted(root):
        raise FailedPrecondition(f"{root} is already mounted", code="graph-already-mounted")


def _check_apart(root: Path, rw: Path) -> None:
    """Raise InvalidInput where one of the two would lie in the other: neither could be cleared up without it."""
    at, written = root.resolve(), rw.resolve()
    if at.is_relative_to(written) or written.is_relative_to(at):
        text = f"the writable branch {rw} and the mount point lie in each other"
        raise InvalidInput(text, code="graph-mount-places", subject=str(root))


@contextmanager
def _place(root: Path) -> Iterator[None]:
    """Hold the mount point, made where it is missing; after a failure it is removed again."""
    with os_errors(str(root)):
        while True:
            try:
                root.mkdir(mode=0o755)
                made = True
            except FileExistsError:
                if root.is_symlink() and not root.exists():
                    raise
                made = False
            lock = DirectoryLock(root.resolve())
            if lock.acquire():
                break  # else somebody unmounted there meanwhile, and removed it
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                root.rmdir()
        raise
    finally:
        lock.release()


def choose(at: Path, forced: str | None = None) -> Driver:
    """The driver for a union at ``at``: AUFS where the kernel has it, else the first that stacks directories."""
    if forced is None:
        aufs = mounting.driver("aufs")
        if aufs.probe(at).ok:
            return aufs
    return mounting.choose(at, forced, in_place=False)


def mounted(root: Path) -> bool:
    """Whether something is mounted at ``root``; False when there is no such path."""
    with os_errors(str(root)):
        try:
            place = root.resolve(strict=True)
        except FileNotFoundError:
            return False
        if mountinfo.mount_at(place) is not None:
            return True
    found, _ = _read_record(root)
    return found is not None and mounting.is_mounted(found)


def unmount(root: Path) -> None:
    """Unmount what is mounted at ``root`` and remove the mount point, unless something lay there before.

    Raises FailedPrecondition when nothing is mounted there, Conflict while it is in use: then it stays mounted.
    """
    found, rw = _read_record(root)
    if found is None or not mounting.is_mounted(found):
        if not mounted(root):
            raise FailedPrecondition(f"Umount: Failed to umount {root}: not mounted", code="graph-not-mounted")
        found = _foreign(root)
    place = found.target
    mounting.unmount(found)
    lock = DirectoryLock(place)
    try:
        if lock.acquire() and mountinfo.mount_at(place) is None and _read_record(root)[0] in (None, found):
            with os_errors(str(root)):
                _record_of(root).unlink(missing_ok=True)
                with os.scandir(place) as entries:
                    empty = next(entries, None) is None
                if empty:
                    root.rmdir()  # where another namespace has a copy of the mount, that goes too
    finally:
        lock.release()
    if rw is not None:
        branch = Branch(rw)
        with branch.held():
            if not rw.is_dir() or mounting.upper_in_use(rw) is None:
                branch.release()


def changes(
    layers: Sequence[Path], rw: Path, *, form: Form | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[Change]:
    """What the writable branch ``rw`` changes over ``layers`` (child first), sorted by path; the root is none of it.

    ``form`` says how ``rw`` marks what is deleted; without it, what mounted it last, or what lies in it, does. May be
    asked while it is mounted. Raises NotFound when ``rw`` or a layer is missing.
    """
    with os_errors(str(rw)):
        rw.stat()
    branch = Branch(rw)
    with branch.held():
        below, tree = _trees(layers, rw, form or branch.form, limits)
        return [change for change in compare(below, tree) if change.path]


def export(
    layers: Sequence[Path],
    rw: Path,
    write: Callable[[bytes], object],
    *,
    form: Form | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Write what ``changes`` tells, and what changed of the root, as the uncompressed tar of a layer: a commit's."""
    branch = Branch(rw)
    with branch.held():
        below, tree = _trees(layers, rw, form or branch.form, limits)
        write_layer(below, tree, compare(below, tree), write)


def render_changes(found: Sequence[Change]) -> bytes:
    """The changes as 0.4.0 sent them: ``[{"Path":"/p","Kind":n},...]``, ``null`` when there are none."""
    members = [
        {"Path": "/" + change.path.decode("utf-8", "surrogateescape"), "Kind": int(change.kind)} for change in found
    ]
    return gojson.render(members or None)


def _trees(layers: Sequence[Path], rw: Path, form: Form, limits: Limits) -> tuple[MergedTree, MergedTree]:
    if form is Form.AUFS:
        return branch_trees(layers, rw, limits=limits)
    below = branch_trees(layers, None, limits=limits)[0]
    found = scan(rw, form, limits=limits)
    return below, below.apply(found.index, found.source, complete=form is Form.PLAIN)


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
            below, tree = _trees(layers, self.rw, have, DEFAULT_LIMITS)
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
            lines = read_file(self.side / "form", _STATE_LIMIT).decode().splitlines()
            return {int(inode): Form(form) for inode, _, form in (line.partition(" ") for line in lines)}
        except (NotFound, ValueError):
            return {}

    def note_place(self, root: Path) -> None:
        """Note where it is about to be mounted."""
        write_atomic(self.side / "place", os.path.realpath(os.fsencode(root)), mode=0o600, durable=False)

    def is_noted_at(self, place: Path) -> bool:
        """Whether that is the place that was noted."""
        try:
            return read_file(self.side / "place", _STATE_LIMIT) == os.fsencode(place)
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


def _record_of(root: Path) -> Path:
    return root.with_name(f".{root.name}.mount")


def _write_record(root: Path, rw: Path, done: Mounted | None) -> None:
    """Note that ``root`` is mounted (None: about to be) with the branch ``rw``; no mount outlives a power cut."""
    fields = {"mount": done and done.to_json(), "rw": os.path.abspath(rw)}
    write_atomic(_record_of(root), json.dumps(fields).encode(), mode=0o600, durable=False)


def _read_record(root: Path) -> tuple[Mounted | None, Path | None]:
    """How ``root`` was mounted, and over which branch, if that is known.

    A record counts for its own place only, and for a branch that says the same: nobody who writes one has something
    else unmounted, or removed. Who was killed before it was whole has left the branch, which leads to the mount.
    """
    try:
        fields = json.loads(read_file(_record_of(root), _STATE_LIMIT))
        rw, text = Path(str(fields["rw"])), fields["mount"]
        found = mounting.live_mount(rw) if text is None else Mounted.from_json(str(text))
    except (NotFound, InvalidInput, ValueError, KeyError, TypeError):
        return None, None
    if found is None or found.target != Path(os.path.realpath(root)):
        return None, None
    return found, rw if Branch(rw).is_noted_at(found.target) else None


def _foreign(root: Path) -> Mounted:
    """The record of a mount that somebody else made."""
    place = root.resolve()
    point = mountinfo.mount_at(place)
    kind = "aufs" if point is not None and point.fs_type == "aufs" else "overlay"
    if point is None or (kind == "overlay" and point.fs_type != "overlay"):
        kind = "copy"
    return record(kind, place)
