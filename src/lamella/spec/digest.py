"""Digests as OCI image-spec 1.1 ``descriptor.md`` writes them: ``algorithm:hex``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lamella.errors import InvalidInput

if TYPE_CHECKING:
    from hashlib import _Hash

ALGORITHMS = {"sha256": 64, "sha512": 128}
"""The algorithms that are accepted, each with the length of its hexadecimal form."""

_HEX = re.compile(r"[0-9a-f]+")
_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest of bytes. Only the two algorithms that image-spec registers are accepted; both are verified."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if ALGORITHMS.get(self.algorithm) != len(self.hex) or not _HEX.fullmatch(self.hex):
            raise _refusal(f"{self.algorithm}:{self.hex}"[:1000], self.algorithm)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read ``algorithm:hex``.

        Raises InvalidInput for anything else, wrong types included (``digest-syntax``), and for a digest of an
        algorithm that cannot be verified here (``digest-algorithm``).
        """
        if not isinstance(text, str):
            raise InvalidInput(f"a digest must be a string, not {type(text).__name__}", code="digest-syntax")
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """The digest of ``data``."""
        hasher = cls.hasher_of(algorithm)
        hasher.update(data)
        return cls.finish(hasher)

    @staticmethod
    def hasher_of(algorithm: str = "sha256") -> _Hash:
        """A fresh hash object of one of ``ALGORITHMS``. Raises InvalidInput for another one."""
        if algorithm not in ALGORITHMS:
            raise InvalidInput(f"'{algorithm[:40]}' is not an algorithm for digests", code="digest-algorithm")
        return hashlib.new(algorithm)

    @classmethod
    def finish(cls, hasher: _Hash) -> Self:
        """The digest that a running hash object has come to."""
        return cls(hasher.name, hasher.hexdigest())

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm, for verifying."""
        return hashlib.new(self.algorithm)

    @property
    def short(self) -> str:
        """The first twelve hexadecimal digits."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def _refusal(text: str, algorithm: str) -> InvalidInput:
    shown = f"'{text[:150]}'"
    if algorithm not in ALGORITHMS and _GRAMMAR.fullmatch(text):
        return InvalidInput(f"{shown} is of an algorithm that cannot be verified", code="digest-algorithm")
    return InvalidInput(f"{shown} is not a sha256 or sha512 digest", code="digest-syntax")


def chain_ids(diff_ids: list[Digest] | tuple[Digest, ...]) -> list[Digest]:
    """The ChainID of every prefix of a stack of layers, bottom first (image-spec ``config.md``, "Layer ChainID")."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(Digest.of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return chains
