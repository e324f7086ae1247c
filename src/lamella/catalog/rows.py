"""How values are written into columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lamella.spec import jsondoc
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.platform import Platform

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The moment, in UTC; where UTC has left the years 1 to 9999, the first or last one it has."""
    try:
        return _EPOCH + micros * _MICROSECOND
    except OverflowError:
        return (datetime.min if micros < 0 else datetime.max).replace(tzinfo=UTC)


def now_micros() -> int:
    """This moment."""
    return to_micros(datetime.now(UTC))


def to_text(value: Descriptor | Platform) -> str:
    """The JSON of a descriptor or a platform."""
    return jsondoc.render(value.to_object()).decode("utf-8")


def descriptor(text: str) -> Descriptor:
    """The descriptor of its JSON."""
    return Descriptor.from_object(jsondoc.parse_object(text.encode("utf-8"), "descriptor"))


def platform(text: str) -> Platform:
    """The platform of its JSON."""
    return Platform.from_object(jsondoc.parse_object(text.encode("utf-8"), "platform"))


def digest_or_none(text: str | None) -> Digest | None:
    """The digest in a column that may be null."""
    return None if text is None else Digest.parse(text)
