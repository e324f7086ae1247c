"""JSON documents from outside, read strictly: what two readers could take differently is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

from lamella.errors import InvalidInput, ResourceExhausted
from lamella.spec.digest import Digest
from lamella.spec.limits import DEFAULT_LIMITS, Limits

T = TypeVar("T")
Object = dict[str, Any]

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(raw: bytes, what: str, *, limits: Limits = DEFAULT_LIMITS) -> Object:
    """Parse ``raw`` as one JSON object of UTF-8.

    Raises InvalidInput for malformed JSON, a duplicate key, a number that is none or is infinite, text that is no
    Unicode (half a surrogate pair) or a top level that is no object, and ResourceExhausted for a document over the
    limits; ``what`` names the document in the message.
    """
    value = _parse(raw, what, limits)
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is a JSON {type(value).__name__}, not an object", code="document-type")
    return value


def parse_array(raw: bytes, what: str, *, limits: Limits = DEFAULT_LIMITS) -> list[Any]:
    """Parse ``raw`` as one JSON array of UTF-8; errors as for parse_object."""
    value = _parse(raw, what, limits)
    if not isinstance(value, list):
        raise InvalidInput(f"{what} is a JSON {type(value).__name__}, not an array", code="document-type")
    return value


def _parse(raw: bytes, what: str, limits: Limits) -> Any:
    if len(raw) > limits.document_bytes:
        raise ResourceExhausted(
            f"{what} has {len(raw)} bytes, over the limit of {limits.document_bytes}", code="document-size"
        )

    def unique(pairs: list[tuple[str, Any]]) -> Object:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise InvalidInput(f"{what} has the key '{twice[:80]}' twice", code="document-duplicate-key")
        return result

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):  # NaN and Infinity, which JSON does not have, and what is too large, as 1e999
            raise InvalidInput(f"{what} has the number {text[:40]}", code="document-syntax")
        return value

    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=number, parse_float=number)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a pair has become one character, a half cannot
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:  # UnicodeError is one
        raise InvalidInput(f"{what} is not JSON: {error}", code="document-syntax") from None
    _check_depth(value, what, limits.document_depth)
    return value


def _check_depth(value: Any, what: str, limit: int) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [member for group in members for member in group if isinstance(member, (dict, list))]
        if not level:
            return
    raise _too_deep(what)


def _too_deep(what: str) -> ResourceExhausted:
    return ResourceExhausted(f"{what} is nested too deeply", code="document-depth")


def field(obj: Object, key: str, kind: type[T], what: str, default: T | None = None) -> T:
    """``obj[key]`` if it is of ``kind``; ``default`` if it is absent or null and there is a default.

    Raises InvalidInput for a missing or wrong-typed field. ``bool`` is not taken for ``int``.
    """
    value = obj.get(key)
    if value is None:
        if default is None:
            raise InvalidInput(f"{what} has no '{key}'", code="document-missing-field")
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidInput(
            f"'{key}' of {what} is a {type(value).__name__}, not a {kind.__name__}", code="document-wrong-type"
        )
    return value


def optional(obj: Object, key: str, kind: type[T], what: str) -> T | None:
    """``obj[key]`` if present and not null, of ``kind``. Raises InvalidInput for a wrong type."""
    return None if obj.get(key) is None else field(obj, key, kind, what)


def strings(obj: Object, key: str, what: str) -> list[str]:
    """``obj[key]`` as a list of strings; absent and null are the empty list."""
    values: list[Any] = field(obj, key, list, what, [])
    if not all(isinstance(value, str) for value in values):
        raise InvalidInput(f"'{key}' of {what} has a member that is no string", code="document-wrong-type")
    return values


def string_map(obj: Object, key: str, what: str) -> dict[str, str]:
    """``obj[key]`` as a map of strings to strings; absent and null are the empty map."""
    values: dict[str, Any] = field(obj, key, dict, what, {})
    if not all(isinstance(value, str) for value in values.values()):
        raise InvalidInput(f"'{key}' of {what} has a value that is no string", code="document-wrong-type")
    return values


def digest(value: str, what: str) -> Digest:
    """The digest that ``value`` is. Raises InvalidInput, about ``what``."""
    try:
        return Digest.parse(value)
    except InvalidInput as error:
        raise error.about(subject=what) from None


def render(obj: Any) -> bytes:
    """The one serialisation that Lamella writes: compact, UTF-8, keys in the order given.

    Raises InvalidInput for text that is none: half a surrogate pair, as a command line argument may come with.
    """
    try:
        return json.dumps(obj, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object[error.start]!r} is no character", code="document-text") from None
