"""``WWW-Authenticate`` (RFC 9110, section 11.6.1): several challenges, each a scheme and parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:[ \t]+|\s*$|(?=\s*,))")
_PARAMETER = re.compile(rf"[\s,]*({_TOKEN})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|({_TOKEN}|[^\s,\"]+))")
_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate; ``scheme`` and the names of parameters are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """The challenges of all lines of the header, in order. What is malformed ends its line and is left out."""
    found: list[Challenge] = []
    for line in lines:
        found += _of_line(line[:_LIMIT])
    return found


def _of_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(line):
        scheme = _SCHEME.match(line, at)
        if scheme is None:
            break
        at = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(line, at)) is not None:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            at = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found
