"""Docker's image manifest version 2, schema 1: read, and converted to schema 2.

A schema 1 manifest has no configuration and no sizes: what docker would have made of it is made here, which takes the
layers themselves, as their diff_ids are nowhere written. The signatures say who sent the manifest and not that it is to
be trusted; they are not looked at. The digest of the manifest is that of what is signed.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamella._sys.files import os_errors
from lamella.archive.compression import DecompressReader
from lamella.content.verified import VerifiedReader
from lamella.errors import InvalidInput, LamellaError, ResourceExhausted, Unsupported
from lamella.registry.repository import Document, Repository
from lamella.registry.source import RegistrySource
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Offer, Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_CHUNK = 1 << 20
_DROPPED = frozenset({"id", "parent", "Size", "parent_id", "layer_id", "throwaway", "rootfs", "history"})
_WHAT = "schema 1 manifest"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the image's history, and its layer; a ``throwaway`` one changed no file."""

    blob: Digest
    record: jsondoc.Object
    throwaway: bool


def payload(raw: bytes) -> bytes:
    """What the signatures are over: the document without them (JSON Web Signature, as libtrust places it).

    Raises InvalidInput for a signature that does not say where it stands.
    """
    document = jsondoc.parse_object(raw, _WHAT)
    signatures: list[Any] = jsondoc.field(document, "signatures", list, _WHAT, [])
    if not signatures:
        return raw
    try:
        protected = json.loads(_base64url(signatures[0]["protected"]))
        length, tail = protected["formatLength"], _base64url(protected["formatTail"])
        if not isinstance(length, int) or not 0 <= length <= len(raw):
            raise ValueError
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise InvalidInput("its signature is malformed", code="schema1-malformed", subject=_WHAT) from None
    return raw[:length] + tail


def steps(raw: bytes, *, limits: Limits = DEFAULT_LIMITS) -> list[Step]:
    """The history of an image, first step first. Raises InvalidInput, ResourceExhausted."""
    document = jsondoc.parse_object(payload(raw), _WHAT, limits=limits)
    layers: list[Any] = jsondoc.field(document, "fsLayers", list, _WHAT)
    history: list[Any] = jsondoc.field(document, "history", list, _WHAT)
    if not layers or len(layers) != len(history):
        raise InvalidInput(
            f"it has {len(layers)} layers and {len(history)} records of them", code="schema1-malformed", subject=_WHAT
        )
    if len(layers) > limits.layers:
        raise ResourceExhausted(f"{len(layers)} layers, over the limit of {limits.layers}", code="layer-count")
    return [_step(layer, item, limits) for layer, item in zip(reversed(layers), reversed(history), strict=True)]


def _step(layer: Any, item: Any, limits: Limits) -> Step:
    if not isinstance(layer, dict) or not isinstance(item, dict):
        raise InvalidInput("a layer is no object", code="schema1-malformed", subject=_WHAT)
    text = jsondoc.field(item, "v1Compatibility", str, _WHAT)
    record = jsondoc.parse_object(text.encode(), "v1Compatibility", limits=limits)
    throwaway = bool(jsondoc.optional(record, "throwaway", bool, "v1Compatibility"))
    return Step(Digest.parse(layer.get("blobSum")), record, throwaway)


def configuration(history: list[Step], diff_ids: list[Digest]) -> bytes:
    """The image configuration that docker makes of a schema 1 manifest: the same bytes, and so the same id."""
    fields = {key: value for key, value in history[-1].record.items() if key not in _DROPPED}
    fields["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    fields["history"] = [_history(step) for step in history]
    return _go_json(dict(sorted(fields.items())))


def _history(step: Step) -> dict[str, Any]:
    record, what = step.record, "v1Compatibility"
    command = jsondoc.field(record, "container_config", dict, what, {})
    entry: dict[str, Any] = {"created": jsondoc.optional(record, "created", str, what) or "0001-01-01T00:00:00Z"}
    texts = {
        "author": jsondoc.optional(record, "author", str, what),
        "created_by": " ".join(jsondoc.strings(command, "Cmd", "container_config")),
        "comment": jsondoc.optional(record, "comment", str, what),
    }
    entry.update({key: text for key, text in texts.items() if text})
    if step.throwaway:
        entry["empty_layer"] = True
    return entry


def _go_json(value: Any) -> bytes:
    """JSON as Go's ``encoding/json`` writes it."""
    text = jsondoc.render(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def converted(
    repository: Repository,
    document: Document,
    names: tuple[str, ...],
    *,
    scratch: Path | None,
    progress: Progress = NO_PROGRESS,
) -> RegistrySource:
    """An endpoint that offers the image of a schema 1 manifest as one of schema 2; owns the repository's client.

    Its layers are fetched into ``scratch`` at once, verified, and read from there.
    """
    if scratch is None:
        raise Unsupported(
            "an image of Docker's schema 1 has to be converted", code="schema1", subject=str(document.descriptor.digest)
        )
    limits = repository.registry.limits
    history = steps(document.raw, limits=limits)
    fetched: dict[Digest, tuple[Descriptor, Digest]] = {}
    blobs: dict[Digest, Callable[[], Reader]] = {}
    for step in history:
        if not step.throwaway and step.blob not in fetched:
            path = scratch / f"schema1-{step.blob.hex}"
            fetched[step.blob] = _fetch(repository, step.blob, path, progress)
            blobs[step.blob] = _opener(path)
    layers = [fetched[step.blob] for step in history if not step.throwaway]
    config = configuration(history, [diff_id for _, diff_id in layers])
    manifest = jsondoc.render(
        {
            "schemaVersion": 2,
            "mediaType": media.DOCKER_MANIFEST,
            "config": Descriptor.of(media.DOCKER_CONFIG, config).to_object(),
            "layers": [descriptor.to_object() for descriptor, _ in layers],
        }
    )
    blobs[Digest.of(config)] = lambda: io.BytesIO(config)
    descriptor = Descriptor.of(media.DOCKER_MANIFEST, manifest)
    note = f"{document.descriptor.digest} is of Docker's schema 1 and was converted"
    offer = Offer(descriptor, names, notes=(note,))
    return RegistrySource(repository, [offer], [Document(descriptor, manifest)], blobs=blobs)


def _fetch(repository: Repository, digest: Digest, path: Path, progress: Progress) -> tuple[Descriptor, Digest]:
    """Fetch a layer into a file: its descriptor, and the digest of what it unpacks to."""
    limits = repository.registry.limits
    descriptor = Descriptor(media.layer("gzip", docker=True), digest, repository.blob_size(digest))
    progress.start(digest.short, "downloading", total=descriptor.size)
    hasher = Digest.hasher_of()
    outcome = "failed"
    try:
        with os_errors(str(path)), open(path, "xb") as file:
            source = RegistrySource(repository, ()).open_blob(descriptor)
            with VerifiedReader(source, digest, descriptor.size) as verified:
                stream = DecompressReader(_Copied(verified, file.write, progress, digest.short), limits=limits)
                while data := stream.read(_CHUNK):
                    hasher.update(data)
        outcome = "done"
    except LamellaError as error:
        raise error.about(layer=str(digest)) from None
    finally:
        progress.done(digest.short, outcome)
    return descriptor, Digest.finish(hasher)


class _Copied:
    """A stream that is written elsewhere as it is read."""

    def __init__(self, reader: VerifiedReader, write: Callable[[bytes], object], progress: Progress, key: str) -> None:
        self._reader, self._write, self._progress, self._key = reader, write, progress, key

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._write(data)
        self._progress.advance(self._key, len(data))
        return data

    def close(self) -> None:
        self._reader.close()


def _opener(path: Path) -> Callable[[], Reader]:
    def open_file() -> Reader:
        with os_errors(str(path)):
            return open(path, "rb", buffering=0)

    return open_file
