"""Ids of images: what one looks like, how one is made, and how a part of one finds it."""

from __future__ import annotations

import bisect
import re
import secrets
import threading
from collections.abc import Iterable

from lamella.errors import AlreadyExists, Ambiguous, InvalidInput, NotFound

_ID = re.compile(r"[a-f0-9]{64}")
_LEGACY = re.compile(r"[a-f0-9]{16}")
_SHORT = 12
_SHOWN = 5


def validate_id(id: str, *, legacy: bool = False) -> str:
    """``id`` if it can name an image: 64 lowercase hexadecimal digits, or with ``legacy`` the 16 of before 0.1.

    Raises InvalidInput otherwise, for an empty id and one with a colon in the words of 2013.
    """
    if not id:
        raise InvalidInput("Image id can't be empty", code="graph-id-empty")
    if _ID.fullmatch(id) or (legacy and _LEGACY.fullmatch(id)):
        return id
    if ":" in id:
        raise InvalidInput("Invalid character in image id: ':'", code="graph-id-invalid", subject=id[:80])
    raise InvalidInput(f"image ID '{id[:80]}' is invalid", code="graph-id-invalid")


def short_id(id: str) -> str:
    """The first 12 characters."""
    return id[:_SHORT]


def generate_id() -> str:
    """A new random id, never one whose short form is a decimal number, which would make an odd host name."""
    while True:
        id = secrets.token_hex(32)
        if not id[:_SHORT].isdigit():
            return id


class TruncIndex:
    """A set of ids that are found by any prefix that only one of them has; a whole id always finds itself.

    Safe for use by several threads.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._lock = threading.RLock()
        self._ids: list[str] = []
        for id in ids:
            self.add(id)

    def add(self, id: str) -> None:
        """Add an id. Raises InvalidInput for an empty one or one with a space, AlreadyExists for one that is there."""
        if not id:
            raise InvalidInput("Prefix can't be empty", code="graph-prefix-empty")
        if " " in id:
            raise InvalidInput("Illegal character: ' '", code="graph-id-space", subject=id[:80])
        with self._lock:
            at = bisect.bisect_left(self._ids, id)
            if at < len(self._ids) and self._ids[at] == id:
                raise AlreadyExists(f"Id already exists: {id[:80]}", code="graph-id-exists")
            self._ids.insert(at, id)

    def delete(self, id: str) -> None:
        """Take out a whole id; a prefix will not do. Raises NotFound."""
        with self._lock:
            at = bisect.bisect_left(self._ids, id)
            if not id or at == len(self._ids) or self._ids[at] != id:
                raise _unknown(id)
            del self._ids[at]

    def get(self, prefix: str) -> str:
        """The id that ``prefix`` means. Raises NotFound, and Ambiguous naming the candidates."""
        if not prefix:
            raise InvalidInput("Prefix can't be empty", code="graph-prefix-empty")
        with self._lock:
            at = bisect.bisect_left(self._ids, prefix)
            found = []
            for id in self._ids[at:]:
                if not id.startswith(prefix):
                    break
                found.append(id)
        if found and (len(found) == 1 or found[0] == prefix):
            return found[0]
        if not found:
            raise _unknown(prefix)
        names = ", ".join(short_id(id) for id in found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        text = f"Multiple IDs found with provided prefix: {prefix} ({names})"
        raise Ambiguous(text, code="graph-prefix-ambiguous")

    def __contains__(self, id: str) -> bool:
        with self._lock:
            at = bisect.bisect_left(self._ids, id)
            return at < len(self._ids) and self._ids[at] == id

    def __len__(self) -> int:
        return len(self._ids)


def _unknown(id: str) -> NotFound:
    return NotFound(f"No such id: {id[:80]}", code="graph-no-such-id")
