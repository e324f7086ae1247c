"""Archives of images: paths that climb out, links in circles, members twice, parents that are their own children."""

from __future__ import annotations

from pathlib import Path

from build import (
    BLOCK,
    Layout,
    config_of,
    device,
    digest,
    directory,
    docker_archive,
    fifo,
    file,
    gz,
    hardlink,
    layout,
    pax,
    render,
    symlink,
    tar,
)
from hostile_case import ANY, Holds, Place, Refused, Table, a_file

from lamella import Limits
from lamella.errors import (
    FailedPrecondition,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
    ResourceExhausted,
)

TABLE = Table()
ONE = tar(file(b"f", b"1"))
TWO = tar(file(b"g", b"2"))
HOLDS = Holds({b"f": a_file(b"1")})


def archive(data: bytes, limits: Limits | None = None) -> Place:
    """The bytes, in a file."""

    def make(scratch: Path) -> Path:
        (scratch / "archive.tar").write_bytes(data)
        return scratch / "archive.tar"

    return Place(make, limits)


def refused(name: str, data: bytes, kind: type[LamellaError], code: str, limits: Limits | None = None) -> None:
    """Add a case of an archive that must not be taken."""
    TABLE.add(name, archive(data, limits), Refused(kind, code, ANY))


def entered(name: str, data: bytes, kind: type[LamellaError], code: str, entry: bytes) -> None:
    """Add a case of an archive whose refusal names a member."""
    TABLE.add(name, archive(data), Refused(kind, code, entry))


NAMED = {"RepoTags": ["hostile:latest"]}

# -- docker archives: where the layers are

TABLE.add("a layer path that climbs out and comes back to a member",
          archive(docker_archive(ONE, record={**NAMED, "Layers": ["../../x/../0/layer.tar"]})), HOLDS)  # fmt: skip
TABLE.add("an absolute layer path is one of the archive",
          archive(docker_archive(ONE, record={**NAMED, "Layers": ["/0/layer.tar"]})), HOLDS)  # fmt: skip
for _path in ("../../../etc/passwd", "/etc/passwd", "0/../../etc/passwd", ""):
    refused(f"a layer path of the host, {_path or 'empty'}", docker_archive(ONE, record={"Layers": [_path]}),
            NotFound, "archive-member-missing")  # fmt: skip
refused("a layer path with a NUL", docker_archive(ONE, record={"Layers": ["0/layer.tar\0"]}), InvalidInput,
        "archive-path")  # fmt: skip
refused("a layer path of 5,000 bytes", docker_archive(ONE, record={"Layers": ["x/" * 2500]}), InvalidInput,
        "archive-path")  # fmt: skip
refused("a layer path of half a character", docker_archive(ONE, manifest=b'[{"Config": "config.json", "Layers": '
        b'["\\ud800"]}]'), InvalidInput, "document-syntax")  # fmt: skip
refused("a config path of the host", docker_archive(ONE, record={"Config": "../../../etc/passwd"}), NotFound,
        "archive-member-missing")  # fmt: skip


def _linked(*links: bytes, layer: str = "link") -> bytes:
    return docker_archive(ONE, record={**NAMED, "Layers": [layer]}, members=links)


TABLE.add("a layer that is a link to the layer", archive(_linked(symlink(b"link", b"0/layer.tar"))), HOLDS)
TABLE.add("a layer that is a link out and back in, to the layer",
          archive(_linked(symlink(b"link", b"../../../0/layer.tar"))), HOLDS)  # fmt: skip
TABLE.add("a layer through a link to a directory",
          archive(_linked(symlink(b"d", b"/0"), layer="d/layer.tar")), HOLDS)  # fmt: skip
refused("a layer that is a link to a file of the host", _linked(symlink(b"link", b"/etc/passwd")), NotFound,
        "archive-member-missing")  # fmt: skip
refused("a layer that is a link to itself", _linked(symlink(b"link", b"link")), InvalidInput, "archive-link-loop")
refused("a layer in a circle of links", _linked(symlink(b"link", b"b"), symlink(b"b", b"link")), InvalidInput,
        "archive-link-loop")  # fmt: skip
refused("a layer at the end of a hundred links",
        _linked(*(symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(100)), layer="l0"), InvalidInput,
        "archive-link-loop")  # fmt: skip
refused("a layer that is a hard link to itself", _linked(hardlink(b"link", b"link")), InvalidInput,
        "archive-link-loop")  # fmt: skip
TABLE.add("a layer that is a hard link to the layer", archive(_linked(hardlink(b"link", b"./0/layer.tar"))), HOLDS)
for _title, _member in {
    "a directory": directory(b"link"), "a device": device(b"link", b"3", 1, 5), "a pipe": fifo(b"link"),
}.items():  # fmt: skip
    refused(f"a layer that is {_title} of the archive", _linked(_member), InvalidInput, "archive-member-type")

# -- docker archives: what they say

refused("a manifest.json that is an object", docker_archive(ONE, manifest={}), InvalidInput, "document-type")
refused("a manifest.json of no images", docker_archive(ONE, manifest=[]), NotFound, "archive-empty")
refused("a manifest.json of texts", docker_archive(ONE, manifest=["config.json"]), InvalidInput, "document-type")
refused("a manifest.json a million lists deep", docker_archive(ONE, manifest=b"[" * 1_000_000), ResourceExhausted,
        "document-depth")  # fmt: skip
refused("a manifest.json with a key twice", docker_archive(ONE, manifest=b'[{"Config": "a", "Config": "b"}]'),
        InvalidInput, "document-duplicate-key")  # fmt: skip
refused("an image without a config", docker_archive(ONE, record={"Config": None}), InvalidInput,
        "document-missing-field")  # fmt: skip
refused("an image whose config is a number", docker_archive(ONE, record={"Config": 7}), InvalidInput,
        "document-wrong-type")  # fmt: skip
refused("an image whose tags are a text", docker_archive(ONE, record={"RepoTags": "x"}), InvalidInput,
        "document-wrong-type")  # fmt: skip
refused("an image with a layer less than its config", docker_archive(ONE, TWO, config=config_of([digest(ONE)])),
        Integrity, "layer-count-mismatch")  # fmt: skip
refused("an image with a layer more than its config", docker_archive(ONE, config=config_of([digest(ONE)] * 2)),
        Integrity, "layer-count-mismatch")  # fmt: skip
refused("an image whose layer is not what its config says", docker_archive(ONE, config=config_of([digest(TWO)])),
        Integrity, "digest-mismatch")  # fmt: skip
refused("an image of 1,001 layers", docker_archive(ONE, config=config_of([digest(ONE)] * 1001), record={
    "Layers": ["0/layer.tar"] * 1001}), ResourceExhausted, "layer-count")  # fmt: skip
refused("a config that is called by another digest", docker_archive(ONE, record={"Config": "0" * 64 + ".json"},
        members=(file(b"0" * 64 + b".json", render(config_of([digest(ONE)]))),)), Integrity,
        "config-digest-mismatch")  # fmt: skip
refused("a config that is a layer", docker_archive(ONE, record={"Config": "0/layer.tar"}), InvalidInput,
        "document-syntax")  # fmt: skip
refused("a parent that is no digest", docker_archive(ONE, record={"Parent": "../.."}), InvalidInput, "digest-syntax")


def _family(parents: list[int]) -> bytes:
    """Images of one layer, each the child of the one at the position that is given."""
    configs = [render(config_of([digest(ONE)], author=str(i))) for i in range(len(parents))]
    records = [
        {"Config": f"{i}.json", "RepoTags": [f"hostile:{i}"], "Layers": ["layer.tar"], "Parent": digest(configs[at])}
        for i, at in enumerate(parents)
    ]
    members = [file(b"%d.json" % i, raw) for i, raw in enumerate(configs)]
    return tar(*members, file(b"layer.tar", ONE), file(b"manifest.json", render(records)))


_CIRCLES = {"its own parent": [0], "its parent's parent": [1, 0], "in a circle of five": [1, 2, 3, 4, 0]}
for _title, _parents in _CIRCLES.items():
    TABLE.add(f"an image that is {_title}", archive(_family(_parents)), Refused(FailedPrecondition, "parent-cycle"))


# -- members

entered("a config that is there twice, differently", docker_archive(ONE, members=(file(b"config.json", b"{}"),)),
        InvalidInput, "archive-duplicate", b"config.json")  # fmt: skip
TABLE.add("a config that is there twice, the same",
          archive(docker_archive(ONE, record=NAMED, members=(file(b"./config.json", render(config_of([digest(ONE)]))),))),
          HOLDS)  # fmt: skip
refused("a layer that is a file and a link", docker_archive(ONE, members=(symlink(b"0/layer.tar", b"/etc/passwd"),)),
        InvalidInput, "archive-duplicate")  # fmt: skip
refused("an archive from before 2016 with nothing in it", tar(file(b"repositories", b"{}"), directory(b"abc")),
        InvalidInput, "not-an-image")  # fmt: skip
refused("an archive with two lists of repositories",
        tar(file(b"repositories", b"{}"), file(b"repositories", b"[]")), InvalidInput, "archive-duplicate")  # fmt: skip
refused("a root file system in place of an archive", tar(directory(b"etc"), file(b"etc/passwd")), InvalidInput,
        "not-an-image")  # fmt: skip
refused("a file that is no archive", b"hello\n" * 1000, InvalidInput, "not-an-archive")
refused("an empty file", b"", InvalidInput, "not-an-archive")
refused("an archive that is cut off in a layer", docker_archive(ONE)[: 4 * BLOCK], Integrity, "tar-truncated")
refused("an archive with a wrong checksum", tar(file(b"a"), file(b"b", checksum=b"000000\0 ")), Integrity,
        "tar-checksum")  # fmt: skip
refused("gzip that ends too early", gz(docker_archive(ONE))[:-30], Integrity, "compression-truncated")
refused("gzip of no archive", gz(b"hello"), InvalidInput, "not-an-archive")
refused("a bomb of an archive", gz(tar(file(b"zeros", bytes(8 << 20)))), ResourceExhausted, "compression-bomb",
        Limits(ratio=20, ratio_floor=1 << 20))  # fmt: skip

# -- a layout in an archive

TABLE.add("a layout in an archive", archive(layout(ONE).tar()), HOLDS)
TABLE.add("a layout in an archive, with names that climb out and come to the same",
          archive(tar(*(file(b"../x/../" + path.encode(), data) for path, data in layout(ONE).files().items()))),
          HOLDS)  # fmt: skip


def _layout_with(path: str, *members: bytes) -> bytes:
    """A layout in an archive, other members in place of one of its files."""
    files = {name: data for name, data in layout(ONE).files().items() if name != path}
    return tar(*members, *(file(name.encode(), data) for name, data in files.items()))


_LAYER = f"blobs/sha256/{digest(gz(ONE))[7:]}"
refused("a layout in an archive, its layer a link to the host",
        _layout_with(_LAYER, symlink(_LAYER.encode(), b"/etc/passwd")), NotFound, "blob-not-found")  # fmt: skip
refused("a layout in an archive, its layer a link to itself",
        _layout_with(_LAYER, symlink(_LAYER.encode(), b"/" + _LAYER.encode())), InvalidInput, "archive-link-loop")  # fmt: skip
refused("a layout in an archive, its layer there twice",
        _layout_with("", file(_LAYER.encode(), gz(TWO))), InvalidInput, "archive-duplicate")  # fmt: skip
refused("a layout in an archive, its layer a pipe", _layout_with(_LAYER, fifo(_LAYER.encode())), InvalidInput,
        "archive-member-type")  # fmt: skip
refused("a layout in an archive, its index a link to a blob that is none",
        _layout_with("index.json", symlink(b"index.json", b"oci-layout")), InvalidInput, "document-missing-field")  # fmt: skip


def _sparse_layer(size: int) -> bytes:
    """A layout whose layer takes a few bytes of the archive, and is ``size`` bytes of zeros."""
    found = Layout()
    found.image(ONE, compress=lambda data: data, layer_type="application/vnd.oci.image.layer.v1.tar",
                layer_lies={0: {"size": size}})  # fmt: skip
    name = f"blobs/sha256/{digest(ONE)[7:]}"
    sparse = pax((b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", b"0,0"), (b"GNU.sparse.name", name.encode()))
    files = {path: data for path, data in found.files().items() if path != name}
    return tar(sparse, file(b"x"), *(file(path.encode(), data) for path, data in files.items()))


refused("a layer of 8 exabytes that takes nothing of its archive", _sparse_layer((1 << 63) - 1), ResourceExhausted,
        "compression-bomb")  # fmt: skip
refused("a layer of zeros that takes nothing of its archive", _sparse_layer(1 << 22), ResourceExhausted,
        "compression-bomb", Limits(ratio=20, ratio_floor=1 << 20))  # fmt: skip
