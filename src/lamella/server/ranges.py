"""``Range`` of downloads (RFC 9110, section 14) and ``Content-Range`` of uploads (distribution-spec 1.1)."""

from __future__ import annotations

import re

from lamella.server.failures import Refusal

_BYTES = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
_CHUNK = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]+|\*))?", re.IGNORECASE)


def wanted(header: str | None, size: int) -> tuple[int, int] | None:
    """The (start, length) that a client asks for of ``size`` bytes; None is all of it.

    What is malformed, or asks for several ranges, is not honoured, as the RFC allows. Raises Refusal (416).
    """
    found = _BYTES.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return None
    if start >= end:
        raise Refusal(416, "SIZE_INVALID", f"the blob has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, end - start


def chunk(header: str | None) -> tuple[int, int] | None:
    """The (start, length) of a chunk that comes; None if it does not say. Raises Refusal (400)."""
    if header is None:
        return None
    found = _CHUNK.fullmatch(header.strip())
    if found is None or int(found[2]) < int(found[1]):
        raise Refusal(400, "BLOB_UPLOAD_INVALID", "Content-Range must be START-END")
    return int(found[1]), int(found[2]) - int(found[1]) + 1


def so_far(offset: int) -> str:
    """The ``Range`` that says how much of an upload is there; as other registries, 0-0 for nothing too."""
    return f"0-{max(0, offset - 1)}"
