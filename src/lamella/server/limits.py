"""Bounds on what a client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in seconds.

    ``idle`` bounds how long a connection may stall inside a request or a response, ``head`` the time for a whole
    request head; ``expiry`` is how long an upload, or a pushed blob that no manifest names yet, is kept.
    """

    manifest_bytes: int = 4 * _MIB
    blob_bytes: int = 256 << 30
    head_bytes: int = 32 << 10
    head: float = 20.0
    idle: float = 60.0
    connections: int = 256
    open_uploads: int = 64
    uploads: int = 1000
    expiry: float = 3600.0
    page: int = 1000
    manifests_at_once: int = 4
    passwords_at_once: int = 2


DEFAULT_LIMITS = ServerLimits()
