"""Random stacks of layers that are at odds with each other: few names, all kinds, links everywhere, whiteouts of them."""

from __future__ import annotations

import random
from collections.abc import Callable

from build import device, directory, fifo, file, hardlink, pax, symlink, tar

_NAMES = (b"a", b"b", b"c", b"d")
_TARGETS = (
    b".", b"..", b"/", b"a", b"b", b"../a", b"../../b", b"/a/b", b"/c", b"a/b/c", b"b/../c", b"/proc/self/root/a",
    b"../../../../../../../../../../etc", b"/dev/null", b"nowhere",
)  # fmt: skip
_OPAQUE = b".wh..wh..opq"


def stack(seed: int, canary: bytes = b"/canary") -> list[bytes]:
    """The layers of one stack, bottom first: the same for the same seed."""
    chance = random.Random(seed)
    return [tar(*_layer(chance, canary)) for _ in range(chance.randint(1, 5))]


def _layer(chance: random.Random, canary: bytes) -> list[bytes]:
    kinds: list[tuple[int, Callable[[random.Random, bytes, bytes], bytes]]] = [
        (30, _file), (22, _directory), (14, _symlink), (10, _hardlink), (12, _whiteout), (4, _opaque), (3, _fifo),
        (2, _device), (3, _steering),
    ]  # fmt: skip
    makers = chance.choices([make for _, make in kinds], [weight for weight, _ in kinds], k=chance.randint(1, 14))
    return [make(chance, _path(chance), canary) for make in makers]


def _path(chance: random.Random) -> bytes:
    return b"/".join(chance.choices(_NAMES, k=chance.choice((1, 1, 2, 2, 2, 3, 4))))


def _file(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    content = bytes(chance.choices(b"xyz", k=chance.choice((0, 1, 5, 600))))
    return file(path, content, mode=chance.choice((0o644, 0o600, 0o4755)), mtime=chance.randint(0, 3))


def _directory(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    return directory(path + chance.choice((b"", b"/", b"/.")), mode=chance.choice((0o755, 0o700, 0o1777)))


def _symlink(chance: random.Random, path: bytes, canary: bytes) -> bytes:
    return symlink(path, chance.choice((*_TARGETS, canary, canary + b"/dir", b"../" * 30 + canary[1:])))


def _hardlink(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    return hardlink(path, _path(chance))


def _whiteout(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    parent, slash, name = path.rpartition(b"/")
    return file(parent + slash + b".wh." + name)


def _opaque(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    return file(chance.choice((path + b"/", b"", path[:2] + b"/")) + _OPAQUE)


def _fifo(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    return fifo(path)


def _device(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    return device(path, b"3", chance.choice((0, 1)), chance.choice((0, 3)))


def _steering(chance: random.Random, path: bytes, _canary: bytes) -> bytes:
    prefix = chance.choice((b"trusted.overlay.", b"user.overlay."))
    key, value = chance.choice(((b"opaque", b"y"), (b"redirect", b"/a"), (b"metacopy", b""), (b"opaque", b"x")))
    return pax((b"SCHILY.xattr." + prefix + key, value)) + chance.choice((directory(path), file(path, b"m")))


def without_last(layers: list[bytes], at: int) -> list[bytes]:
    """The stack up to but not including the layer at ``at``: what is left when that one could not be applied."""
    return layers[:at]
