"""Copying files: out of an image or a snapshot to the host or into a tar, and from any of these into a snapshot.

The rules are those of ``docker cp``: a file goes to the path that is named, or into it if that is a directory; a
directory becomes the path that is named, or goes into it if that is there already; with ``/.`` at its end, what is in
it goes there instead. Links are copied as links; ``follow`` copies what the named path leads to. Whatever an image
holds, no link in it is ever followed on the host, and no link in a snapshot leads out of the snapshot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lamella._sys.beneath import RootDir
from lamella._sys.files import os_errors
from lamella.errors import FailedPrecondition, InvalidInput, NotFound, printable
from lamella.layers.entry import NO_XATTRS, Entry, Kind, implied_directory
from lamella.layers.index import LayerIndex
from lamella.layers.ingest import INDEX_NAME, TAR_NAME, ingest_layer
from lamella.layers.paths import components, from_text
from lamella.layers.scan import scan
from lamella.layers.sources import HostSource, TarSource
from lamella.layers.tree import MergedTree, Node
from lamella.layers.view import TreeView
from lamella.layers.write import TimePolicy, write_tree
from lamella.mounts.checks import refuse_elsewhere
from lamella.mounts.model import Form
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.store.snapshot import Snapshot
from lamella.store.tree_writer import TreeWriter, Written

_LINKS = 40
"""As in the kernel: links followed to find where a path leads."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be copied: a node of a tree, and the name it has; without one, what is in the directory is meant."""

    tree: MergedTree
    node: Node
    name: bytes

    @property
    def is_directory(self) -> bool:
        """Whether a directory is to be copied, or what is in one."""
        return self.node.children is not None

    @property
    def size(self) -> int:
        """Bytes of content, each name counted."""
        total, stack = 0, [self.node]
        while stack:
            node = stack.pop()
            if node.children is not None:
                stack.extend(node.children.values())
            else:
                total += node.entry.size
        return total


# -- what to copy


def select(files: TreeView, path: str | bytes, *, follow: bool = False) -> Selection:
    """What is at ``path`` of an image or a snapshot. Raises NotFound, and InvalidInput for ``FILE/.``."""
    text = os.fsencode(path)
    wanted = from_text(text)
    insides = not wanted or text.endswith(b"/.") or text == b"."
    directory = insides or text.endswith(b"/")
    found, node = files.tree.resolve(wanted, follow=follow or directory)
    if directory and node.children is None:
        raise InvalidInput("not a directory", code="not-a-directory", entry=wanted)
    last = wanted.rpartition(b"/")[2]
    name = found.rpartition(b"/")[2] if last == b".." else last
    return Selection(files.tree, node, b"" if insides else name)


def select_host(
    path: str, *, follow: bool = False, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS
) -> Selection:
    """What is at ``path`` of the host. Raises NotFound, AccessDenied, Unsupported for a socket."""
    insides = path.endswith("/.") or path in (".", "/")
    given = Path(os.path.realpath(path)) if follow or path.endswith("/") or insides else _absolute(path)
    with os_errors(path):
        info = os.lstat(given)
    if stat.S_ISDIR(info.st_mode):
        found = scan(given, Form.PLAIN, limits=limits, progress=progress)
        tree = MergedTree(limits=limits).apply(found.index, found.source, complete=True)
        return Selection(tree, tree.root, b"" if insides else os.fsencode(_absolute(path).name))
    if path.endswith("/") or insides:
        raise InvalidInput("not a directory", code="path-invalid", subject=path)
    name = os.fsencode(given.name)
    tree = MergedTree(limits=limits).apply(LayerIndex.of([_host_entry(given, name, info)]), HostSource(given.parent))
    return Selection(tree, tree.lookup(name, follow=False), os.fsencode(_absolute(path).name))


def _absolute(path: str) -> Path:
    """The path with the directory above it resolved, but not what it names."""
    whole = Path(os.path.abspath(path))
    return Path(os.path.realpath(Path(path).parent)) / whole.name if Path(path).name not in ("", "..") else whole


_KINDS = {stat.S_IFREG: Kind.REGULAR, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFCHR: Kind.CHARDEV,
          stat.S_IFBLK: Kind.BLOCKDEV, stat.S_IFIFO: Kind.FIFO}  # fmt: skip


def _host_entry(path: Path, name: bytes, info: os.stat_result) -> Entry:
    kind = _KINDS.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        raise InvalidInput("a socket cannot be copied", code="copy-socket", subject=str(path))
    device = kind in (Kind.CHARDEV, Kind.BLOCKDEV)
    with os_errors(str(path)):
        link = os.fsencode(os.readlink(path)) if kind == Kind.SYMLINK else b""
        xattrs = {
            os.fsencode(key): os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
    return Entry(
        name, kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns,
        info.st_size if kind == Kind.REGULAR else 0, 0, link,
        os.major(info.st_rdev) if device else 0, os.minor(info.st_rdev) if device else 0, xattrs or NO_XATTRS,
    )  # fmt: skip


def select_tar(
    reader: Reader, staging: Path, *, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS
) -> Selection:
    """What is in the tar that ``reader`` delivers, in any compression; it is kept in the empty directory ``staging``.

    Raises what reading a layer raises: Integrity for a broken tar, InvalidInput for names that lead outside.
    """
    progress.start("tar", "reading")
    ingest_layer(reader, staging, lambda _: None, label="standard input", limits=limits, progress=progress, key="tar")
    progress.done("tar")
    index = LayerIndex.load(staging / INDEX_NAME)
    tree = MergedTree(limits=limits).apply(index, TarSource("standard input", lambda: staging / TAR_NAME))
    return Selection(tree, tree.root, b"")


# -- where to


def to_host(chosen: Selection, destination: str, *, progress: Progress = NO_PROGRESS) -> Written:
    """Copy to ``destination`` on the host.

    The user's own links on the way to it are followed; below it nothing is. Raises NotFound if the directory above it
    is not there, InvalidInput for a directory over a file, FailedPrecondition for what is neither file nor directory.
    """
    with os_errors(destination):
        target = Path(os.path.realpath(destination))
        mode = _mode_of(target)
        inside = mode is not None and stat.S_ISDIR(mode)
        _check_target(chosen, destination, mode, must_be_directory=destination.endswith(("/", "/.")))
        with RootDir(target if inside else target.parent) as root:
            return _write(chosen, root, b"" if inside else os.fsencode(target.name), destination, progress)


def to_snapshot(chosen: Selection, snapshot: Snapshot, path: bytes, *, progress: Progress = NO_PROGRESS) -> Written:
    """Copy into a snapshot, which is mounted for it if it is not; links on the way to ``path`` lead inside it only."""
    if not snapshot.record.writable:
        raise FailedPrecondition("the snapshot is read-only", code="snapshot-read-only", subject=snapshot.key)
    shown = f"{snapshot.key}:{printable(path)}"
    with _mounted(snapshot) as top, os_errors(shown), RootDir(top) as whole:
        at = _led_to(whole, path)
        try:
            mode: int | None = whole.stat(at, follow=True).st_mode
        except FileNotFoundError:
            mode = None
        inside = mode is not None and stat.S_ISDIR(mode)
        _check_target(chosen, shown, mode, must_be_directory=path.endswith((b"/", b"/.")))
        parent, _, name = (at, b"", b"") if inside else at.rstrip(b"/").rpartition(b"/")
        fd = whole.open(parent, os.O_PATH | os.O_DIRECTORY, links="in_root")
        try:
            root = RootDir(fd)
        finally:
            os.close(fd)
        with root:
            return _write(chosen, root, name, shown, progress)


def to_tar(
    chosen: Selection, write: Callable[[bytes], object], *, clamp: int | None = None, progress: Progress = NO_PROGRESS
) -> None:
    """Write an uncompressed tar with one name in it, or what is in the directory. Same files, same bytes."""
    tree = MergedTree(limits=chosen.tree.limits)
    tree.sources = chosen.tree.sources
    names = {chosen.name: chosen.node} if chosen.name else chosen.node.children
    tree.root = Node(implied_directory(b""), 0, names, None)
    progress.start("tar", "copying", total=chosen.size)
    write_tree(tree, write, top=False, times=TimePolicy(clamp), progress=progress, key="tar")
    progress.done("tar")


def _write(chosen: Selection, root: RootDir, name: bytes, shown: str, progress: Progress) -> Written:
    """Write below ``root``: as ``name``, or, without one, into it."""
    writer = TreeWriter(chosen.tree, root, progress=progress, key=shown)
    progress.start(shown, "copying", total=chosen.size)
    try:
        if name:
            writer.write(chosen.node, name)
        elif chosen.name:
            writer.write(chosen.node, chosen.name)
        else:
            writer.write_children(chosen.node)
    except BaseException:
        progress.done(shown, "failed")
        raise
    progress.done(shown)
    return writer.written


def _mode_of(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None


def _check_target(chosen: Selection, shown: str, mode: int | None, *, must_be_directory: bool) -> None:
    if mode is None:
        if must_be_directory and not chosen.is_directory:
            raise NotFound("the directory is not there", code="copy-no-directory", subject=shown)
    elif not stat.S_ISDIR(mode):
        if chosen.is_directory or must_be_directory:
            raise InvalidInput("it is no directory", code="copy-over-file", subject=shown)
        if not stat.S_ISREG(mode):
            raise FailedPrecondition(
                "it is no regular file and is not replaced", code="copy-over-special", subject=shown
            )


def _led_to(root: RootDir, path: bytes) -> bytes:
    """Where ``path`` leads when its last component is a link: perhaps to what is not there yet."""
    at = b"/".join(components(from_text(path)))
    for _ in range(_LINKS):
        try:
            if not stat.S_ISLNK(root.stat(at, follow=False).st_mode):
                return at
        except FileNotFoundError:
            return at
        target = root.readlink(at)
        at = target if target.startswith(b"/") else at.rpartition(b"/")[0] + b"/" + target
    raise InvalidInput("too many levels of symbolic links", code="link-loop", entry=path)


@contextmanager
def _mounted(snapshot: Snapshot) -> Iterator[Path]:
    """The directory where the snapshot's files are, mounted while the block runs if it is not."""
    mounted = snapshot.mounted
    if mounted is None:
        with snapshot.mount() as top:
            yield top
        return
    if not mounted.holder:
        refuse_elsewhere(mounted)
    yield mounted.root
