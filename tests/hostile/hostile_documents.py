"""Documents: digests, sizes and diff_ids that lie; configs, manifests and indexes that are malformed or too much."""

from __future__ import annotations

import json
from typing import Any

from build import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Layout,
    config_of,
    described,
    digest,
    file,
    gz,
    layout,
    tar,
)
from hostile_case import Holds, Place, Refused, Table, Taken, a_file

from lamella import Limits
from lamella.errors import Integrity, InvalidInput, LamellaError, NotFound, ResourceExhausted, Unsupported

TABLE = Table()
ONE = tar(file(b"f", b"1"))
TWO = tar(file(b"g", b"2"))
BOTH = {b"f": a_file(b"1"), b"g": a_file(b"2")}
OTHER = "sha256:" + "0" * 64
_GZ = gz(ONE)


def place(found: Layout, limits: Limits | None = None) -> Place:
    """The layout, in a directory."""
    return Place(lambda scratch: found.write(scratch / "layout"), limits)


def refused(name: str, found: Layout, kind: type[LamellaError], code: str, says: str = "", **more: Any) -> None:
    """Add a case of a layout that must not be taken."""
    TABLE.add(name, place(found, more.get("limits")), Refused(kind, code, says=says))


# -- lies about layers

refused("a layer of another size, larger", layout(ONE, layer_lies={0: {"size": len(_GZ) + 1}}), Integrity,
        "size-mismatch", digest(_GZ))  # fmt: skip
refused("a layer of another size, smaller", layout(ONE, layer_lies={0: {"size": len(_GZ) - 1}}), Integrity,
        "size-mismatch", digest(_GZ))  # fmt: skip
refused("a layer of size zero", layout(ONE, layer_lies={0: {"size": 0}}), Integrity, "size-mismatch", digest(_GZ))
refused("a layer of a negative size", layout(ONE, layer_lies={0: {"size": -1}}), InvalidInput, "descriptor-size")
refused("a layer of 2**63 bytes", layout(ONE, layer_lies={0: {"size": 1 << 63}}), InvalidInput, "descriptor-size")
refused("a layer of 10**400 bytes", layout(ONE, layer_lies={0: {"size": 10**400}}), InvalidInput, "descriptor-size")
refused("a layer whose size is a fraction", layout(ONE, layer_lies={0: {"size": 1.5}}), InvalidInput,
        "document-wrong-type")  # fmt: skip
refused("a layer whose size is a truth", layout(ONE, layer_lies={0: {"size": True}}), InvalidInput,
        "document-wrong-type")  # fmt: skip
refused("a layer that is not there", layout(ONE, layer_lies={0: {"digest": OTHER}}), NotFound, "blob-not-found", OTHER)


def _swapped() -> Layout:
    """The first layer's digest leads to the second's bytes."""
    found = layout(ONE)
    found.blobs[digest(_GZ)] = gz(TWO)
    return found


def _swapped_same_size() -> Layout:
    found = layout(tar(file(b"f", b"1")), compress=lambda data: data, layer_type=OCI_LAYER)
    found.blobs[digest(ONE)] = tar(file(b"f", b"2"))
    return found


refused("a layer with another's bytes", _swapped(), Integrity, "digest-mismatch", digest(_GZ))
refused("an uncompressed layer with another's bytes", _swapped_same_size(), Integrity, "digest-mismatch", digest(ONE))


def _sha512(data: bytes, *, lie: bool) -> Layout:
    """An uncompressed layer that is described by a sha512 digest."""
    import hashlib

    hexadecimal = hashlib.sha512(data + b"!" * lie).hexdigest()
    found = Layout()
    found.image(ONE, compress=lambda tar_bytes: tar_bytes, layer_type=OCI_LAYER,
                layer_lies={0: {"digest": f"sha512:{hexadecimal}"}})  # fmt: skip
    found.blobs = {f"sha512:{hexadecimal}" if name == digest(ONE) else name: raw for name, raw in found.blobs.items()}
    return found


def _write_sha512(found: Layout) -> Place:
    def make(scratch: Any) -> Any:
        (scratch / "layout" / "blobs" / "sha512").mkdir(parents=True)
        return found.write(scratch / "layout")

    return Place(make)


TABLE.add("an uncompressed layer described by sha512", _write_sha512(_sha512(ONE, lie=False)),
          Holds({b"f": a_file(b"1")}))  # fmt: skip
TABLE.add("an uncompressed layer described by a sha512 that lies", _write_sha512(_sha512(ONE, lie=True)),
          Refused(Integrity, "digest-mismatch", says="sha512:"))  # fmt: skip

for _title, _value in {
    "of no algorithm": "0" * 64,
    "of an algorithm that nobody has": "md7:" + "0" * 64,
    "of md5": "md5:" + "0" * 32,
    "in capitals": "sha256:" + "A" * 64,
    "too short": "sha256:" + "0" * 63,
    "too long": "sha256:" + "0" * 65,
    "that is a path": "sha256:../../../etc/passwd",
    "whose algorithm is a path": "../../../etc:passwd",
    "with a line's end": "sha256:" + "0" * 64 + "\n",
    "with a NUL": "sha256:" + "0" * 63 + "\0",
    "that is empty": "",
}.items():
    _code = "digest-algorithm" if _title in ("of md5", "of an algorithm that nobody has") else "digest-syntax"
    refused(f"a digest {_title}", layout(ONE, layer_lies={0: {"digest": _value}}), InvalidInput, _code)
refused("a digest that is a number", layout(ONE, layer_lies={0: {"digest": 7}}), InvalidInput, "document-wrong-type")
refused("a layer without a digest", layout(ONE, layer_lies={0: {"digest": None}}), InvalidInput,
        "document-missing-field")  # fmt: skip
refused("a layer without a media type", layout(ONE, layer_lies={0: {"mediaType": None}}), InvalidInput,
        "document-missing-field")  # fmt: skip
refused("a diff_id that lies", layout(ONE, config=config_of([OTHER])), Integrity, "diff-id-mismatch", digest(_GZ))
refused("diff_ids in the wrong order", layout(ONE, TWO, config=config_of([digest(TWO), digest(ONE)])), Integrity,
        "diff-id-mismatch", digest(_GZ))  # fmt: skip
refused("a diff_id that is the digest of the compressed layer", layout(ONE, config=config_of([digest(_GZ)])),
        Integrity, "diff-id-mismatch")  # fmt: skip
refused("fewer diff_ids than layers", layout(ONE, TWO, config=config_of([digest(ONE)])), Integrity,
        "layer-count-mismatch")  # fmt: skip
refused("more diff_ids than layers", layout(ONE, config=config_of([digest(ONE), digest(TWO)])), Integrity,
        "layer-count-mismatch")  # fmt: skip
refused("no diff_ids for a layer", layout(ONE, config=config_of([])), Integrity, "layer-count-mismatch")
refused("1,001 layers", layout(*[ONE] * 1001), ResourceExhausted, "layer-count")
refused("three layers over a limit of two", layout(ONE, ONE, TWO), ResourceExhausted, "layer-count",
        limits=Limits(layers=2))  # fmt: skip
TABLE.add("the same layer three times", place(layout(ONE, TWO, ONE)), Holds(BOTH))
TABLE.add("no layer at all", place(layout()), Holds({}))


def _config_as_layer() -> Layout:
    """One blob is named as the config and as a layer."""
    found = Layout()
    config = config_of([])
    raw = json.dumps(config).encode()
    found.image(config=config, manifest={"layers": [described(raw, OCI_LAYER)]})
    return found


refused("a config that is a layer too", _config_as_layer(), Integrity, "tar-truncated")
refused("a layer that is the manifest's own words", layout(b'{"schemaVersion":2}' + bytes(600)), Integrity,
        "tar-checksum")  # fmt: skip

# -- lies about configs and manifests

refused("a config of another size", layout(ONE, config_lies={"size": 1}), Integrity, "size-mismatch")
refused("a config with another digest", layout(ONE, config_lies={"digest": digest(_GZ), "size": len(_GZ)}),
        InvalidInput, "document-syntax")  # fmt: skip
refused("a config that is not there", layout(ONE, config_lies={"digest": OTHER}), NotFound, "blob-not-found", OTHER)
refused("a manifest of another size", layout(ONE, manifest_lies={"size": 2}), Integrity, "size-mismatch")
refused("a manifest that is not there", layout(ONE, manifest_lies={"digest": OTHER}), NotFound, "blob-not-found")
refused("a manifest that is offered as another kind", layout(ONE, manifest_lies={
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}), InvalidInput, "media-type-mismatch")  # fmt: skip
refused("a manifest that is offered as an index", layout(ONE, manifest_lies={"mediaType": OCI_INDEX}), InvalidInput,
        "document-ambiguous")  # fmt: skip
refused("a manifest that is offered as larger than any document", layout(ONE, manifest_lies={"size": 1 << 40}),
        ResourceExhausted, "document-size")  # fmt: skip
refused("a manifest that is an index too", layout(ONE, manifest={"manifests": []}), InvalidInput, "document-ambiguous")
refused("a manifest of schema 1", layout(ONE, manifest={"schemaVersion": 1}), Unsupported, "schema-version")
refused("a manifest without a schema", layout(ONE, manifest={"schemaVersion": None}), InvalidInput,
        "document-missing-field")  # fmt: skip
refused("a manifest without a config", layout(ONE, manifest={"config": None}), InvalidInput, "document-missing-field")
refused("a manifest without layers", layout(ONE, manifest={"layers": None}), InvalidInput, "document-missing-field")
refused("a manifest whose layers are an object", layout(ONE, manifest={"layers": {}}), InvalidInput,
        "document-wrong-type")  # fmt: skip
refused("a manifest whose layer is a text", layout(ONE, manifest={"layers": [OTHER]}), InvalidInput, "document-type")
refused("a manifest whose annotation is a number", layout(ONE, manifest={"annotations": {"a": 1}}), InvalidInput,
        "document-wrong-type")  # fmt: skip


def _nested(depth: int) -> Layout:
    found = Layout()
    entry = found.image(ONE)
    for _ in range(depth):
        entry = found.index_of(entry)
    found.entries = [entry]
    return found


def _index(**fields: Any) -> Layout:
    found = Layout()
    found.entries = [found.index_of(found.image(ONE), **fields)]
    return found


def _bomb_of_indexes() -> Layout:
    """Each index names the next one a hundred times."""
    found = Layout()
    entry = found.image(ONE)
    for level in range(4):
        entry = found.index_of(*[entry] * 100, annotations={"level": str(level)})
    found.entries = [entry]
    return found


refused("indexes nested ten deep", _nested(10), InvalidInput, "index-depth")
refused("an index that is a manifest too", _index(layers=[]), InvalidInput, "document-ambiguous")
refused("an index that has a config", _index(config={}), InvalidInput, "document-ambiguous")
TABLE.add("indexes that name each other a hundred million times", place(_bomb_of_indexes()), Taken())


def _missing_child(**lies: Any) -> Layout:
    """An index of an image that is there and one that is not, which is described with lies."""
    found = Layout()
    absent = {"mediaType": OCI_MANIFEST, "digest": OTHER, "size": 3, **lies}
    found.entries = [found.index_of(found.image(ONE), absent)]
    return found


refused("an index of an absent image of 10**30 bytes", _missing_child(size=10**30), InvalidInput, "descriptor-size")
refused("an index of an absent image for half a character", _missing_child(platform={"os": "\ud800"}), InvalidInput,
        "document-syntax")  # fmt: skip
refused("an index of an absent image whose platform is a list", _missing_child(platform=[]), InvalidInput,
        "document-wrong-type")  # fmt: skip

# -- configs


def config(title: str, document: Any, kind: type[LamellaError], code: str, limits: Limits | None = None) -> None:
    """Add a case of one layer whose config is ``document``, or what that makes of an honest one."""
    TABLE.add(f"a config {title}", place(layout(ONE, config=document), limits), Refused(kind, code))


def config_with(**fields: Any) -> Any:
    """An honest config with these fields."""
    return lambda honest: {**honest, **fields}


def run_config(**fields: Any) -> Any:
    """An honest config with these fields under ``config``."""
    return config_with(config=fields)


for _title, _raw in {
    "that is a list": b"[]", "that is null": b"null", "that is a text": b'"x"', "that is a number": b"7",
}.items():  # fmt: skip
    config(_title, _raw, InvalidInput, "document-type")
for _title, _raw in {
    "that is empty": b"", "that is no JSON": b"{config}", "that is cut off": b'{"rootfs": {"type": "lay',
    "with a comma too much": b'{"os": "linux",}', "that is UTF-16": '{"os": "linux"}'.encode("utf-16"),
    "with a byte order mark": b'\xef\xbb\xbf{"os": "linux"}', "that is no UTF-8": b'{"os": "\xff"}',
    "with NaN": b'{"size": NaN}', "with infinity": b'{"size": -Infinity}', "with 1e999": b'{"size": 1e999}',
    "with half a character": b'{"os": "\\ud800"}', "with a number of 5,000 digits": b'{"n": ' + b"1" * 5000 + b"}",
    "followed by another": b"{}{}",
}.items():  # fmt: skip
    config(_title, _raw, InvalidInput, "document-syntax")
for _title, _raw in {
    "a million lists deep": b'{"a": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "a million objects deep": b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000,
    "65 deep": b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}",
}.items():
    config(_title, _raw, ResourceExhausted, "document-depth")
config("of more bytes than a document has", b'{"a": "' + b"x" * (16 << 20) + b'"}', ResourceExhausted, "blob-size")
config("with a key twice", b'{"os": "linux", "rootfs": {}, "os": "windows"}', InvalidInput, "document-duplicate-key")
config("with a key twice, inside", lambda honest: json.dumps(honest).replace('"type"', '"type": "x", "type"').encode(),
       InvalidInput, "document-duplicate-key")  # fmt: skip
config("without a rootfs", lambda honest: {k: v for k, v in honest.items() if k != "rootfs"}, InvalidInput,
       "document-missing-field")  # fmt: skip
config("whose rootfs is of another type", config_with(rootfs={"type": "squashfs"}), Unsupported, "rootfs-type")
for _title, _fields in {
    "rootfs is a list": {"rootfs": []},
    "diff_ids is a text": {"rootfs": {"type": "layers", "diff_ids": digest(ONE)}},
    "diff_ids has a number": {"rootfs": {"type": "layers", "diff_ids": [7]}},
    "history is an object": {"history": {}},
    "history has a text": {"history": ["RUN rm -rf /"]},
    "history says empty_layer in a text": {"history": [{"empty_layer": "yes"}]},
    "history has a list for a command": {"history": [{"created_by": ["sh"]}]},
    "config is a list": {"config": []},
    "time is a number": {"created": 7},
    "author is an object": {"author": {}},
    "system is a number": {"os": 7},
    "architecture is a list": {"architecture": ["amd64"]},
    "system's features are a text": {"os.features": "win32k"},
}.items():
    config(f"whose {_title}", config_with(**_fields), InvalidInput, "document-wrong-type")
for _title, _fields in {
    "environment is an object": {"Env": {"A": "b"}},
    "environment has a number": {"Env": [7]},
    "command is a text": {"Cmd": "/bin/sh"},
    "command has a list": {"Entrypoint": [["sh"]]},
    "labels are a list": {"Labels": ["a=b"]},
    "label is a number": {"Labels": {"a": 7}},
    "ports are a list": {"ExposedPorts": ["80/tcp"]},
    "volumes are a text": {"Volumes": "/data"},
    "user is a number": {"User": 0},
    "directory is a list": {"WorkingDir": ["/"]},
}.items():
    config(f"whose {_title}", run_config(**_fields), InvalidInput, "document-wrong-type")
for _title, _time in {
    "is a date only": "2024-01-01", "is no time": "yesterday", "has no zone": "2024-01-01T00:00:00",
    "has a thirteenth month": "2024-13-01T00:00:00Z", "is in another script": "٢٠٢٤-01-01T00:00:00Z",
}.items():  # fmt: skip
    config(f"whose time {_title}", config_with(created=_time), InvalidInput, "time-syntax")
config("whose history tells of more layers", config_with(history=[{}, {}]), InvalidInput, "history-layers")
config("with a diff_id that is a path", config_of(["sha256:../../../../etc"]), InvalidInput, "digest-syntax")
config("with 1,001 diff_ids", config_of([digest(ONE)] * 1001), ResourceExhausted, "layer-count")
for _title, _fields in {
    "fields that nobody knows": {"x-unknown": {"deep": [1, 2, {"3": None}]}, "OS": "linux", "rootFS": []},
    "nothing but nulls": {"config": None, "history": None, "author": None, "created": None, "os": None},
    "the first moment there is, in a zone east of it": {"created": "0001-01-01T00:00:00+14:00"},
    "the last moment there is, in a zone west of it": {"created": "9999-12-31T23:59:59-12:00"},
    "a time with 40 decimals": {"created": "2024-01-01T00:00:00." + "1" * 40 + "Z"},
    "text that could be a path, a terminal's command, a tag": {
        "author": "../../etc\x1b[2J", "os": "../..", "architecture": "\u202e/etc/passwd", "variant": "\n",
        "history": [{"created_by": "\0\x07" * 10, "comment": "x" * 100_000}],
    },
}.items():  # fmt: skip
    TABLE.add(f"a config with {_title}", place(layout(ONE, config=config_with(**_fields))),
              Holds({b"f": a_file(b"1")}))  # fmt: skip
assert OCI_CONFIG
