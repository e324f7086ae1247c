"""Spoils valid layers, layouts and archives in every way it can think of: nothing but typed errors may come out.

By hand, for as long as wanted:  PYTHONPATH=tests python tests/hostile/fuzz_layers.py --seconds 600 [--seed N]
Each round is told by its number alone: --seed N --rounds 1 repeats it.
"""

from __future__ import annotations

import argparse
import bz2
import io
import json
import lzma
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from build import (
    BLOCK,
    Layout,
    base256,
    device,
    digest,
    directory,
    docker_archive,
    fifo,
    file,
    gnu_long,
    gz,
    hardlink,
    layout,
    pax,
    symlink,
    tar,
)
from hostile_stacks import stack
from hostile_world import World, assert_equal

from lamella import Image, LamellaError, Limits
from lamella._sys.files import remove_tree
from lamella.mounts import mount as mounting
from support import trees

LIMITS = Limits(layer_bytes=32 << 20, layer_entries=20_000, ratio=100, ratio_floor=8 << 20, document_bytes=1 << 20)
_NAME = "hostile:1"
_SECONDS = 20
_Mutation = Callable[[random.Random, bytearray], None]


# -- what is valid


def _tars() -> list[bytes]:
    """Tars that have a little of everything."""
    plain = tar(
        directory(b"d", mode=0o700), file(b"d/f", b"content" * 100), symlink(b"l", b"d/f"), hardlink(b"h", b"d/f"),
        fifo(b"p"), device(b"c", b"3", 1, 3), file(b"n" * 150, b"long"), file(b".wh.gone"), file(b"d/.wh..wh..opq"),
    )  # fmt: skip
    rich = tar(
        pax((b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"1"), (b"path", b"renamed")), file(b"x", b"y"),
        pax((b"GNU.sparse.size", b"9000"), (b"GNU.sparse.map", b"0,3,8000,2"), (b"GNU.sparse.name", b"s")),
        file(b"s.0", b"abcde"), pax((b"comment", b"c"), flag=b"g"), file(b"last", b"z" * 600),
    )  # fmt: skip
    return [plain, rich, tar(file(b".wh..wh.plnk/7.8", b"p"), hardlink(b"q", b".wh..wh.plnk/7.8"))]


def _compressions() -> list[Callable[[bytes], bytes]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return [bytes, gz, bz2.compress, lzma.compress, zstd.compress, lambda data: gz(data[:600]) + gz(data[600:])]


# -- how it is spoiled


def _flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _poke(chance: random.Random, data: bytearray) -> None:
    odd = (b"\0", b"\xff" * 4, b"/", b"..", b"../", b"-1", b"9" * 12, b"\x80" + b"\xff" * 11, b"\n", b".wh.", b"\x1b[")
    piece = chance.choice(odd)
    at = chance.randrange(len(data))
    data[at : at + len(piece)] = piece


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def _drop(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 10, BLOCK))]


def _repeat(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.choice((1, 30, BLOCK, 3 * BLOCK))]
    data[at:at] = piece * chance.choice((1, 2, 20))


def _swap_blocks(chance: random.Random, data: bytearray) -> None:
    count = len(data) // BLOCK
    if count > 1:
        one, two = (chance.randrange(count) * BLOCK for _ in range(2))
        data[one : one + BLOCK], data[two : two + BLOCK] = data[two : two + BLOCK], data[one : one + BLOCK]


_BYTES: tuple[_Mutation, ...] = (_flip, _poke, _cut, _drop, _repeat, _swap_blocks)

_FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 16),
           (345, 155))  # fmt: skip
_TEXTS = (
    b"",
    b"/",
    b"..",
    b"../x",
    b"d",
    b"d/f",
    b"./",
    b".wh.d",
    b".wh..",
    b"a/../..",
    b"l",
    b"l/x",
    b"\xff",
    b"/etc/x",
)


def _field(chance: random.Random, data: bytearray) -> None:
    """Change a field of a header, and make its checksum right again."""
    headers = [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return
    at = chance.choice(headers)
    start, width = chance.choice(_FIELDS)
    if width == 1:
        value = bytes([chance.choice(b"0123456777DSVLKgxXMNZ\0")])
    elif width in (100, 155):
        value = chance.choice(_TEXTS)
    else:
        number = chance.choice((0, 1, 7, 511, 512, 1 << 20, (1 << 33) - 1, (1 << 62), -1, chance.randrange(1 << 30)))
        value = chance.choice((b"%o" % abs(number), base256(number, width), b"x", b" "))
    data[at + start : at + start + width] = value[:width].ljust(width, b"\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])


_KEYS = (
    b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.name",
    b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.realsize", b"GNU.sparse.offset", b"GNU.sparse.numbytes",
    b"GNU.sparse.numblocks", b"SCHILY.xattr.user.x", b"SCHILY.xattr.trusted.overlay.opaque", b"SCHILY.devmajor",
    b"LIBARCHIVE.xattr.user.y", b"hdrcharset", b"comment", b"",
)  # fmt: skip
_RECORDS = (
    b"", b"0", b"1", b"-1", b"512", b"0,512", b"0,1,1,1", b"9" * 19, b"9" * 30, b"1.5", b"-0.000000001", b"1e9", b"y",
    b"../x", b"a/b", b"/", b"\xff", b"YWJj", b"d/f", b"\0", b"0,9223372036854775807",
)  # fmt: skip


def _record(chance: random.Random, data: bytearray) -> None:
    """Put a pax or GNU header before one that is there."""
    at = BLOCK * chance.randrange(len(data) // BLOCK + 1)
    if chance.random() < 0.2:
        extra = gnu_long(chance.choice(_TEXTS), chance.choice((b"L", b"K")))
    else:
        pairs = [(chance.choice(_KEYS), chance.choice(_RECORDS)) for _ in range(chance.choice((1, 1, 2, 3, 4)))]
        extra = pax(*pairs, flag=chance.choice((b"x", b"x", b"x", b"g")))
    data[at:at] = extra


_MEMBERS: tuple[_Mutation, ...] = (_field, _field, _record)


def spoil(chance: random.Random, data: bytes, mutations: tuple[_Mutation, ...]) -> bytes:
    """``data`` with a few mutations."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if found:
            chance.choice(mutations)(chance, found)
    return bytes(found)


_VALUES: tuple[Any, ...] = (
    None, 0, -1, 1 << 63, 10**30, 1.5, True, "", "x", "../..", "\ud800", "sha256:" + "0" * 64, [], {}, [[]], {"": {}},
    ["x"] * 50, "a" * 5000, "\x1b[2J\n",
)  # fmt: skip


def spoil_document(chance: random.Random, document: Any) -> Any:
    """A JSON document with one value changed, left out, or doubled."""
    places = list(_places(document))
    if not places:
        return deepcopy(chance.choice(_VALUES))
    holder, key = chance.choice(places)
    action = chance.choice(("set", "set", "set", "drop", "wrap", "rename"))
    if action == "set":
        holder[key] = deepcopy(chance.choice(_VALUES))
    elif action == "wrap":
        holder[key] = [deepcopy(holder[key]) for _ in range(chance.choice((1, 2, 100)))]
    elif action == "drop" or isinstance(holder, list):
        del holder[key]
    else:
        holder[chance.choice(("", "size", "layers", "manifests", "digest", "config"))] = holder.pop(key)
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


# -- inputs


def spoiled_stream(chance: random.Random) -> bytes:
    """A root file system: spoiled before it is compressed, or after."""
    data = chance.choice(_tars())
    if chance.random() < 0.8:
        data = spoil(chance, data, _MEMBERS if chance.random() < 0.8 else _BYTES)
    data = chance.choice(_compressions())(data)
    return spoil(chance, data, _BYTES) if chance.random() < 0.3 else data


def spoiled_layout(chance: random.Random) -> Layout:
    """A layout: its layers spoiled with all digests right, or a document, or any file with the digests left wrong."""
    way = chance.choice(("layers", "layers", "layers", "config", "manifest", "index", "blob"))
    layers = [*stack(chance.randrange(1 << 30)), chance.choice(_tars())]
    if way == "layers":
        at = chance.randrange(len(layers))
        layers[at] = spoil(chance, layers[at], _MEMBERS if chance.random() < 0.9 else _BYTES)
    if way == "config":
        return layout(*layers, name=_NAME, config=lambda honest: _document(chance, honest))
    found = layout(*layers, name=_NAME, compress=chance.choice(_compressions()))
    if way == "manifest":
        entry = found.entries[0]
        raw = _document(chance, json.loads(found.blobs[entry["digest"]]))
        found.blobs[digest(raw)] = raw
        entry["digest"], entry["size"] = digest(raw), len(raw)
    elif way == "index":
        found.index = _document(chance, {"schemaVersion": 2, "manifests": found.entries})
    elif way == "blob":
        name = chance.choice(sorted(found.blobs))
        found.blobs[name] = spoil(chance, found.blobs[name], _BYTES)
    return found


def _document(chance: random.Random, document: Any) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 3))):
        document = spoil_document(chance, document)
    raw = json.dumps(document).encode()
    return spoil(chance, raw, _BYTES) if chance.random() < 0.2 else raw


def spoiled_archive(chance: random.Random) -> bytes:
    """An archive of a layout, or one as docker writes it."""
    if chance.random() < 0.5:
        data = layout(*stack(chance.randrange(1 << 30)), name=_NAME).tar()
    else:
        layers = stack(chance.randrange(1 << 30))
        record = {
            "Config": "config.json",
            "RepoTags": [_NAME],
            "Layers": [f"{i}/layer.tar" for i in range(len(layers))],
        }
        data = docker_archive(*layers, manifest=_document(chance, [record]) if chance.random() < 0.6 else [record])
    if chance.random() < 0.7:
        data = spoil(chance, data, chance.choice((_BYTES, _MEMBERS)))
    data = chance.choice((bytes, bytes, bytes, gz))(data)
    return spoil(chance, data, _BYTES) if chance.random() < 0.2 else data


# -- rounds


class Failure(Exception):
    """A round that went wrong; the message says how."""


class Fuzzer:
    """Runs rounds against one store."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._before = world.state()
        self.refused = self.taken = 0
        self.codes: dict[str, int] = {}

    def round(self, number: int) -> None:
        """One spoiled input. Raises Failure for anything but a typed error, or a sound image."""
        chance = random.Random(number)
        kind = chance.choice((self._import, self._layout, self._archive))
        try:
            with _alarm(_SECONDS):
                kind(chance)
                self.taken += 1
                for image in self._world.store.images():
                    if not image.names or not image.names[0].startswith(("good", "kept")):
                        self._look(image, thorough=chance.random() < 0.3)
        except LamellaError as error:
            self.refused += 1
            self.codes[error.code] = self.codes.get(error.code, 0) + 1
            if not error.code or not str(error).isprintable():
                raise Failure(f"round {number}: no code, or not printable: {error!r}") from error
        except Exception as error:
            raise Failure(f"round {number}: {traceback.format_exc()}") from error
        finally:
            self._world.clear()
        if number % 10 == 0:
            self.check()

    def check(self) -> None:
        """Assert that host and store are as they were."""
        assert_equal(self._before, self._world.state())

    def _import(self, chance: random.Random) -> None:
        with self._world.opened(LIMITS) as store:
            store.import_rootfs(io.BytesIO(spoiled_stream(chance)), _NAME)

    def _layout(self, chance: random.Random) -> None:
        with self._world.scratch() as scratch, self._world.opened(LIMITS) as store:
            store.load(spoiled_layout(chance).write(scratch / "layout"))

    def _archive(self, chance: random.Random) -> None:
        with self._world.scratch() as scratch, self._world.opened(LIMITS) as store:
            (scratch / "archive").write_bytes(spoiled_archive(chance))
            store.load(scratch / "archive")

    def _look(self, image: Image, *, thorough: bool) -> None:
        """Read everything of an image, and mount it."""
        image.history()
        small = all(info.size < 1 << 22 for info in image.walk())
        if not small:
            return
        merged = trees.read_view(image)
        for driver in ("overlay", "copy", "erofs") if thorough else ():
            if mounting.driver(driver).probe(self._world.place).ok:
                self._mount(image, driver, merged)

    def _mount(self, image: Image, driver: str, merged: trees.Tree) -> None:
        snapshot = self._world.store.prepare(image, driver=driver)
        with snapshot.mount() as root:
            shown = trees.read_directory(root)
            gone = {path for path, leaf in merged.items() if leaf.kind == "char" and leaf.device == (0, 0)}
            wanted = {path: leaf for path, leaf in merged.items() if driver == "copy" or path not in gone}
            # What a file system cannot hold (times, odd xattrs) is noted and not compared here.
            trees.assert_same(trees.without(wanted, "mtime", "xattrs"), trees.without(shown, "mtime", "xattrs"))


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """Raise after a time: a hostile input must not take for ever."""

    def ring(_number: int, _frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def main() -> int:
    """Run by hand; 1 if a round went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first round")
    parser.add_argument("--rounds", type=int, default=1 << 62)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="where the store is made")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="lamella-hostile-", dir=options.place))
    world = World(place)
    fuzzer, failures, number = Fuzzer(world), 0, options.seed
    end = time.monotonic() + options.seconds
    try:
        while time.monotonic() < end and number < options.seed + options.rounds:
            try:
                fuzzer.round(number)
            except (Failure, AssertionError) as failure:
                failures += 1
                print(f"round {number}: {failure}", flush=True)
            number += 1
    finally:
        world.close()
        remove_tree(place)
    codes = ", ".join(f"{code} {count}" for code, count in sorted(fuzzer.codes.items(), key=lambda item: -item[1]))
    print(f"{number - options.seed} rounds, {fuzzer.taken} taken, {fuzzer.refused} refused, {failures} wrong\n{codes}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
