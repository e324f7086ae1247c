"""JSON as Go's ``encoding/json`` writes and reads it, which is what a docker of 2013 took for a record.

Written: compact, keys in the order given, UTF-8 kept, ``<`` ``>`` ``&`` and the two line separators escaped. Read: keys
match without regard to case, unknown keys are passed over, ``null`` leaves a value as it is, the last of equal keys
counts, what is no UTF-8 becomes U+FFFD, and a value of another type is an error.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lamella.errors import InvalidInput, ResourceExhausted
from lamella.spec.limits import DEFAULT_LIMITS, Limits

Value = Any
"""None, bool, int, str, a list of values, or an ``Object``."""

GO_1_1 = (1, 1)
"""What docker was built with until 0.6: leaves ``&`` and the line separators as they are."""
GO_1_19 = (1, 19)
"""The form that is written by default: tabs as ``\\t``, other control characters by number."""

_REPLACEMENT = "\ufffd"
_STRAY = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')
_INT64 = range(-(1 << 63), 1 << 63)
_INT64_DIGITS = 20
_KINDS = {bool: "bool", str: "string", list: "array", int: "number", float: "number"}


class Number(str):
    """A number as it was written."""

    __slots__ = ()


class Object(list[tuple[str, Value]]):
    """The members of a JSON object, in their order; a key may stand in it more than once."""

    __slots__ = ()


# -- writing


def render(value: Value, *, go: tuple[int, int] = GO_1_19) -> bytes:
    """The bytes that Go ``go`` writes for ``value``: a mapping keeps its order, a frozenset becomes a map to ``{}``."""
    parts: list[str] = []
    _put(value, parts, _escaper(go))
    return "".join(parts).encode()


def sorted_map(values: Mapping[str, Value]) -> dict[str, Value]:
    """A map in the order in which Go writes maps: that of the bytes of its keys."""
    return dict(sorted(values.items(), key=lambda item: item[0].encode("utf-8", "surrogatepass")))


def indented(raw: bytes, *, level: int = 0) -> str:
    """A JSON document as Go's ``json.Indent`` lays it out by four spaces: numbers, escapes and equal keys as they are.

    ``raw`` is JSON, which is not checked again; what is no UTF-8 in it becomes U+FFFD. The first line is not indented.
    """
    parts: list[str] = []
    before = ""
    for token in _TOKEN.findall(raw.decode("utf-8", "replace")):
        closing = token in ("}", "]")
        level -= closing
        opened = before in ("{", "[")
        if before == "," or opened != closing:
            parts.append("\n" + " " * 4 * level)
        parts.append(": " if token == ":" else token)
        level += token in ("{", "[")
        before = token
    return "".join(parts)


def _put(value: Value, parts: list[str], escapes: dict[int, str]) -> None:
    if value is None:
        parts.append("null")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, int):
        parts.append(str(value))
    elif isinstance(value, str):
        parts.append(f'"{_STRAY.sub(_REPLACEMENT, value).translate(escapes)}"')
    elif isinstance(value, frozenset):
        _put(sorted_map({key: {} for key in value}), parts, escapes)
    elif isinstance(value, Mapping):
        _put_members(value.items(), parts, escapes)
    else:
        _put_items(value, parts, escapes)


def _put_members(members: Iterable[tuple[str, Value]], parts: list[str], escapes: dict[int, str]) -> None:
    separator = "{"
    for key, value in members:
        parts.append(separator)
        _put(key, parts, escapes)
        parts.append(":")
        _put(value, parts, escapes)
        separator = ","
    parts.append("{}" if separator == "{" else "}")


def _put_items(items: Iterable[Value], parts: list[str], escapes: dict[int, str]) -> None:
    separator = "["
    for value in items:
        parts.append(separator)
        _put(value, parts, escapes)
        separator = ","
    parts.append("[]" if separator == "[" else "]")


def _escaper(go: tuple[int, int]) -> dict[int, str]:
    escapes = {code: f"\\u{code:04x}" for code in range(0x20)}
    escapes |= {ord(c): f"\\u{ord(c):04x}" for c in "<>"}
    escapes |= {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r"}
    if go >= (1, 2):
        escapes |= {ord(c): f"\\u{ord(c):04x}" for c in "&\u2028\u2029"}
    if go >= (1, 5):
        escapes[ord("\t")] = "\\t"
    if go >= (1, 22):
        escapes |= {ord("\b"): "\\b", ord("\f"): "\\f"}
    return escapes


# -- reading


def parse(raw: bytes, what: str, *, limits: Limits = DEFAULT_LIMITS) -> Value:
    """Any JSON value; ``what`` names the document in errors.

    Raises InvalidInput (``graph-json``) for what is no JSON, ResourceExhausted for a document over the limits.
    """
    if len(raw) > limits.document_bytes:
        raise ResourceExhausted(
            f"{what} has {len(raw)} bytes, over the limit of {limits.document_bytes}", code="document-size"
        )
    if not raw.strip(b" \t\r\n"):
        raise InvalidInput(f"{what}: unexpected end of JSON input", code="graph-json")
    text = _STRAY.sub(_REPLACEMENT, raw.decode("utf-8", "surrogateescape"))
    try:
        value = json.loads(
            text, object_pairs_hook=Object, parse_int=Number, parse_float=Number, parse_constant=_no_constant
        )
    except RecursionError:
        raise ResourceExhausted(f"{what} is nested too deeply", code="document-depth") from None
    except ValueError as error:
        raise InvalidInput(f"{what}: {error}", code="graph-json") from None
    _check_depth(value, what, limits.document_depth)
    return value


def parse_object(raw: bytes, what: str, *, limits: Limits = DEFAULT_LIMITS) -> Object:
    """A JSON object; ``null`` counts as an empty one. Errors as for ``parse``."""
    return object_of(parse(raw, what, limits=limits), what)


def members(obj: Object, names: tuple[str, ...]) -> Iterable[tuple[str, Value]]:
    """The members of an object that Go would decode into fields of these ``names``, under those; no nulls."""
    folded = _folded(names)
    for key, value in obj:
        name = folded.get(key) or folded.get(_fold(key))
        if name is not None and value is not None:
            yield name, value


def string_of(value: Value, what: str) -> str:
    """A string. Raises InvalidInput."""
    if isinstance(value, str) and not isinstance(value, Number):
        return _STRAY.sub(_REPLACEMENT, value)
    raise _mismatch(value, "string", what)


def int_of(value: Value, what: str) -> int:
    """A number that fits 64 bits and is written without fraction or exponent. Raises InvalidInput."""
    if isinstance(value, Number) and len(value) <= _INT64_DIGITS and value.lstrip("-").isdigit():
        number = int(value)
        if number in _INT64:
            return number
    raise _mismatch(value, "int64", what)


def bool_of(value: Value, what: str) -> bool:
    """true or false. Raises InvalidInput."""
    if isinstance(value, bool):
        return value
    raise _mismatch(value, "bool", what)


def strings_of(value: Value, what: str) -> tuple[str, ...]:
    """A list of strings; a null in it is an empty one. Raises InvalidInput."""
    if not isinstance(value, list) or isinstance(value, Object):
        raise _mismatch(value, "[]string", what)
    return tuple("" if item is None else string_of(item, what) for item in value)


def keys_of(value: Value, what: str) -> frozenset[str]:
    """The keys of a map to empty structures. Raises InvalidInput."""
    for _, below in object_of(value, what):
        if below is not None:
            object_of(below, what)
    return frozenset(string_of(key, what) for key, _ in object_of(value, what))


def object_of(value: Value, what: str) -> Object:
    """An object; null is an empty one. Raises InvalidInput."""
    if value is None:
        return Object()
    if isinstance(value, Object):
        return value
    raise _mismatch(value, "struct", what)


def _no_constant(text: str) -> Value:
    raise ValueError(f"invalid character '{text[0]}' looking for beginning of value")


@functools.cache
def _folded(names: tuple[str, ...]) -> dict[str, str]:
    """Each name by itself, and by its folded form where that is no other's."""
    return {_fold(name): name for name in names} | {name: name for name in names}


def _fold(key: str) -> str:
    """A key as Go compares keys: the long s and the Kelvin sign are letters too."""
    return key.replace("\u017f", "s").replace("\u212a", "k").lower()


def _mismatch(value: Value, wanted: str, what: str) -> InvalidInput:
    if isinstance(value, Object):
        found = "object"
    elif isinstance(value, Number):
        found = f"number {value[:40]}" if wanted == "int64" else "number"
    else:
        found = _KINDS.get(type(value), "null")
    return InvalidInput(
        f"json: cannot unmarshal {found} into Go value of type {wanted} ({what})", code="graph-json-type"
    )


def _check_depth(value: Value, what: str, limit: int) -> None:
    level = [value] if isinstance(value, list) else []
    for _ in range(limit):
        groups = [[item for _, item in group] if isinstance(group, Object) else group for group in level]
        level = [item for group in groups for item in group if isinstance(item, list)]
        if not level:
            return
    raise ResourceExhausted(f"{what} is nested too deeply", code="document-depth")
