"""Names inside layers, made canonical: relative, no ``.``, no ``..``, no empty component."""

from __future__ import annotations

from lamella.errors import InvalidInput, ResourceExhausted
from lamella.spec.limits import Limits

_NAME_MAX = 255
_DOT_OR_SLASH = (b".", b"/")


def normalize(name: bytes, limits: Limits) -> bytes:
    """The canonical form of the name of a tar member; the root is ``b""``.

    Absolute names are relative to the image's root, as every engine takes them. Raises InvalidInput for an empty name,
    a NUL and any ``..``, ResourceExhausted for names over the limits.
    """
    if not name:
        raise InvalidInput("the entry has an empty name", code="entry-name-empty", entry=name)
    path = name
    if path.startswith(b"./"):
        path = path[2:]
    if path.endswith(b"/"):
        path = path.rstrip(b"/")
    # Most names are canonical already: told as cheaply as can be.
    if (
        len(path) <= _NAME_MAX
        and b"/." not in path
        and b"//" not in path
        and b"\0" not in path
        and path[:1] not in _DOT_OR_SLASH
        and path.count(b"/") < limits.path_depth
    ):
        return path
    if b"\0" in path:
        raise InvalidInput("the name has a NUL byte", code="entry-name-nul", entry=name)
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidInput("the name has '..' in it", code="entry-name-escapes", entry=name)
    if any(len(part) > _NAME_MAX for part in parts):
        raise InvalidInput(f"a component has more than {_NAME_MAX} bytes", code="entry-name-long", entry=name[:300])
    path = b"/".join(parts)
    if len(path) > limits.path_bytes or len(parts) > limits.path_depth:
        raise ResourceExhausted("the path is longer or deeper than the limit", code="entry-path-long", entry=name[:300])
    return path


def components(path: bytes) -> list[bytes]:
    """The components of a canonical path; none for the root."""
    return path.split(b"/") if path else []


def join(parent: bytes, name: bytes) -> bytes:
    """The path of ``name`` in the directory ``parent``."""
    return parent + b"/" + name if parent else name


def ancestors(path: bytes) -> list[bytes]:
    """Every directory above ``path``, the topmost first, without the root and without ``path`` itself."""
    parts = path.split(b"/")
    return [b"/".join(parts[:i]) for i in range(1, len(parts))]


def from_text(text: str | bytes) -> bytes:
    """A path as a user gives it (``/etc/motd``, ``etc/motd``), as bytes relative to the root; ``..`` stays in."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return b"/".join(part for part in raw.split(b"/") if part not in (b"", b"."))
