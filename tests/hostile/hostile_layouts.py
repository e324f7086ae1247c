"""Layouts on disk: members that are links out, pipes, devices, directories; index files that are not what they say."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from build import OCI_MANIFEST, Layout, digest, file, gz, layout, tar
from hostile_case import Holds, Place, Refused, Table, a_file

from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound, ResourceExhausted, Unsupported

TABLE = Table()
ONE = tar(file(b"f", b"1"))
_LAYER = f"blobs/sha256/{digest(gz(ONE))[7:]}"
UP = "../" * 40


def spoiled(name: str, spoil: Callable[[Path, Path], object], kind: type[LamellaError], code: str) -> None:
    """Add a case of an honest layout that ``spoil`` (layout, canary) has been at."""

    def build(world):
        def make(scratch: Path) -> Path:
            place = layout(ONE).write(scratch / "layout")
            spoil(place, world.canary)
            return place

        return Place(make), Refused(kind, code)

    TABLE.case(name)(build)


def _replace(member: str, make: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
    def spoil(place: Path, canary: Path) -> None:
        (place / member).rename(place.parent / "taken")
        make(place / member, canary)

    return spoil


def _socket(path: Path, _canary: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(path.parent, os.O_PATH)
        try:
            bound.bind(f"/proc/self/fd/{here}/{path.name}"[:107])
        finally:
            os.close(here)


_KINDS: dict[str, tuple[Callable[[Path, Path], object], type[LamellaError], str]] = {
    "a link to a file of the host": (lambda p, c: p.symlink_to(c / "secret"), InvalidInput, "layout-link-escapes"),
    "a relative link to a file of the host": (
        lambda p, c: p.symlink_to(UP + str(c)[1:] + "/secret"), InvalidInput, "layout-link-escapes",
    ),
    "a link to itself": (lambda p, _c: p.symlink_to(p.name), InvalidInput, "path-invalid"),
    "a link to a descriptor": (lambda p, _c: p.symlink_to("/proc/self/fd/0"), InvalidInput, "layout-link-escapes"),
    "a pipe": (lambda p, _c: os.mkfifo(p), InvalidInput, "layout-not-a-file"),
    "a socket": (_socket, InvalidInput, "layout-not-a-file"),
    "a directory": (lambda p, _c: p.mkdir(), InvalidInput, "layout-not-a-file"),
}  # fmt: skip
if os.geteuid() == 0:
    _KINDS["a device"] = (
        lambda p, _c: os.mknod(p, 0o20666, os.makedev(1, 5)), InvalidInput, "layout-not-a-file",
    )  # fmt: skip
for _title, (_make, _kind, _code) in _KINDS.items():
    for _what, _member in {"the layer": _LAYER, "index.json": "index.json", "oci-layout": "oci-layout"}.items():
        spoiled(f"{_what} is {_title}", _replace(_member, _make), _kind, _code)
spoiled("the layer is a dangling link", _replace(_LAYER, lambda p, _c: p.symlink_to("nothing")), NotFound,
        "blob-not-found")  # fmt: skip
spoiled("the directory of blobs is a link to the host", _replace("blobs", lambda p, c: p.symlink_to(c)), InvalidInput,
        "layout-link-escapes")  # fmt: skip
spoiled("the directory of blobs is a relative link to the host", _replace("blobs/sha256", lambda p, c: p.symlink_to(
    "../" * 40 + str(c)[1:])), InvalidInput, "layout-link-escapes")  # fmt: skip
spoiled("the directory of blobs is a file", _replace("blobs", lambda p, _c: p.touch()), InvalidInput, "path-invalid")
spoiled("there are no blobs", lambda place, _c: (place / "blobs").rename(place.parent / "taken"), NotFound,
        "blob-not-found")  # fmt: skip
spoiled("the layer is cut off", lambda place, _c: os.truncate(place / _LAYER, 40), Integrity, "compression-truncated")
spoiled("the layer is empty", lambda place, _c: os.truncate(place / _LAYER, 0), Integrity, "size-mismatch")
spoiled("the layer is lengthened", lambda place, _c: _append(place / _LAYER, b"x"), Integrity, "size-mismatch")
spoiled("the layer is a terabyte of hole", lambda place, _c: os.truncate(place / _LAYER, 1 << 40), Integrity,
        "size-mismatch")  # fmt: skip
spoiled("there is no index.json", lambda place, _c: (place / "index.json").unlink(), NotFound, "file-not-found")


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as out:
        out.write(data)


@TABLE.case("links that stay inside the layout are followed")
def _(_world):
    def make(scratch: Path) -> Path:
        place = layout(ONE).write(scratch / "layout")
        (place / "blobs").rename(place / "elsewhere")
        (place / "blobs").symlink_to("elsewhere/../elsewhere")
        (place / _LAYER).rename(place / "rootfs.tar.gz")
        (place / "elsewhere" / "sha256" / Path(_LAYER).name).symlink_to("../../rootfs.tar.gz")
        return place

    return Place(make), Holds({b"f": a_file(b"1")})


def written(name: str, found: Layout, kind: type[LamellaError], code: str) -> None:
    """Add a case of a layout that is written as it is."""
    TABLE.add(name, Place(lambda scratch: found.write(scratch / "layout")), Refused(kind, code))


def _with(**fields: object) -> Layout:
    found = layout(ONE)
    for key, value in fields.items():
        setattr(found, key, value)
    return found


written("a layout of another version", _with(marker=b'{"imageLayoutVersion":"2.0.0"}'), Unsupported, "layout-version")
written("a layout without a version", _with(marker=b"{}"), InvalidInput, "document-missing-field")
written("a layout whose version is a number", _with(marker=b'{"imageLayoutVersion":1}'), InvalidInput,
        "document-wrong-type")  # fmt: skip
written("a layout marked with garbage", _with(marker=b"garbage"), InvalidInput, "document-syntax")
written("an index.json that is a list", _with(index=[]), InvalidInput, "document-type")
written("an index.json without schema", _with(index={"manifests": []}), InvalidInput, "document-missing-field")
written("an index.json without manifests", _with(index={"schemaVersion": 2}), InvalidInput, "document-missing-field")
written("an index.json of no images", _with(index={"schemaVersion": 2, "manifests": []}), NotFound, "archive-empty")
written("an index.json that is a manifest too", _with(index={"schemaVersion": 2, "manifests": [], "layers": []}),
        InvalidInput, "document-ambiguous")  # fmt: skip
written("an index.json of 17 megabytes", _with(index=b" " * (17 << 20)), ResourceExhausted, "document-size")
written("an index.json of two images with one digest and two sizes", _with(index={"schemaVersion": 2, "manifests": [
    {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "1" * 64, "size": size} for size in (1, 2)
]}), InvalidInput, "layout-ambiguous")  # fmt: skip


@TABLE.case("a layout that names an image as paths, options and terminal commands")
def _(_world):
    found = layout(ONE, name="hostile")
    names = (
        "../../etc/passwd",
        "/etc",
        "-rf",
        "a\x1b[2Jb",
        "UPPER",
        "a:b:c",
        "x@sha256:../..",
        "n" * 5000,
        "a b",
        "\n",
    )
    entry = found.entries[0]
    for name in names:
        found.entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": name}})
    notes = ("no image name",)
    return Place(lambda scratch: found.write(scratch / "layout")), Holds({b"f": a_file(b"1")}, notes=notes)


@TABLE.case("a layout that is given as a link to one")
def _(_world):
    def make(scratch: Path) -> Path:
        layout(ONE).write(scratch / "real")
        (scratch / "layout").symlink_to("real")
        return scratch / "layout"

    return Place(make), Holds({b"f": a_file(b"1")})


TABLE.add("a directory that is no layout", Place(lambda scratch: scratch), Refused(InvalidInput, "not-an-image"))
TABLE.add("nothing where a layout should be", Place(lambda scratch: scratch / "nothing"),
          Refused(NotFound, "file-not-found"))  # fmt: skip


@TABLE.case("a name that is taken from another image of the store is moved, not shared")
def _(_world):
    return Place(lambda scratch: layout(ONE, name="hostile").write(scratch / "layout")), Holds({b"f": a_file(b"1")})
