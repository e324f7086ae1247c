"""Times of records: RFC 3339 with nanoseconds and the zone they were written in, as Go's ``time.Time`` prints them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Self

from lamella.errors import InvalidInput

_CLOCK = r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d)(?:[.,](\d+))?"
_FORM = re.compile(_CLOCK + r"(?:(Z)|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII)
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time to the nanosecond. ``wall`` has the zone, and no fraction of a second."""

    wall: datetime
    nanosecond: int = 0

    @classmethod
    def now(cls, *, utc: bool) -> Self:
        """This moment, in UTC or in the zone of the machine."""
        here = datetime.now(UTC)
        if not utc:
            here = here.astimezone()
        return cls(here.replace(microsecond=0), here.microsecond * 1000)

    @classmethod
    def of_epoch(cls, seconds: int) -> Self:
        """Seconds since 1970, in UTC. Raises InvalidInput outside the years 1 to 9999."""
        try:
            return cls(datetime.fromtimestamp(seconds, UTC))
        except (OverflowError, ValueError, OSError):
            raise InvalidInput(f"{seconds} is no time of the years 1 to 9999", code="graph-time") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """An RFC 3339 time; of more than nine digits of a second the first nine count. Raises InvalidInput."""
        found = _FORM.fullmatch(text)
        try:
            if found is None:
                raise ValueError(text)
            clock, fraction, _, sign, hours, minutes = found.groups()
            zone = UTC
            if sign is not None:
                offset = timedelta(hours=int(hours), minutes=int(minutes))
                zone = timezone(-offset if sign == "-" else offset) if offset else UTC
            wall = datetime.fromisoformat(clock).replace(tzinfo=zone)
        except ValueError:
            raise InvalidInput(f"parsing time {text[:60]!r}: not an RFC 3339 time", code="graph-time") from None
        return cls(wall, int((fraction or "0")[:9].ljust(9, "0")))

    def __str__(self) -> str:
        """As Go's RFC3339Nano: no zeros at the end of the fraction, ``Z`` for UTC."""
        text = self.wall.replace(tzinfo=None).isoformat()
        text = text.rjust(19, "0")  # the year 1 has one digit in some C libraries
        fraction = f".{self.nanosecond:09d}".rstrip("0") if self.nanosecond else ""
        offset = int((self.wall.utcoffset() or timedelta()).total_seconds()) // 60
        if not offset:
            return f"{text}{fraction}Z"
        return f"{text}{fraction}{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"

    @property
    def is_zero(self) -> bool:
        """Whether this is Go's zero time, which says that none was set."""
        return self == ZERO

    @property
    def epoch_ns(self) -> int:
        """Nanoseconds since 1970."""
        since = self.wall - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86400 + since.seconds) * _NS + self.nanosecond


ZERO = Moment(datetime(1, 1, 1, tzinfo=UTC))
"""Go's zero time: the first moment of the year 1."""
