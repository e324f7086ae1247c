"""What users give, or are tricked into giving: names, ids, tags, keys, drivers and paths that are something else."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

from build import file, layout, tar
from hostile_case import ANY, GOOD, Act, Refused, Table
from hostile_world import World

from lamella import Limits, Store
from lamella.errors import (
    AlreadyExists,
    Ambiguous,
    FailedPrecondition,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
)
from lamella.images.create import Recipe

TABLE = Table()
ONE = tar(file(b"f", b"1"))
HALF = "\udcff"
"""Half a surrogate pair: what a byte that is no UTF-8 becomes in an argument."""


def refused(name: str, call: Callable[[World], object], kind: type[LamellaError], code: str) -> None:
    """Add a case of a call that must be refused."""
    TABLE.add(name, Act(call), Refused(kind, code, ANY))


_PATHS = {
    "a path up": "../x", "a path up and down": "a/../../b", "an absolute path": "/etc", "dots": "..", "a dot": ".",
    "nothing": "", "a blank": " ", "two lines": "a\nb", "a NUL": "a\0b", "an escape sequence": "\x1b[2J",
    "an option": "--force", "a variable": "$HOME", "a command": "`id`", "an open quote": "'", "half a character": HALF,
    "a million letters": "x" * 1_000_000,
}  # fmt: skip


def every(verb: str, call: Callable[[World, str], object], kind: type[LamellaError], code: str, *, but: str = "",
          other: tuple[str, ...] = ()) -> None:  # fmt: skip
    """Add a case for each odd text; ``but`` are those (by title) that are fine, ``other`` answer another code."""
    for title, text in _PATHS.items():
        if title not in but.split("; "):
            expected = other if title == "half a character" and other else (kind, code)
            refused(f"{verb} {title}", lambda world, text=text: call(world, text), *expected)


# -- names of images

every("tag as", lambda w, text: w.store.tag(GOOD, text), InvalidInput, "reference-syntax")
every("import as", lambda w, text: w.store.import_rootfs(io.BytesIO(ONE), text), InvalidInput, "reference-syntax")
every("find the image", lambda w, text: w.store.image(text), NotFound, "image-not-found")
every("remove the image", lambda w, text: w.store.remove([text]), NotFound, "image-not-found")
for _title, _name in {
    "in capitals": "Image", "with a tag that is a path": "a:../b", "with two tags": "a:b:c", "ending in a slash": "a/",
    "with two slashes": "a//b", "of 256 characters": "a" * 256, "with a tag of 129 characters": f"a:{'b' * 129}",
    "that could be an id": "0" * 64, "with dots for a host": "../a/b", "with a blank": "a b", "of a host only": "a.io/",
    "with a tag that is an option": "a:-b", "with a colon at its end": "a:",
}.items():  # fmt: skip
    refused(f"tag as a name {_title}", lambda w, name=_name: w.store.tag(GOOD, name), InvalidInput, "reference-syntax")
for _title, _name in {
    "that is a path": "a@sha256:../../etc/passwd", "that is none": "a@x", "that is empty": "a@",
}.items():  # fmt: skip
    refused(f"tag as a name with a digest {_title}", lambda w, name=_name: w.store.tag(GOOD, name), InvalidInput,
            "digest-syntax")  # fmt: skip


def _load(world: World, name: str) -> None:
    with world.scratch() as scratch:
        world.store.load(layout(ONE).write(scratch / "layout"), name=name)


every("load as", _load, InvalidInput, "reference-syntax")


def _two_images(world: World) -> None:
    found = layout(ONE)
    found.image(tar(file(b"g")), name="other")
    with world.scratch() as scratch:
        world.store.load(found.write(scratch / "layout"), name="one:1")


refused("load two images as one name", _two_images, InvalidInput, "load-name-ambiguous")
refused("an id of one digit that several have", lambda w: _shortest(w), Ambiguous, "ambiguous-prefix")


def _shortest(world: World) -> None:
    """Look for each digit: sixteen of them and more documents than that would have to differ."""
    with world.scratch() as scratch:
        for i in range(17):
            world.store.load(layout(tar(file(b"%d" % i)), name=f"id:{i}").write(scratch / str(i)))
    try:
        for digit in "0123456789abcdef":
            try:
                world.store.image(digit)
            except NotFound:
                continue
    finally:
        world.clear()


# -- keys of snapshots

every("prepare the snapshot", lambda w, text: w.store.prepare(GOOD, text), InvalidInput, "snapshot-key")
every("find the snapshot", lambda w, text: w.store.snapshot(text), NotFound, "snapshot-not-found",
      other=(InvalidInput, "catalog-text"))  # fmt: skip
every("fork the snapshot", lambda w, text: w.store.fork(text, "copy"), NotFound, "snapshot-not-found",
      other=(InvalidInput, "catalog-text"))  # fmt: skip
every("read the files of", lambda w, text: w.store.files(text), NotFound, "image-not-found",
      other=(InvalidInput, "catalog-text"))  # fmt: skip


def _with_snapshot(call: Callable[[World], object]) -> Callable[[World], None]:
    """With a snapshot called ``there``, which is removed afterwards."""

    def run(world: World) -> None:
        snapshot = world.store.prepare(GOOD, "there", driver="copy")
        try:
            call(world)
        finally:
            snapshot.remove(force=True)
            world.store.gc()

    return run


refused("prepare a snapshot twice", _with_snapshot(lambda w: w.store.prepare(GOOD, "there", driver="copy")),
        AlreadyExists, "snapshot-exists")  # fmt: skip
every("fork a snapshot as", lambda w, text: _with_snapshot(lambda w: w.store.fork("there", text))(w), InvalidInput,
      "snapshot-key")  # fmt: skip
every("commit a snapshot as", lambda w, text: _with_snapshot(lambda w: w.store.snapshot("there").commit(text))(w),
      InvalidInput, "reference-syntax")  # fmt: skip
refused("mount a snapshot at a file", _with_snapshot(lambda w: w.store.snapshot("there").attach(w.canary / "secret")),
        InvalidInput, "mount-not-directory")  # fmt: skip
refused("mount a snapshot at nothing", _with_snapshot(lambda w: w.store.snapshot("there").attach(w.canary / "none")),
        NotFound, "mount-directory")  # fmt: skip
refused("unmount what is not mounted", _with_snapshot(lambda w: w.store.snapshot("there").detach()),
        FailedPrecondition, "snapshot-not-mounted")  # fmt: skip

# -- paths inside, drivers, instructions


def _ask(path: str | bytes) -> Callable[[World], object]:
    return lambda w: w.store.image(GOOD).open(path)


for _title, _path in {
    "up": "../../../../etc/passwd", "of the host": "/etc/passwd", "with a NUL": b"/bin/sh\0", "of a file": "/bin/sh/x",
    "of 100,000 steps up": "../" * 100_000 + "etc/passwd", "of half a character": HALF,
}.items():  # fmt: skip
    refused(f"open a path {_title} in an image", _ask(_path), NotFound, "path-not-found")
refused("open a directory of an image", _ask("/bin/../.."), InvalidInput, "not-a-file")
every("prepare with the driver", lambda w, text: w.store.prepare(GOOD, "key", driver=text), InvalidInput,
      "driver-unknown", but="nothing")  # fmt: skip
for _title, _change, _code in (
    ("unknown", "RUN rm -rf /", "change-instruction"), ("empty", "", "change-instruction"),
    ("without a value", "CMD", "change-instruction"), ("of a port that is none", "EXPOSE 99999", "change-port"),
    ("of a port that is a path", "EXPOSE ../80", "change-port"), ("with an open quote", "ENV A='b", "change-pair"),
    ("of a signal that is none", "STOPSIGNAL ../x", "change-signal"), ("of half a character", f"USER {HALF}",
    "document-text"),
):  # fmt: skip
    refused(f"import with an instruction {_title}", lambda w, change=_change: w.store.import_rootfs(
        io.BytesIO(ONE), "name:1", recipe=Recipe(changes=(change,))), InvalidInput, _code)  # fmt: skip
refused("import with an author who is half a character", lambda w: w.store.import_rootfs(
    io.BytesIO(ONE), "name:1", recipe=Recipe(author=HALF)), InvalidInput, "document-text")  # fmt: skip
refused("import with a command a hundred thousand lists deep", lambda w: w.store.import_rootfs(
    io.BytesIO(ONE), "name:1", recipe=Recipe(changes=("CMD " + "[" * 100_000, "EXPOSE x"))), InvalidInput,
    "change-port")  # fmt: skip

# -- paths of the host


def _write(world: World, name: bytes, data: bytes) -> Path:
    path = world.place / "tmp" / os.fsdecode(name)
    path.write_bytes(data)
    return path


def _odd_name(world: World) -> None:
    """A file whose name is no UTF-8 is imported and loaded like any other."""
    path = _write(world, b"\xff\n\x1b.tar", ONE)
    archive = _write(world, b"\xfe.tar", layout(ONE, name="odd:1").tar())
    try:
        image = world.store.import_rootfs(path, "odd:2")
        assert image.history()[-1].comment.isprintable()
        assert world.store.load(archive)
    finally:
        path.unlink()
        archive.unlink()
        world.clear()
    raise InvalidInput("fine", code="fine")


refused("import and load files whose names are no UTF-8", _odd_name, InvalidInput, "fine")
refused("import a path with a NUL", lambda w: w.store.import_rootfs("a\0b", "name:1"), InvalidInput, "path-invalid")
refused("load a path with a NUL", lambda w: w.store.load("a\0b"), InvalidInput, "path-invalid")
refused("open a store at a path with a NUL", lambda w: Store.open("/tmp/a\0b"), InvalidInput, "path-invalid")
refused("open a store at a file", lambda w: Store.open(w.canary / "passwd"), InvalidInput, "path-invalid")
refused("open a store at 5,000 letters", lambda w: Store.open("/tmp/" + "x" * 5000), InvalidInput, "path-invalid")
refused("import a directory", lambda w: w.store.import_rootfs(w.canary, "name:1"), InvalidInput, "path-invalid")
refused("import nothing that is there", lambda w: w.store.import_rootfs(w.canary / "no", "name:1"), NotFound,
        "file-not-found")  # fmt: skip
refused("save to a directory that is not there", lambda w: w.store.save([GOOD], w.canary / "no" / "x.tar"), NotFound,
        "file-not-found")  # fmt: skip
refused("load over a limit of nothing", lambda w: _limited(w), ResourceExhausted, "document-size")


def _limited(world: World) -> None:
    with world.opened(Limits(document_bytes=10)) as store, world.scratch() as scratch:
        store.load(layout(ONE).write(scratch / "layout"))
