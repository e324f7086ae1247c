"""How a layer's tar says that something is gone: image-spec 1.1 ``layer.md`` "Whiteouts", and what AUFS adds to it.

AUFS keeps its own bookkeeping in a branch under names that start with ``.wh..wh.``; a layer that was tarred from a
branch carries it along. None of these names ever shows in an image. What a member is follows from its name alone: a
whiteout may be an empty file, a hard link to another whiteout, or anything else.
"""

from __future__ import annotations

import enum

from lamella.errors import InvalidInput

PREFIX = b".wh."
META = b".wh..wh."
OPAQUE = b".wh..wh..opq"
PSEUDO_LINKS = b".wh..wh.plnk"


class Marker(enum.IntEnum):
    """What the name of a member says about it."""

    NONE = 0
    WHITEOUT = 1
    OPAQUE = 2
    PSEUDO_LINK = 3
    BOOKKEEPING = 4


def classify(path: bytes) -> tuple[Marker, bytes]:
    """Tell what the normalised ``path`` is, and of what: the deleted path, the opaque directory, the pseudo-link.

    Raises InvalidInput for whiteouts that name nothing (``.wh.``) or a place outside (``.wh...``): engines disagree on
    them, down to deleting the directory that holds them.
    """
    if PREFIX not in path:
        return Marker.NONE, path
    parent, slash, name = path.rpartition(b"/")
    if slash and any(part.startswith(PREFIX) and part != PREFIX for part in parent.split(b"/")):
        if parent == PSEUDO_LINKS:
            return Marker.PSEUDO_LINK, name
        return Marker.BOOKKEEPING, path
    if not name.startswith(PREFIX):
        return Marker.NONE, path
    if name == OPAQUE:
        return Marker.OPAQUE, parent
    if name.startswith(META):
        return Marker.BOOKKEEPING, path
    victim = name[len(PREFIX) :]
    if victim in (b"", b".", b".."):
        raise InvalidInput("a whiteout must name what it deletes", code="whiteout-name", entry=path)
    return Marker.WHITEOUT, parent + slash + victim


def whiteout_of(path: bytes) -> bytes:
    """The name of the member that deletes ``path``. Raises InvalidInput where a layer cannot say it."""
    parent, slash, name = path.rpartition(b"/")
    if len(name) + len(PREFIX) > 255:
        raise InvalidInput("the name is too long for a whiteout", code="whiteout-name-long", entry=path)
    return parent + slash + PREFIX + name
