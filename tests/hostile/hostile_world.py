"""The store under attack, what lies beside it, and the proof that an attack changed nothing.

A world is one store with one good image in it, a canary tree outside of it that attacks aim at, and a temporary
directory of its own. ``unharmed`` compares everything before and after.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from build import directory, file, hardlink, layout, symlink, tar

from lamella import Limits, Snapshot, Store
from lamella._sys.files import remove_tree
from lamella.errors import Conflict, FailedPrecondition
from lamella.mounts import mount as mounting

GOOD = "good:1"
_GOOD_LAYERS = (
    tar(directory(b"bin"), file(b"bin/sh", b"#!", mode=0o755), hardlink(b"bin/ash", b"bin/sh"), file(b"motd", b"one")),
    tar(symlink(b"sh", b"bin/sh"), file(b".wh.motd"), file(b"bin/cat", b"meow")),
)
_CONNECTIONS = 16
_KEPT = ("docker.io/library/good:1", "docker.io/library/kept:1")


@contextmanager
def a_place(disk: Path) -> Iterator[Path]:
    """A directory for a world: in memory where overlays can stand there, for nothing here is about durability.

    ``LAMELLA_TEST_TMPFS=0`` keeps it on ``disk``.
    """
    memory = Path("/dev/shm")
    wanted = os.environ.get("LAMELLA_TEST_TMPFS", "1") != "0" and os.access(memory, os.W_OK)
    place = Path(tempfile.mkdtemp(prefix="lamella-hostile-", dir=memory if wanted else disk))
    if wanted and not _can_stand(place):
        place.rmdir()
        place = Path(tempfile.mkdtemp(prefix="lamella-hostile-", dir=disk))
    try:
        yield place
    finally:
        remove_tree(place)


def _can_stand(place: Path) -> bool:
    """Whether a file system has what layers may bring, and unions need."""
    probe = place / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.lamella", b"1")
        return os.geteuid() != 0 or mounting.driver("overlay").probe(place).ok
    except OSError:
        return False
    finally:
        probe.unlink()


class World:
    """A store in ``place``, which must be on a file system that overlays can stand on."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.canary = place / "canary"
        self._numbers = iter(range(1_000_000))
        _make_canary(self.canary)
        (place / "tmp").mkdir()
        self._old_temporary, tempfile.tempdir = tempfile.tempdir, str(place / "tmp")
        self.store = Store.open(place / "store")
        with self.scratch() as scratch:
            self.store.load(layout(*_GOOD_LAYERS, name=GOOD).write(scratch / "good"))
        self.store.tag(GOOD, "kept:1")
        self.store.prepare(GOOD, "first", driver="copy").remove()
        for name in ("trees", "rootfs"):
            (place / "store" / name).mkdir(exist_ok=True)

    def close(self) -> None:
        """Close the store; the place is the caller's to remove."""
        self.store.close()
        tempfile.tempdir = self._old_temporary

    @contextmanager
    def opened(self, limits: Limits | None) -> Iterator[Store]:
        """The store, or with ``limits`` the same opened once more with these."""
        if limits is None:
            yield self.store
            return
        with Store.open(self.place / "store", limits=limits) as store:
            yield store

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for the files of one attack."""
        place = self.place / f"case-{next(self._numbers)}"
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place)

    def load_another(self) -> None:
        """Load a good image that is not here yet, on the layers of one that is, see that it is whole, and remove it."""
        own = tar(file(b"number", b"%d" % next(self._numbers)))
        with self.scratch() as scratch:
            self.store.load(layout(*_GOOD_LAYERS, own, name="another:1").write(scratch / "good"))
        image = self.store.image("another:1")
        assert [info.path for info in image.walk()] == [
            b"",
            b"bin",
            b"bin/ash",
            b"bin/cat",
            b"bin/sh",
            b"number",
            b"sh",
        ]
        assert image.open("/sh").read() == b"#!"
        self.store.remove(["another:1"])

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Assert that what runs inside leaves everything as it was, here and on the host, and the store in working order."""
        before = self.state()
        yield
        assert_equal(before, self.state())
        self.load_another()
        assert_equal(before, self.state())

    def state(self) -> dict[str, Any]:
        """Everything that must not change."""
        return {
            "canary": _told(self.canary),
            "beside": sorted(p.name for p in self.place.iterdir() if not p.name.startswith("case-")),
            "host": [_stat(path) for path in ("/etc/passwd", "/etc/hostname", "/dev/null") if os.path.exists(path)],
            "temporary": sorted(os.listdir(self.place / "tmp")),
            "descriptors": sorted(_descriptors()),
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "mounts": [line for line in _mounts() if str(self.place) in line],
            **self.holdings(),
        }

    def holdings(self) -> dict[str, Any]:
        """What the store holds: the catalog's rows and the files on disk."""
        root, catalog = self.place / "store", self.store.catalog
        index = json.loads((root / "index.json").read_bytes())
        index.pop("annotations")
        ingest = [path.name for path in (root / "ingest").iterdir()]
        return {
            "root": sorted(path.name for path in root.iterdir() if not path.name.startswith("catalog.db-")),
            "names": [(record.name, str(record.target)) for record in catalog.names()],
            "documents": [str(document.digest) for document in catalog.documents()],
            "images": sorted(str(image.manifest) for image in catalog.images()),
            "snapshots": [record.key for record in catalog.snapshots()],
            "leases": [record.purpose for record in catalog.leases()],
            "blobs": _listing(root / "blobs"),
            "layers": _listing(root / "layers"),
            "trees": _listing(root / "trees", depth=2),
            "rootfs": _listing(root / "rootfs", depth=1),
            "snapshot directories": _listing(root / "snapshots", depth=1),
            "index.json": index,
            "ingest": sorted(name for name in ingest if not name.endswith(".lock")),
        }

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot, mounted or not.

        A process of somebody else that went into a mount namespace of its own meanwhile may keep a copy of the mount
        for as long as it lives: that is waited for.
        """
        for _ in range(600):
            try:
                snapshot.remove(force=True)
                return
            except (Conflict, FailedPrecondition) as error:
                if error.code not in ("mount-elsewhere", "snapshot-mounted"):
                    raise
            time.sleep(0.1)
        snapshot.remove(force=True)

    def clear(self) -> None:
        """Remove what a case that succeeded brought: its snapshots, its names, and then what nothing needs."""
        names = [record.name for record in self.store.catalog.names() if record.name not in _KEPT]
        for snapshot in self.store.snapshots():
            self.remove(snapshot)
        for name in names:
            self.store.catalog.remove_name(name)
        self.store.gc()
        self.store.sync_layout()


def assert_equal(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Fail with what changed."""
    changed = [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
    assert not changed, "\n".join(changed)


def _make_canary(canary: Path) -> None:
    """What attacks want to read, write, link to, delete or change the mode of."""
    (canary / "dir" / "inner").mkdir(parents=True)
    (canary / "passwd").write_text("root:host\n")
    (canary / "secret").write_text("only the host knows\n")
    (canary / "secret").chmod(0o600)
    (canary / "dir" / "file").write_text("a file of the host\n")
    (canary / "dir" / "inner" / "deep").write_text("deep\n")
    (canary / "link").symlink_to("passwd")
    os.link(canary / "secret", canary / "second")
    for path in [canary, *canary.rglob("*")]:
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def _told(root: Path) -> list[tuple[Any, ...]]:
    """All that can be told of a tree, down to link counts and change times."""
    found = []
    for path in sorted([root, *root.rglob("*")]):
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) else ""
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _names(path)}
        found.append((str(path), *_numbers(info), content, attributes))
    return found


def _names(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _stat(path: str) -> tuple[Any, ...]:
    return path, *_numbers(os.lstat(path))[:6]


def _numbers(info: os.stat_result) -> tuple[int, ...]:
    return (
        info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_rdev, info.st_size,
        info.st_mtime_ns, info.st_ctime_ns,
    )  # fmt: skip


def _listing(root: Path, *, depth: int | None = None) -> list[tuple[str, int]]:
    """The files below a directory with their sizes, no lock files; with ``depth``, the names down to there only."""
    if not root.is_dir():
        return []
    found = []
    for path in sorted(root.rglob("*") if depth is None else root.glob("/".join("*" * depth))):
        if not path.name.endswith(".lock") and (depth is not None or path.is_file()):
            found.append((str(path.relative_to(root)), 0 if depth is not None else path.stat().st_size))
    return found


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}").partition("[")[0])
        except OSError:
            continue
    # The catalog keeps a few connections for its next callers: as many as there were callers at once.
    kept = [target for target in found if "/catalog.db" in target]
    assert len(kept) <= _CONNECTIONS
    return [target for target in found if not target.startswith("/proc/") and target not in kept]


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
