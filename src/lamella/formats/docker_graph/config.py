"""What a container is to run with (docker's ``Config``): its fields through the releases, merging and comparing.

The fields and their order are those of docker 0.4.0 to 1.0.0; a release has those of the table that it knew.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lamella.errors import InvalidInput
from lamella.formats.docker_graph import gojson

Release = tuple[int, int, int]
"""A release of docker, as ``(0, 4, 0)``."""

V0_4_0: Release = (0, 4, 0)
V1_0_0: Release = (1, 0, 0)
_NEVER: Release = (99, 0, 0)


class _Kind(enum.Enum):
    STRING = enum.auto()
    INT = enum.auto()
    BOOL = enum.auto()
    LIST = enum.auto()
    KEYS = enum.auto()


_ZERO: dict[_Kind, Any] = {_Kind.STRING: "", _Kind.INT: 0, _Kind.BOOL: False, _Kind.LIST: None, _Kind.KEYS: None}
_READERS = {
    _Kind.STRING: gojson.string_of,
    _Kind.INT: gojson.int_of,
    _Kind.BOOL: gojson.bool_of,
    _Kind.LIST: gojson.strings_of,
    _Kind.KEYS: gojson.keys_of,
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: _Kind
    since: Release = V0_4_0
    until: Release = _NEVER


_FIELDS = (
    _Field("Hostname", _Kind.STRING),
    _Field("Domainname", _Kind.STRING, (0, 6, 2)),
    _Field("User", _Kind.STRING),
    _Field("Memory", _Kind.INT),
    _Field("MemorySwap", _Kind.INT),
    _Field("CpuShares", _Kind.INT),
    _Field("Cpuset", _Kind.STRING, (0, 12, 0)),
    _Field("AttachStdin", _Kind.BOOL),
    _Field("AttachStdout", _Kind.BOOL),
    _Field("AttachStderr", _Kind.BOOL),
    _Field("PortSpecs", _Kind.LIST),
    _Field("ExposedPorts", _Kind.KEYS, (0, 6, 5)),
    _Field("Tty", _Kind.BOOL),
    _Field("OpenStdin", _Kind.BOOL),
    _Field("StdinOnce", _Kind.BOOL),
    _Field("Env", _Kind.LIST),
    _Field("Cmd", _Kind.LIST),
    _Field("Dns", _Kind.LIST, until=(0, 10, 0)),
    _Field("Image", _Kind.STRING),
    _Field("Volumes", _Kind.KEYS),
    _Field("VolumesFrom", _Kind.STRING, until=(0, 10, 0)),
    _Field("WorkingDir", _Kind.STRING, (0, 6, 0)),
    _Field("Entrypoint", _Kind.LIST, (0, 5, 0)),
    _Field("NetworkDisabled", _Kind.BOOL, (0, 5, 1)),
    _Field("Privileged", _Kind.BOOL, (0, 6, 0), (0, 7, 0)),
    _Field("OnBuild", _Kind.LIST, (0, 8, 0)),
)
_BY_NAME = {known.name: known for known in _FIELDS}
_NAMES = tuple(_BY_NAME)


@dataclass(frozen=True, slots=True)
class Config:
    """A run configuration. ``config["Cmd"]`` is a value, the zero value of its type where none was given.

    Lists are tuples and maps to nothing are frozensets; either is None where Go has nil. Equal are those whose values
    are equal.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = self.values.keys() - _BY_NAME.keys()
        if unknown:
            raise InvalidInput(f"no field of a configuration: {sorted(unknown)[0]}", code="graph-config-field")
        kept = {name: value for name, value in self.values.items() if value != _ZERO[_BY_NAME[name].kind]}
        object.__setattr__(self, "values", kept)

    def __hash__(self) -> int:
        return hash(frozenset(self.values.items()))

    @classmethod
    def of(cls, **values: Any) -> Self:
        """A configuration of these fields: lists and sets as any iterable. Raises InvalidInput for other names."""
        return cls({name: _frozen(name, value) for name, value in values.items()})

    @classmethod
    def from_object(cls, obj: gojson.Object, what: str, *, before: Config | None = None) -> Self:
        """What Go decodes from ``obj`` into ``before``. Raises InvalidInput naming the field of a wrong type."""
        values = dict(before.values) if before is not None else {}
        for name, value in gojson.members(obj, _NAMES):
            values[name] = _READERS[_BY_NAME[name].kind](value, f"{what}.{name}")
        return cls(values)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """A configuration from its JSON; ``null`` is the empty one. Raises InvalidInput."""
        return cls.from_object(gojson.parse_object(raw, "configuration"), "Config")

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name, _ZERO[_BY_NAME[name].kind])

    def members(self, release: Release = V0_4_0) -> dict[str, Any]:
        """Every field that ``release`` writes, in its order."""
        return {known.name: self[known.name] for known in _FIELDS if known.since <= release < known.until}

    def render(self, release: Release = V0_4_0, *, go: tuple[int, int] = gojson.GO_1_19) -> bytes:
        """The JSON that ``release`` writes."""
        return gojson.render(self.members(release), go=go)


def _frozen(name: str, value: Any) -> Any:
    kind = _BY_NAME[name].kind if name in _BY_NAME else None
    if value is not None and kind is _Kind.LIST:
        return tuple(value)
    if value is not None and kind is _Kind.KEYS:
        return frozenset(value)
    return value


_LIMITS = ("Memory", "MemorySwap", "CpuShares")
_FILLED_0_4 = ("Hostname", "User", *_LIMITS, "PortSpecs", "Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Dns")
_FILLED_1_0 = ("User", *_LIMITS, "Tty", "OpenStdin", "StdinOnce", "Cmd", "Entrypoint", "WorkingDir")
_COMPARED = ("AttachStdout", "AttachStderr", "User", *_LIMITS, "Tty", "Cmd", "Env", "PortSpecs")
_COMPARED_0_4 = (*_COMPARED, "Dns")
_COMPARED_1_0 = (*_COMPARED, "Entrypoint", "ExposedPorts", "Volumes")


def merge(user: Config, image: Config, *, release: Release = V0_4_0) -> Config:
    """``user`` with what it leaves open taken from the ``image``, as ``release`` did when it made a container.

    0.4.0 fills whole fields. From 0.5.0 the host name is the container's own, from 0.10 name servers are not in a
    configuration. 1.0.0 joins environments variable by variable (the user's win), unites ports and volumes and turns
    ``PortSpecs`` into exposed ports.
    """
    values = dict(user.values)
    if release >= V1_0_0:
        return _merge_1_0(values, user, image)
    for name in _FILLED_0_4:
        if name == "Hostname" and release >= (0, 5, 0):
            continue
        if name == "Dns" and release >= (0, 10, 0):
            continue
        if not user[name]:
            values[name] = image[name]
    return Config(values)


def _merge_1_0(values: dict[str, Any], user: Config, image: Config) -> Config:
    for name in _FILLED_1_0:
        if not user[name]:
            values[name] = image[name]
    mine = list(user["Env"] or ())
    taken = {variable.partition("=")[0] for variable in mine}
    values["Env"] = tuple(mine + [v for v in image["Env"] or () if v.partition("=")[0] not in taken]) or None
    ports = (user["ExposedPorts"] or frozenset()) | (image["ExposedPorts"] or frozenset())
    for specification in (*(user["PortSpecs"] or ()), *(image["PortSpecs"] or ())):
        ports |= {_exposed(specification)}
    values["ExposedPorts"] = ports or None
    values["PortSpecs"] = None
    values["Volumes"] = (user["Volumes"] or frozenset()) | (image["Volumes"] or frozenset()) or None
    return Config(values)


def _exposed(specification: str) -> str:
    """The port of the container in ``[[address:]host:]container[/protocol]``, as ``80/tcp``."""
    port, _, protocol = specification.rpartition(":")[2].partition("/")
    return f"{port}/{protocol or 'tcp'}"


def same(left: Config | None, right: Config | None, *, release: Release = V0_4_0) -> bool:
    """Whether ``release`` took two configurations for the same when it looked for a built image to use again.

    Never when either is missing or keeps its input open. Names, the image, input and, before 1.0, volumes do not count;
    lists count with their order.
    """
    if left is None or right is None or left["OpenStdin"] or right["OpenStdin"]:
        return False
    names = _COMPARED_1_0 if release >= V1_0_0 else _COMPARED_0_4
    return all((left[name] or None) == (right[name] or None) for name in names)


def fields(release: Release) -> Iterator[str]:
    """The names of the fields of a release, in the order in which it writes them."""
    return (known.name for known in _FIELDS if known.since <= release < known.until)
