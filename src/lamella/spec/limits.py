"""Bounds on what an operation takes from outside, so that a hostile input ends in an error and not in a full disk."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that every reader of foreign bytes observes; crossing one raises ResourceExhausted.

    Sizes are bytes. ``ratio`` bounds uncompressed over compressed bytes of one layer once it has produced
    ``ratio_floor`` bytes. The defaults admit every image that is known to be in use.
    """

    layer_bytes: int = 1 << 40
    layer_entries: int = 4_000_000
    ratio: int = 500
    ratio_floor: int = 1024 * _MIB
    document_bytes: int = 16 * _MIB
    document_depth: int = 64
    header_bytes: int = 4 * _MIB
    sparse_segments: int = 100_000
    path_bytes: int = 4_096
    path_depth: int = 2_048
    layers: int = 1_000
    links: int = 40
    xattr_bytes: int = 1 * _MIB


DEFAULT_LIMITS = Limits()
