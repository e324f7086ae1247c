"""Manifest, Index and ImageConfig: read, never rewritten. ``raw`` is the truth, the fields are a view of it.

Formats: OCI image-spec 1.1 ``manifest.md``, ``image-index.md``, ``config.md`` and Docker's image manifest version 2
schema 2, whose documents differ in media types only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from lamella.errors import Integrity, InvalidInput, ResourceExhausted, Unsupported
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest, chain_ids
from lamella.spec.jsondoc import Object
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.platform import Platform


def _schema_version(obj: Object, what: str) -> None:
    version = jsondoc.field(obj, "schemaVersion", int, what)
    if version != 2:
        raise Unsupported(f"{what} has schemaVersion {version}; only 2 is supported", code="schema-version")


def _descriptors(obj: Object, key: str, what: str) -> tuple[Descriptor, ...]:
    if key in obj and obj[key] is None:
        return ()  # what Go writes for a list that was never filled
    values: list[Any] = jsondoc.field(obj, key, list, what)
    return tuple(Descriptor.from_object(v, f"{key}[{i}] of {what}") for i, v in enumerate(values))


def _media_type(obj: Object, stated: str, allowed: frozenset[str], default: str, what: str) -> str:
    """The media type that the document states or was offered as; ``default`` if nobody says."""
    own = jsondoc.optional(obj, "mediaType", str, what)
    if own and stated and own != stated:
        raise InvalidInput(f"{what} says it is a {own}, but was offered as a {stated}", code="media-type-mismatch")
    result = own or stated or default
    if result not in allowed:
        raise Unsupported(f"{what} has the media type '{result[:100]}'", code="media-type")
    return result


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: one config and its layers, bottom first."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str
    annotations: Mapping[str, str] = field(hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "", *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read a manifest; ``media_type`` is what it was offered as.

        Raises InvalidInput for a malformed document or one that is a manifest and an index at once
        (CVE-2021-41190), Unsupported for another schema or media type, ResourceExhausted for too many layers.
        """
        what = "manifest"
        obj = jsondoc.parse_object(raw, what, limits=limits)
        _schema_version(obj, what)
        if "manifests" in obj:
            raise InvalidInput(
                "the manifest has 'manifests': it could be taken for an index", code="document-ambiguous"
            )
        layers = _descriptors(obj, "layers", what)
        if len(layers) > limits.layers:
            raise ResourceExhausted(f"{len(layers)} layers, over the limit of {limits.layers}", code="layer-count")
        subject = obj.get("subject")
        return cls(
            raw,
            _media_type(obj, media_type, media.MANIFESTS, media.OCI_MANIFEST, what),
            Descriptor.from_object(jsondoc.field(obj, "config", dict, what), "config of manifest"),
            layers,
            None if subject is None else Descriptor.from_object(subject, "subject of manifest"),
            jsondoc.optional(obj, "artifactType", str, what) or "",
            jsondoc.string_map(obj, "annotations", what),
        )

    def paired(self, config: ImageConfig, subject: str) -> list[tuple[Descriptor, Digest]]:
        """Each layer with the diff_id that the image's config promises for it.

        Raises Integrity (``layer-count-mismatch``), naming ``subject``, when there are more of one than of the other.
        """
        if len(self.layers) != len(config.diff_ids):
            raise Integrity(
                f"the manifest has {len(self.layers)} layers, the config {len(config.diff_ids)}",
                code="layer-count-mismatch",
                subject=subject,
            )
        return list(zip(self.layers, config.diff_ids, strict=True))

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this document."""
        return Descriptor.of(self.media_type, self.raw)

    @property
    def is_image(self) -> bool:
        """Whether this is a runnable image: a config that is one, and nothing but tar layers.

        Signatures and attestations use manifests too; those are kept whole, but are no images.
        """
        return self.config.media_type in media.CONFIGS and all(layer.is_layer for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Index:
    """An image index (Docker: manifest list): manifests, each for a platform."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "", *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read an index; errors as for Manifest.parse."""
        what = "index"
        obj = jsondoc.parse_object(raw, what, limits=limits)
        _schema_version(obj, what)
        if "layers" in obj or "config" in obj:
            raise InvalidInput(
                "the index has 'layers' or 'config': it could be taken for a manifest", code="document-ambiguous"
            )
        return cls(
            raw,
            _media_type(obj, media_type, media.INDEXES, media.OCI_INDEX, what),
            _descriptors(obj, "manifests", what),
            jsondoc.string_map(obj, "annotations", what),
        )

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this document."""
        return Descriptor.of(self.media_type, self.raw)


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One entry of a config's history; ``empty_layer`` entries have no layer."""

    created: datetime | None
    created_by: str
    author: str
    comment: str
    empty_layer: bool


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image configuration: what to run, on which platform, and the diff_ids of its layers, bottom first."""

    raw: bytes
    fields: Object = field(hash=False)
    platform: Platform
    created: datetime | None
    author: str
    config: Object = field(hash=False)
    diff_ids: tuple[Digest, ...]
    history: tuple[HistoryRecord, ...]

    @classmethod
    def parse(cls, raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read a configuration.

        Raises InvalidInput for missing and wrong-typed fields and for a history of more layers than there are (of fewer
        is common: what was imported has none), Unsupported for a rootfs that is no list of layers, ResourceExhausted
        for too many; unknown fields are kept in ``raw`` and ``fields``.
        """
        what = "image config"
        obj = jsondoc.parse_object(raw, what, limits=limits)
        rootfs: Object = jsondoc.field(obj, "rootfs", dict, what)
        if jsondoc.field(rootfs, "type", str, "rootfs of image config", "layers") != "layers":
            raise Unsupported("the rootfs of the image config is not of type 'layers'", code="rootfs-type")
        diff_ids = _diff_ids(rootfs, limits)
        history = tuple(_history(h) for h in jsondoc.field(obj, "history", list, what, []))
        counted = sum(not record.empty_layer for record in history)
        if counted > len(diff_ids):
            raise InvalidInput(f"its history has {counted} layers, its rootfs {len(diff_ids)}", code="history-layers")
        return cls(
            raw,
            obj,
            Platform.from_object(obj, what),
            parse_time(jsondoc.optional(obj, "created", str, what)),
            jsondoc.optional(obj, "author", str, what) or "",
            _run_config(obj),
            diff_ids,
            history,
        )

    @property
    def id(self) -> Digest:
        """The image's id: the digest of this document."""
        return Digest.of(self.raw)

    @property
    def chain_ids(self) -> list[Digest]:
        """The ChainID of every prefix of the layers, bottom first."""
        return chain_ids(self.diff_ids)

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the image carries."""
        return jsondoc.string_map(self.config, "Labels", "config of image config")


def _diff_ids(rootfs: Object, limits: Limits) -> tuple[Digest, ...]:
    what = "rootfs of image config"
    texts = jsondoc.strings(rootfs, "diff_ids", what)
    if len(texts) > limits.layers:
        raise ResourceExhausted(f"{len(texts)} layers, over the limit of {limits.layers}", code="layer-count")
    return tuple(jsondoc.digest(text, f"diff_ids[{n}] of {what}") for n, text in enumerate(texts))


_RUN_LISTS = ("Env", "Entrypoint", "Cmd", "OnBuild", "Shell")
_RUN_STRINGS = ("User", "WorkingDir", "StopSignal")
_RUN_MAPS = ("ExposedPorts", "Volumes")


def _run_config(obj: Object) -> Object:
    """The ``config`` object, with the fields that image-spec defines checked for their types."""
    what = "config of image config"
    config: Object = jsondoc.field(obj, "config", dict, "image config", {})
    for key in _RUN_LISTS:
        jsondoc.strings(config, key, what)
    for key in _RUN_STRINGS:
        jsondoc.optional(config, key, str, what)
    for key in _RUN_MAPS:
        jsondoc.optional(config, key, dict, what)
    jsondoc.string_map(config, "Labels", what)
    return config


def _history(obj: object) -> HistoryRecord:
    what = "history of image config"
    if not isinstance(obj, dict):
        raise InvalidInput(f"{what} has an entry that is not an object", code="document-wrong-type")
    return HistoryRecord(
        parse_time(jsondoc.optional(obj, "created", str, what)),
        jsondoc.optional(obj, "created_by", str, what) or "",
        jsondoc.optional(obj, "author", str, what) or "",
        jsondoc.optional(obj, "comment", str, what) or "",
        bool(jsondoc.optional(obj, "empty_layer", bool, what)),
    )


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time with any number of fractional digits, cut to microseconds. Raises InvalidInput.

    None for no text, and for the first moment of the year 1 in UTC: Go's zero time, which means that none was set.
    """
    if not text:
        return None
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        day, clock, fraction, zone = found.groups()
        moment = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '')[:6]:0<6}{zone.upper()}")
    except ValueError:
        raise InvalidInput(f"'{text[:60]}' is not an RFC 3339 time", code="time-syntax") from None
    return None if moment == _ZERO_TIME else moment


_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one. ``moment`` has a time zone."""
    with suppress(OverflowError):  # within a day of the first or the last moment there is: keeps its own zone
        moment = moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z")
