"""How values are written into columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

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


def descriptor_columns(value: Descriptor) -> tuple[str, str, int, str]:
    """The columns ``media_type``, ``digest``, ``size`` and ``more``: JSON is only read again where there is more."""
    plain = value == Descriptor(value.media_type, value.digest, value.size)
    more = "" if plain else jsondoc.render(value.to_object()).decode("utf-8")
    return value.media_type, str(value.digest), value.size, more


def descriptor(media_type: str, digest_text: str, size: int, more: str) -> Descriptor:
    """The descriptor of those columns."""
    if more:
        return Descriptor.from_object(jsondoc.parse_object(more.encode("utf-8"), "descriptor"))
    return Descriptor(media_type, read_digest(digest_text), size)


def platform_column(value: Platform) -> str:
    """The JSON of a platform."""
    return jsondoc.render(value.to_object()).decode("utf-8")


@lru_cache(maxsize=64)
def platform(text: str) -> Platform:
    """The platform of its JSON."""
    return Platform.from_object(jsondoc.parse_object(text.encode("utf-8"), "platform"))


@lru_cache(maxsize=8192)
def read_digest(text: str) -> Digest:
    """The digest in a column. The layers that images share make most of a listing, so the latest are remembered."""
    return Digest.parse(text)


def digest_or_none(text: str | None) -> Digest | None:
    """The digest in a column that may be null."""
    return None if text is None else read_digest(text)
