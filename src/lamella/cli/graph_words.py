"""Sizes and ages as docker's first years wrote them, for what ``lamella graph`` prints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lamella.cli.output import clean

if TYPE_CHECKING:
    from lamella.formats.docker_graph.moment import Moment

CELL = 20
"""Characters that a cell of a table has at least."""

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_HOUR, _DAY = 3600, 86400
_STEPS = (
    (60, 1, "seconds"), (_HOUR, 60, "minutes"), (48 * _HOUR, _HOUR, "hours"), (14 * _DAY, _DAY, "days"),
    (90 * _DAY, 7 * _DAY, "weeks"), (730 * _DAY, 30 * _DAY, "months"),
)  # fmt: skip
_ONE = {"minutes": "About a minute", "hours": "About an hour"}


def size(count: int | None) -> str:
    """Bytes: four digits, powers of a thousand. N/A where nobody knows."""
    if count is None:
        return "N/A"
    number, unit = float(count), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.4g} {_UNITS[unit]}"


def age(created: Moment) -> str:
    """How long ago that was; N/A for the zero time."""
    if created.is_zero:
        return "N/A"
    return f"{duration(int((datetime.now(UTC) - created.wall).total_seconds()))} ago"


def duration(seconds: int) -> str:
    """Seconds, in the largest unit that says something; whole years, where docker printed fractions or an error."""
    if seconds < 1:
        return "Less than a second"
    for limit, length, unit in _STEPS:
        if seconds < limit:
            count = seconds // length
            return _ONE[unit] if count == 1 and unit in _ONE else f"{count} {unit}"
    return f"{seconds // (365 * _DAY)} years"


def cut(text: str, width: int) -> str:
    """``text`` on one line, and no more of it than ``width`` characters."""
    return clean(text)[:width]
