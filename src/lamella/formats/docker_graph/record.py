"""The record of an image (``graph/<id>/json``): docker's ``Image``, from release 0.4.0 to 1.0.0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from lamella.formats.docker_graph import gojson, moment
from lamella.formats.docker_graph.config import V0_4_0, Config, Release
from lamella.formats.docker_graph.moment import Moment
from lamella.spec.limits import DEFAULT_LIMITS, Limits

_STRINGS = {
    "id": "id",
    "parent": "parent",
    "comment": "comment",
    "container": "container",
    "docker_version": "docker_version",
    "author": "author",
    "architecture": "architecture",
    "os": "os",
}
_KEYS = (*_STRINGS, "created", "container_config", "config", "Size")


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of an image. ``raw`` is the JSON that it was read from, which is what counts for checksums.

    ``config`` is None where there is none, which is not the same as an empty one. ``size`` is what the record says of
    its own layer's bytes (None before 0.4.1); what the layer really has is the image's to tell. The values are not
    checked: an id can be anything that JSON can say.
    """

    id: str = ""
    parent: str = ""
    comment: str = ""
    created: Moment = moment.ZERO
    container: str = ""
    container_config: Config = field(default_factory=Config)
    docker_version: str = ""
    author: str = ""
    config: Config | None = None
    architecture: str = ""
    os: str = ""
    size: int | None = None
    raw: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Decode a record as Go does: see ``gojson``. Ids are not validated.

        Raises InvalidInput (``graph-json``, ``graph-json-type``, ``graph-time``) and ResourceExhausted.
        """
        values: dict[str, Any] = {}
        for name, value in gojson.members(gojson.parse_object(raw, "image record", limits=limits), _KEYS):
            what = f"Image.{name}"
            if name == "created":
                values["created"] = Moment.parse(gojson.string_of(value, what))
            elif name == "Size":
                values["size"] = gojson.int_of(value, what)
            elif name in ("config", "container_config"):
                obj = gojson.object_of(value, what)
                values[name] = Config.from_object(obj, what, before=values.get(name))
            else:
                values[name] = gojson.string_of(value, what)
        return cls(**values, raw=raw)

    def members(self, release: Release = V0_4_0) -> dict[str, Any]:
        """The members of the JSON that ``release`` writes, in its order; what it leaves out is left out."""
        result: dict[str, Any] = {"id": self.id}
        _put(result, "parent", self.parent)
        _put(result, "comment", self.comment)
        result["created"] = str(self.created)
        _put(result, "container", self.container)
        result["container_config"] = self.container_config.members(release)
        _put(result, "docker_version", self.docker_version)
        _put(result, "author", self.author)
        if self.config is not None:
            result["config"] = self.config.members(release)
        _put(result, "architecture", self.architecture)
        if release >= (0, 7, 3):
            _put(result, "os", self.os)
        if release >= (0, 4, 1):
            result["Size"] = self.size or 0
        return result

    def render(self, release: Release = V0_4_0, *, go: tuple[int, int] = gojson.GO_1_19) -> bytes:
        """The JSON that ``release``, built with Go ``go``, writes for these values; ``raw`` is not looked at."""
        return gojson.render(self.members(release), go=go)

    @property
    def json(self) -> bytes:
        """The bytes of the record: those it was read from, or else as 0.4.0 writes it."""
        return self.raw if self.raw is not None else self.render()


def _put(target: dict[str, Any], key: str, value: str) -> None:
    if value:
        target[key] = value
