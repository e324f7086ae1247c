"""Every operation that changes a store, by name, each on a store that already holds something.

As a program (``operations.py NAME ROOT INPUTS``) it prints ``done`` once the operation has returned, and not before:
``done`` is what must be there whatever happens next. A typed failure is its code on standard error and exit status 3.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lamella import LamellaError, Recipe, Snapshot, Store
from lamella.errors import FailedPrecondition
from lamella.layers.view import TreeView
from lamella.mounts import mount as mounting

MOMENT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
RECIPE = Recipe(author="somebody", created=MOMENT, clamp=1_700_000_000)
BIG = hashlib.shake_256(b"some bytes that do not compress").digest(150_000)
GARBAGE = b"what nothing needs\n"


DRIVERS = ("erofs", "overlay", "copy")
"""What the operations on snapshots are tried with: the ways that a process' end can interrupt differently."""


def drivers(at: Path) -> list[str]:
    """Those of the drivers that work at a directory."""
    return [name for name in DRIVERS if mounting.driver(name).probe(at).ok]


# -- what the operations work on


def write_inputs(place: Path) -> None:
    """Archives to import and to load."""
    place.mkdir()
    base = _tar([("etc/os-release", b"ID=test\n"), ("usr/big", BIG), ("var/log/old", b"old\n"), ("bin/tool", b"#!x\n")])
    (place / "base.tar.gz").write_bytes(gzip.compress(base, mtime=0))
    (place / "other.tar").write_bytes(_tar([("etc/os-release", b"ID=other\n"), ("usr/big", BIG[::-1])]))
    (place / "garbage.tar").write_bytes(_tar([("garbage", GARBAGE)]))
    _write_layout(place / "layout", base)


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files:
            for parent in reversed(list(map(str, Path(name).parents))[:-1]):
                _add(tar, parent, tarfile.DIRTYPE, mode=0o755)
            _add(tar, name, tarfile.REGTYPE, content, mode=0o644)
        if files[0][0] == "etc/os-release":
            _add(tar, "etc/link", tarfile.SYMTYPE, link="os-release")
            _add(tar, "etc/second", tarfile.LNKTYPE, link="etc/os-release")
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, content: bytes = b"", link: str = "", mode: int = 0o777) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, len(content), link, mode
    member.mtime = 1_600_000_000
    tar.addfile(member, io.BytesIO(content))


def _write_layout(layout: Path, base: bytes) -> None:
    """Two images, ``loaded:1`` and, for two platforms, ``loaded:2``; they share a layer that the store has not."""
    (layout / "blobs/sha256").mkdir(parents=True)
    lower = _tar([("etc/os-release", b"ID=loaded\n"), ("usr/big", BIG[5:])])
    upper = _tar([("etc/.wh.second", b""), ("usr/new", b"new\n")])
    one = _put_image(layout, [lower], "amd64")
    platforms = [_put_image(layout, [lower, upper], machine) for machine in ("amd64", "arm64")]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": platforms}
    two = _put(layout, index["mediaType"], json.dumps(index).encode())
    named = [
        {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
        for descriptor, name in ((one, "loaded:1"), (two, "loaded:2"))
    ]
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": named}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _put_image(layout: Path, tars: list[bytes], machine: str) -> dict[str, object]:
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
    }
    layer_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(layout, "application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": [_put(layout, layer_type, gzip.compress(tar, mtime=0)) for tar in tars],
    }
    descriptor = _put(layout, manifest["mediaType"], json.dumps(manifest).encode())
    return {**descriptor, "platform": {"architecture": machine, "os": "linux"}}


def _put(layout: Path, media_type: str, raw: bytes) -> dict[str, object]:
    digest = hashlib.sha256(raw).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(raw)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}


def fill(root: Path, inputs: Path) -> None:
    """Make the store that the operations start from."""
    with Store.open(root) as store:
        base = store.import_rootfs(inputs / "base.tar.gz", "base:1", recipe=RECIPE)
        store.import_rootfs(inputs / "garbage.tar", recipe=RECIPE)
        for driver in drivers(root):
            _change(driver, store.prepare(base, f"dev-{driver}", driver=driver))
            store.prepare(base, f"spare-{driver}", driver=driver)
        child = store.snapshot("dev-copy").commit("child:1", recipe=RECIPE)
        store.tag(child.id.hex, "moved:1")
        store.tag(base.id.hex, "moved:2")


def _change(driver: str, snapshot: Snapshot) -> None:
    if driver == "copy":
        _write_changes(snapshot.upper)
        return
    with snapshot.mount() as root:
        _write_changes(root)


def _write_changes(root: Path) -> None:
    (root / "etc/motd").write_text("hello\n")
    (root / "var/log/old").unlink()
    (root / "bin/tool").chmod(0o755)
    (root / "opt").mkdir()
    (root / "opt/big").write_bytes(BIG[1000:])


def copy_store(source: Path, target: Path) -> Path:
    """A copy of a store, for one experiment.

    What changed in a tree of the copy driver is told by change times, which nobody can set: ``ready`` has to be older
    than the tree.
    """
    for ready in source.glob("snapshots/*/ready"):
        copied = target / ready.relative_to(source)
        copied.parent.mkdir(parents=True, mode=0o700)
        copied.touch(mode=0o600)
    subprocess.run(["cp", "-a", "-n", "-T", source, target], check=True)
    return target


# -- the operations


def create(store: Store, inputs: Path) -> None:
    """Opening the store was all."""


def import_(store: Store, inputs: Path) -> None:
    store.import_rootfs(inputs / "other.tar", "imported:1", recipe=RECIPE)


def load(store: Store, inputs: Path) -> None:
    store.load(inputs / "layout")


def rmi(store: Store, inputs: Path) -> None:
    if store.exists("child:1"):
        store.remove(["child:1", "moved:1"])


def gc(store: Store, inputs: Path) -> None:
    store.gc()


def prune(store: Store, inputs: Path) -> None:
    store.prune(compressed=True, trees=True)


def restore(store: Store, inputs: Path) -> None:
    store.prune(compressed=True)
    store.restore_blobs()


def tag(store: Store, inputs: Path) -> None:
    store.tag("base:1", "moved:1")


def commit(store: Store, driver: str) -> None:
    store.snapshot(f"dev-{driver}").commit("child:2", recipe=replace(RECIPE, comment="second"))


def prepare(store: Store, driver: str) -> None:
    if store.catalog.snapshot("fresh") is None:
        store.prepare("child:1", "fresh", driver=driver)


def fork(store: Store, driver: str) -> None:
    if store.catalog.snapshot("forked") is None:
        store.fork(f"dev-{driver}", "forked")


def rollback(store: Store, driver: str) -> None:
    store.snapshot(f"dev-{driver}").roll_back()


def remove_snapshot(store: Store, driver: str) -> None:
    if store.catalog.snapshot(f"spare-{driver}") is not None:
        store.snapshot(f"spare-{driver}").remove()


def mount(store: Store, driver: str) -> None:
    snapshot = store.snapshot(f"spare-{driver}")
    with suppress(FailedPrecondition):
        snapshot.detach()  # a run that was killed has left it mounted
    with snapshot.mount() as root:
        assert (root / "etc/os-release").read_bytes() == b"ID=test\n"


OPERATIONS: dict[str, Callable[[Store, Path], None]] = {
    "create": create,
    "import": import_,
    "load": load,
    "rmi": rmi,
    "gc": gc,
    "prune": prune,
    "restore": restore,
    "tag": tag,
}
ON_SNAPSHOTS: dict[str, Callable[[Store, str], None]] = {
    "commit": commit,
    "prepare": prepare,
    "fork": fork,
    "rollback": rollback,
    "remove-snapshot": remove_snapshot,
    "mount": mount,
}
"""These are called ``NAME-DRIVER``."""


def names() -> list[str]:
    """The names of all operations."""
    return [*OPERATIONS, *(f"{name}-{driver}" for name in ON_SNAPSHOTS for driver in DRIVERS)]


def driver_of(name: str) -> str | None:
    """The driver that an operation needs."""
    return None if name in OPERATIONS else name.rpartition("-")[2]


def run(name: str, store: Store, inputs: Path) -> None:
    """One operation on an open store."""
    driver = driver_of(name)
    if driver is None:
        OPERATIONS[name](store, inputs)
    else:
        ON_SNAPSHOTS[name.rpartition("-")[0]](store, driver)


def perform(name: str, root: Path, inputs: Path) -> None:
    """Open the store, run one operation, say so."""
    try:
        with Store.open(root) as store:
            run(name, store, inputs)
            print("done", flush=True)
    except LamellaError as error:
        print(f"{error.kind} {error.code}: {error}", file=sys.stderr)
        sys.exit(3)


# -- what can be seen of a store


def picture(root: Path) -> dict[str, object]:
    """What a user sees: the names and where they point, the snapshots and what is in them."""
    with Store.open(root) as store:
        names = {record.name: str(record.target) for record in store.catalog.names()}
        snapshots = {
            snapshot.key: (str(snapshot.image.id), snapshot.record.driver, files(snapshot.files))
            for snapshot in store.snapshots()
        }
        return {"names": names, "snapshots": snapshots}


def files(view: TreeView) -> dict[bytes, tuple[object, ...]]:
    """Every file of a tree with what is in it."""
    found: dict[bytes, tuple[object, ...]] = {}
    for info in view.walk():
        content = b""
        if info.kind.name == "REGULAR":
            with view.open(info.path) as stream:
                content = hashlib.sha256(stream.read()).digest()
        found[info.path] = (info.kind, info.mode, info.uid, info.gid, info.mtime, info.link, info.links, content)
    return found


if __name__ == "__main__":
    perform(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
