"""Descriptors: OCI image-spec 1.1 ``descriptor.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from lamella.errors import InvalidInput
from lamella.spec import jsondoc, media
from lamella.spec.digest import Digest
from lamella.spec.jsondoc import Object
from lamella.spec.platform import Platform

_MAX_SIZE = (1 << 63) - 1

REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a blob is (media type), which it is (digest) and how many bytes it has (size)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str = ""
    urls: tuple[str, ...] = ()

    @classmethod
    def from_object(cls, obj: object, what: str = "descriptor") -> Self:
        """Read a descriptor. Raises InvalidInput for missing or wrong-typed fields and an impossible size."""
        if not isinstance(obj, dict):
            raise InvalidInput(f"{what} is not a JSON object", code="document-type")
        size = jsondoc.field(obj, "size", int, what)
        if not 0 <= size <= _MAX_SIZE:
            raise InvalidInput(f"'size' of {what} is {str(size)[:40]}", code="descriptor-size")
        platform = jsondoc.optional(obj, "platform", dict, what)
        return cls(
            jsondoc.field(obj, "mediaType", str, what),
            jsondoc.digest(jsondoc.field(obj, "digest", str, what), f"'digest' of {what}"),
            size,
            jsondoc.string_map(obj, "annotations", what),
            None if platform is None else Platform.from_object(platform, f"platform of {what}"),
            jsondoc.optional(obj, "artifactType", str, what) or "",
            tuple(jsondoc.strings(obj, "urls", what)),
        )

    @classmethod
    def of(cls, media_type: str, data: bytes, **fields: Any) -> Self:
        """The descriptor of ``data``."""
        return cls(media_type, Digest.of(data), len(data), **fields)

    @property
    def is_index(self) -> bool:
        """Whether this describes an image index (a manifest list)."""
        return self.media_type in media.INDEXES

    @property
    def is_manifest(self) -> bool:
        """Whether this describes an image manifest."""
        return self.media_type in media.MANIFESTS

    @property
    def is_layer(self) -> bool:
        """Whether this describes a tar layer."""
        return self.media_type in media.LAYERS

    def named(self, name: str) -> Self:
        """The same descriptor, carrying ``name`` in ``org.opencontainers.image.ref.name``."""
        return replace(self, annotations={**self.annotations, REF_NAME: name})

    def to_object(self) -> Object:
        """The JSON form, absent fields left out."""
        obj: Object = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform is not None:
            obj["platform"] = self.platform.to_object()
        if self.urls:
            obj["urls"] = list(self.urls)
        if self.artifact_type:
            obj["artifactType"] = self.artifact_type
        if self.annotations:
            obj["annotations"] = dict(self.annotations)
        return obj
