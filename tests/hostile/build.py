"""Builds what no honest tool writes: tar archives, OCI layouts and docker archives, byte by byte.

Nothing of Lamella is used here, and no tar library: every field of every header can be a lie. The defaults are those of
a plain ustar member, so that a case only says what is wrong with it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)
MTIME = 1_000
"""Seconds since 1970 of everything that does not say otherwise."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

_ORDER = ("name", "mode", "uid", "gid", "size", "mtime", "checksum", "flag", "link", "magic", "owners", "devices")
_WIDTHS = {"name": 100, "mode": 8, "uid": 8, "gid": 8, "size": 12, "mtime": 12, "checksum": 8, "flag": 1, "link": 100}
_WIDTHS |= {"magic": 8, "owners": 64, "devices": 16, "tail": 167}


# -- tar


def header(name: bytes, flag: bytes = b"0", **fields: int | bytes) -> bytes:
    """One header block. Numbers are written in octal, bytes as they are; ``checksum`` too can be given."""
    values: dict[str, bytes] = {"name": name, "flag": flag, "magic": b"ustar\x0000"}
    numbers = {"mode": 0o644, "uid": 0, "gid": 0, "size": 0, "mtime": MTIME}
    major, minor = fields.pop("major", 0), fields.pop("minor", 0)
    values["devices"] = _number(major, 8) + _number(minor, 8)
    for key, value in {**numbers, **fields}.items():
        values[key] = _number(value, _WIDTHS[key])
    checksum = values.pop("checksum", None)
    values["checksum"] = b" " * 8
    block = b"".join(values.get(key, b"").ljust(_WIDTHS[key], b"\0") for key in (*_ORDER, "tail"))
    assert len(block) == BLOCK, {key: len(value) for key, value in values.items()}
    return block[:148] + (b"%06o\0 " % sum(block) if checksum is None else checksum) + block[156:]


def _number(value: int | bytes, width: int) -> bytes:
    if isinstance(value, bytes):
        return value
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def base256(value: int, width: int = 12) -> bytes:
    """A number as GNU tar writes those that octal has no room for, negative ones too."""
    return bytes([0x80 | (0x7F if value < 0 else 0)]) + value.to_bytes(width, "big", signed=True)[1:]


def padded(data: bytes) -> bytes:
    """``data`` with the zeros that fill its last block."""
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"", **fields: int | bytes) -> bytes:
    """A regular file. ``size`` may lie."""
    return _long(name) + header(name[:100], b"0", **{"size": len(data), **fields}) + padded(data)


def directory(name: bytes, **fields: int | bytes) -> bytes:
    """A directory."""
    return _long(name) + header(name[:100], b"5", **{"mode": 0o755, **fields})


def symlink(name: bytes, target: bytes, **fields: int | bytes) -> bytes:
    """A symbolic link."""
    return _long(name, target) + header(name[:100], b"2", **{"mode": 0o777, "link": target[:100], **fields})


def hardlink(name: bytes, target: bytes, **fields: int | bytes) -> bytes:
    """A hard link."""
    return _long(name, target) + header(name[:100], b"1", link=target[:100], **fields)


def device(name: bytes, flag: bytes, major: int | bytes, minor: int | bytes, **fields: int | bytes) -> bytes:
    """A device: ``flag`` 3 of characters, 4 of blocks."""
    return header(name, flag, major=major, minor=minor, **fields)


def fifo(name: bytes, **fields: int | bytes) -> bytes:
    """A named pipe."""
    return header(name, b"6", **fields)


def _long(name: bytes, target: bytes = b"") -> bytes:
    return (gnu_long(name) if len(name) > 100 else b"") + (gnu_long(target, b"K") if len(target) > 100 else b"")


def gnu_long(text: bytes, flag: bytes = b"L") -> bytes:
    """The name (L) or link target (K) of the next member, as GNU tar writes those of more than 100 bytes."""
    return header(b"././@LongLink", flag, size=len(text) + 1) + padded(text + b"\0")


def record(key: bytes, value: bytes) -> bytes:
    """One pax record with its true length."""
    length = len(key) + len(value) + 3
    while len(b"%d %s=%s\n" % (length, key, value)) != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    """A pax extended header for the next member, or (flag g) for all that follow."""
    return pax_raw(b"".join(record(key, value) for key, value in records), flag=flag)


def pax_raw(body: bytes, *, flag: bytes = b"x", size: int | None = None) -> bytes:
    """A pax extended header whose records are ``body``, whatever that is."""
    return header(b"PaxHeaders/x", flag, size=len(body) if size is None else size) + padded(body)


def xattrs(**values: bytes) -> bytes:
    """A pax header with xattrs for the next member; two underscores in a keyword stand for a dot."""
    return pax(*((b"SCHILY.xattr." + key.replace("__", ".").encode(), value) for key, value in values.items()))


def tar(*members: bytes, end: bytes = END) -> bytes:
    """An archive of these members."""
    return b"".join(members) + end


def many(pattern: bytes, count: int) -> bytes:
    """An archive of ``count`` empty files, named by a pattern that has the number as ``%06d``; quickly made."""
    first = header(pattern % 0)
    start, total = pattern.index(b"%06d"), int(first[148:154], 8)
    head, middle, tail = first[:start], first[start + 6 : 148], first[154:]
    blocks = []
    for i in range(count):
        digits = b"%06d" % i
        blocks += head, digits, middle, b"%06o" % (total + sum(digits) - 6 * 48), tail
    return tar(*blocks)


# -- documents


def digest(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def gz(data: bytes) -> bytes:
    """``data`` compressed with gzip, the same bytes each time."""
    return gzip.compress(data, 1, mtime=0)


def render(document: Any) -> bytes:
    """A document as JSON; bytes pass as they are."""
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def described(data: bytes, media_type: str, **lies: Any) -> dict[str, Any]:
    """The descriptor of ``data``; ``lies`` replace its fields (``None`` leaves one out)."""
    fields = {"mediaType": media_type, "digest": digest(data), "size": len(data), **lies}
    return {key: value for key, value in fields.items() if value is not None}


def config_of(diff_ids: Sequence[str], **lies: Any) -> dict[str, Any]:
    """An image config for these layers; ``lies`` replace its fields."""
    fields = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return {**fields, **lies}


class Layout:
    """An OCI layout in the making: blobs by digest, and what its index.json lists."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.entries: list[Any] = []
        self.marker: bytes | None = b'{"imageLayoutVersion":"1.0.0"}'
        self.index: Any = None

    def blob(self, data: bytes, media_type: str, **lies: Any) -> dict[str, Any]:
        """Put a blob in; its descriptor."""
        self.blobs[digest(data)] = data
        return described(data, media_type, **lies)

    def image(
        self,
        *layers: bytes,
        name: str = "hostile",
        compress: Callable[[bytes], bytes] = gz,
        layer_type: str = OCI_LAYER_GZIP,
        layer_lies: Mapping[int, Mapping[str, Any]] | None = None,
        config: Any = None,
        config_lies: Mapping[str, Any] | None = None,
        manifest: Mapping[str, Any] | None = None,
        manifest_lies: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Put an image of uncompressed ``layers`` in, and list it; its descriptor.

        ``config`` replaces the whole document, or takes the honest one and returns another. ``layer_lies`` (by
        position), ``config_lies`` and ``manifest_lies`` are about the descriptors, ``manifest`` about the fields of the
        document.
        """
        lies = layer_lies or {}
        found = [self.blob(compress(data), layer_type, **lies.get(i, {})) for i, data in enumerate(layers)]
        honest = config_of([digest(data) for data in layers])
        document = honest if config is None else config(honest) if callable(config) else config
        fields = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(render(document), OCI_CONFIG, **(config_lies or {})),
            "layers": found,
        }
        fields = {key: value for key, value in {**fields, **(manifest or {})}.items() if value is not None}
        entry = self.blob(render(fields), OCI_MANIFEST, **(manifest_lies or {}))
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        self.entries.append(entry)
        return entry

    def index_of(self, *manifests: Any, **fields: Any) -> dict[str, Any]:
        """Put an image index in; its descriptor."""
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **fields}
        return self.blob(render(document), OCI_INDEX)

    def files(self) -> dict[str, bytes]:
        """Every file of the layout by its path."""
        found = {f"blobs/{name.replace(':', '/')}": data for name, data in self.blobs.items()}
        index = {"schemaVersion": 2, "manifests": self.entries} if self.index is None else self.index
        found["index.json"] = render(index)
        if self.marker is not None:
            found["oci-layout"] = self.marker
        return found

    def write(self, place: Path) -> Path:
        """The layout as a directory."""
        (place / "blobs" / "sha256").mkdir(parents=True)
        for path, data in self.files().items():
            (place / path).write_bytes(data)
        return place

    def tar(self, *more: bytes) -> bytes:
        """The layout as an archive, with ``more`` members at its end."""
        return tar(*(file(path.encode(), data) for path, data in self.files().items()), *more)


def layout(*layers: bytes, **options: Any) -> Layout:
    """A layout of one image."""
    found = Layout()
    found.image(*layers, **options)
    return found


def docker_archive(
    *layers: bytes,
    record: Mapping[str, Any] | None = None,
    config: Any = None,
    manifest: Any = None,
    paths: Sequence[bytes] | None = None,
    members: Sequence[bytes] = (),
) -> bytes:
    """What ``docker save`` writes, of one image; ``record`` replaces fields of its entry in manifest.json.

    ``paths`` are the members' names of the layers; ``members`` come before everything else.
    """
    names = [b"%d/layer.tar" % i for i in range(len(layers))] if paths is None else list(paths)
    document = config_of([digest(data) for data in layers]) if config is None else config
    raw = render(document)
    entry = {"Config": "config.json", "RepoTags": ["hostile:1"], "Layers": [name.decode() for name in names]}
    entry = {key: value for key, value in {**entry, **(record or {})}.items() if value is not None}
    parts = [*members, file(b"config.json", raw)]
    parts += [file(name, data) for name, data in zip(names, layers, strict=True)]
    return tar(*parts, file(b"manifest.json", render([entry] if manifest is None else manifest)))
