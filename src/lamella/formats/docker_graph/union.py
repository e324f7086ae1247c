"""Mounting an image of a graph the way of 2013, ``rootfs`` over ``rw`` over its layers, and what ``rw`` changed.

Where the kernel has AUFS the call is that of 0.4.0, to the letter, and ``rw`` is an AUFS branch. Elsewhere the first
driver that stacks directories shows the same union: layers that hold whiteouts are translated, ``rw`` takes the form of
that driver (see ``branch``). One that mounts images is given one that all layers are copied into, when it is asked for.
Beside ``rootfs`` stands how it was mounted (``.rootfs.mount``), so that any process can unmount it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella._sys import mountinfo
from lamella._sys.files import drop_temporaries, os_errors, write_atomic
from lamella._sys.locks import DirectoryLock
from lamella.errors import FailedPrecondition, InvalidInput, LamellaError, NotFound
from lamella.formats.docker_graph import gojson
from lamella.formats.docker_graph.branch import STATE_LIMIT, Branch
from lamella.formats.docker_graph.layout import read_file
from lamella.layers.compare import Change, compare
from lamella.layers.write import write_layer
from lamella.mounts import mount as mounting
from lamella.mounts.checks import record
from lamella.mounts.model import Driver, Form, Mounted
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress


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
        below, tree = branch.trees(layers, form or branch.form, limits)
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
        below, tree = branch.trees(layers, form or branch.form, limits)
        write_layer(below, tree, compare(below, tree), write)


def render_changes(found: Sequence[Change]) -> bytes:
    """The changes as 0.4.0 sent them: ``[{"Path":"/p","Kind":n},...]``, ``null`` when there are none."""
    members = [
        {"Path": "/" + change.path.decode("utf-8", "surrogateescape"), "Kind": int(change.kind)} for change in found
    ]
    return gojson.render(members or None)


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
        fields = json.loads(read_file(_record_of(root), STATE_LIMIT))
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
