"""Images as they were before 2016, with a record, a parent and one layer each, and today's documents made of them.

Formats: the records of docker 0.4 to 1.9 (``json`` in the graph, in archives and in registries of version 1); the
documents are of OCI image-spec 1.1. What a record says goes into the image's configuration; the record itself, byte by
byte, and its id go into annotations of the layer that it had, so that they travel with the image and its children, and
the very same record can be written again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from lamella.errors import InvalidInput, LamellaError, NotFound, ResourceExhausted
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig, Manifest
from lamella.spec.jsondoc import Object
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.platform import Platform

V1_ID = "lamella.v1.id"
"""Annotation of a layer, and of the manifest of an image that is exactly a v1 image: the id that it had."""

V1_JSON = "lamella.v1.json"
"""Annotation of a layer: the record, byte by byte."""

V1_CHECKSUM = "lamella.v1.checksum"
"""Annotation of a layer: the checksum that was kept for the v1 image (``sha256:...``, ``tarsum+sha256:...``)."""

_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{16}")

_STRINGS = ("id", "parent", "comment", "created", "container", "docker_version", "author", "architecture", "os")
_OBJECTS = ("container_config", "config")
_KEYS = {key: key for key in (*_STRINGS, *_OBJECTS, "size")} | {
    # What docker 0.12 and 1.0 saved, and could not fully read again.
    "containerconfig": "container_config",
    "dockerversion": "docker_version",
}
_CONFIG_KEYS = {
    key.lower(): key
    for key in (
        "Hostname", "Domainname", "User", "Memory", "MemorySwap", "CpuShares", "Cpuset", "AttachStdin", "AttachStdout",
        "AttachStderr", "PortSpecs", "ExposedPorts", "Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Dns", "Image",
        "Volumes", "VolumesFrom", "WorkingDir", "Entrypoint", "NetworkDisabled", "Privileged", "MacAddress", "OnBuild",
        "Labels", "StopSignal",
    )
}  # fmt: skip
_KEPT = ("created", "author", "comment", "container", "docker_version", "container_config", "config")


def check_id(text: str) -> str:
    """The id of a v1 image: 64 hexadecimal digits, or 16 as in the first months of 2013. Raises InvalidInput."""
    if not _ID.fullmatch(text):
        raise InvalidInput(f"image ID '{text[:80]}' is invalid", code="v1-id", hint="ids have 64 hexadecimal digits")
    return text


@dataclass(frozen=True, slots=True)
class V1Image:
    """One record. ``raw`` is the truth; ``fields`` has what is known of it under the names of docker 0.4."""

    raw: bytes
    id: str
    parent: str
    fields: Object = field(hash=False)

    @classmethod
    def parse(cls, raw: bytes, what: str = "image record", *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """Read a record as docker did: keys in any case, unknown ones ignored, null as absent.

        Raises InvalidInput for malformed JSON, wrong types, an id or a parent that is none (``v1-id``).
        """
        obj = jsondoc.parse_object(raw, what, limits=limits)
        fields: Object = {}
        for key, value in obj.items():
            name = _KEYS.get(key.lower())
            if name is None or value is None:
                continue
            if name in fields:
                raise InvalidInput(f"{what} has the key '{name}' twice", code="document-duplicate-key")
            fields[name] = value
        for name in _STRINGS:
            jsondoc.optional(fields, name, str, what)
        for name in _OBJECTS:
            config = jsondoc.optional(fields, name, dict, what)
            if config is not None:
                fields[name] = _config_fields(config, f"{name} of {what}")
        parent = fields.get("parent", "")
        return cls(raw, check_id(fields.get("id", "")), check_id(parent) if parent else "", fields)

    @property
    def created_by(self) -> str:
        """The command that the container ran. Raises InvalidInput for one that is no list of strings."""
        config = self.fields.get("container_config") or {}
        return " ".join(jsondoc.strings(config, "Cmd", f"container_config of {self.id}"))


def _config_fields(config: Object, what: str) -> Object:
    """A configuration with its keys as docker wrote them; it read them in any case, but nobody does today."""
    fields: Object = {}
    for key, value in config.items():
        name = _CONFIG_KEYS.get(key.lower(), key)
        if name in fields:
            raise InvalidInput(f"{what} has the key '{name[:80]}' twice", code="document-duplicate-key")
        fields[name] = value
    return fields


def parents_first(images: Mapping[str, V1Image]) -> list[V1Image]:
    """All of ``images`` (by id), each after its parent.

    Raises InvalidInput (``v1-cycle``) for images that are their own ancestors and NotFound (``v1-parent-missing``) for
    a parent that is not among them, naming both.
    """
    done: dict[str, V1Image] = {}
    for image in images.values():
        path: dict[str, V1Image] = {}
        at: V1Image | None = image
        while at is not None and at.id not in done:
            if at.id in path:
                raise InvalidInput(
                    f"it is its own ancestor, over {at.parent}", code="v1-cycle", subject=f"image {at.id}"
                )
            path[at.id] = at
            above = at.parent
            if above and above not in images:
                raise NotFound(f"its parent {above} is missing", code="v1-parent-missing", subject=f"image {at.id}")
            at = images[above] if above else None
        done.update(reversed(path.items()))
    return list(done.values())


@dataclass(frozen=True, slots=True)
class V1Layer:
    """A v1 image with its layer: the blob as it lies there, and the digest of the tar that it unpacks to.

    ``labels`` are further annotations to keep with it.
    """

    image: V1Image
    layer: Descriptor
    diff_id: Digest
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def descriptor(self) -> Descriptor:
        """The layer with the annotations that keep what it was."""
        notes = {V1_ID: self.image.id, V1_JSON: self.image.raw.decode("utf-8"), **self.labels}
        return replace(self.layer, annotations={**self.layer.annotations, **notes})


def to_documents(chain: Sequence[V1Layer], *, limits: Limits = DEFAULT_LIMITS) -> tuple[ImageConfig, Manifest]:
    """The configuration and the manifest of the v1 image at the end of ``chain``, which begins with its base.

    Always the same for the same chain. Every layer is kept, empty ones too. Raises InvalidInput, about the image, for a
    record that no configuration can be made of, ResourceExhausted for more layers than ``limits`` allows.
    """
    top = chain[-1].image
    if len(chain) > limits.layers:
        raise ResourceExhausted(
            f"{len(chain)} layers, over the limit of {limits.layers}", code="layer-count", subject=f"image {top.id}"
        )
    try:
        config = ImageConfig.parse(jsondoc.render(_config(chain)), limits=limits)
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": Descriptor.of(media.OCI_CONFIG, config.raw).to_object(),
            "layers": [link.descriptor.to_object() for link in chain],
            "annotations": {V1_ID: top.id},
        }
        return config, Manifest.parse(jsondoc.render(document), limits=limits)
    except LamellaError as error:
        raise error.about(subject=f"image {top.id}") from None


def _config(chain: Sequence[V1Layer]) -> Object:
    fields = chain[-1].image.fields
    platform = Platform(fields.get("os") or "linux", fields.get("architecture") or "amd64").normalized()
    config: Object = platform.to_object()
    config |= {key: fields[key] for key in _KEPT if fields.get(key)}
    config["rootfs"] = {"type": "layers", "diff_ids": [str(link.diff_id) for link in chain]}
    config["history"] = [_step(link.image) for link in chain]
    return config


def _step(image: V1Image) -> dict[str, Any]:
    fields = image.fields
    step = {
        "created": fields.get("created"),
        "created_by": image.created_by,
        "author": fields.get("author"),
        "comment": fields.get("comment"),
    }
    return {key: value for key, value in step.items() if value}


# -- and back


def kept_images(manifest: Manifest, *, limits: Limits = DEFAULT_LIMITS) -> list[V1Image]:
    """The records that the lowest layers of an image keep, up to the first that keeps none or does not fit.

    A record fits if it has the id that stands beside it and the record below it as its parent: what others wrote into
    annotations cannot make a chain that is none.
    """
    found: list[V1Image] = []
    for layer in manifest.layers:
        try:
            image = _kept_image(layer.annotations, limits)
        except InvalidInput:
            break
        if image is None or image.parent != (found[-1].id if found else ""):
            break
        found.append(image)
    return found


def kept_chain(manifest: Manifest, *, limits: Limits = DEFAULT_LIMITS) -> list[V1Image]:
    """The v1 images that an image consists of as far as they are known: what is above them has no record yet.

    All of them for an image that was one; of a child whose files are those of its parent, all but the last.
    """
    images = kept_images(manifest, limits=limits)
    if len(images) == len(manifest.layers) and not is_kept(manifest, images):
        del images[-1:]
    return images


def is_kept(manifest: Manifest, images: Sequence[V1Image]) -> bool:
    """Whether the image of ``manifest`` is the very v1 image that its topmost layer keeps, and not a child of it."""
    return len(images) == len(manifest.layers) > 0 and manifest.annotations.get(V1_ID) == images[-1].id


def _kept_image(annotations: Mapping[str, str], limits: Limits) -> V1Image | None:
    text = annotations.get(V1_JSON)
    if text is None:
        return None
    image = V1Image.parse(text.encode("utf-8", "surrogatepass"), limits=limits)
    return image if image.id == annotations.get(V1_ID) else None
