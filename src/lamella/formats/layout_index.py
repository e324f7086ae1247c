"""Writing the index.json of an OCI layout: images added under their names, everything else as it was."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from lamella.errors import InvalidInput
from lamella.formats.layout import CONTAINERD_NAME
from lamella.spec import jsondoc, media
from lamella.spec.descriptor import REF_NAME
from lamella.spec.documents import Index
from lamella.spec.endpoint import Offer
from lamella.spec.jsondoc import Object
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.reference import Reference


def updated_index(raw: bytes | None, offers: Sequence[Offer], *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """index.json with the images of ``offers`` added to what ``raw`` (None: nothing yet) names.

    A name is written as it is to ``org.opencontainers.image.ref.name``, which is what other tools look for, and to
    ``io.containerd.image.name`` too when it is a canonical reference with its host: docker and containerd tag by that.
    An image with several names has an entry for each, one without names an entry without. A name that an older entry
    had passes to the new one; fields and entries that are not understood stay. Same input, same bytes.

    Raises InvalidInput for a malformed ``raw`` and for a name that two of the offers have.
    """
    names = [name for offer in offers for name in offer.names]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"two images are to be named '{twice}'", code="name-twice")
    if raw is None:
        index: Object = {"schemaVersion": 2, "mediaType": media.OCI_INDEX}
        old: list[Object] = []
    else:
        Index.parse(raw, limits=limits)
        index = jsondoc.parse_object(raw, "index.json", limits=limits)
        old = index["manifests"]
    taken = set(names)
    entries = [kept for entry in old if (kept := _without(entry, taken)) is not None]
    unnamed = {entry["digest"] for entry in entries if not _annotations(entry).keys() & {REF_NAME, CONTAINERD_NAME}}
    for offer in offers:
        if offer.names:
            entries.extend(_entry(offer, name) for name in offer.names)
        elif str(offer.descriptor.digest) not in unnamed:
            entries.append(_entry(offer, ""))
            unnamed.add(str(offer.descriptor.digest))
    index["manifests"] = entries
    return jsondoc.render(index)


def _annotations(entry: Object) -> dict[str, Any]:
    return entry.get("annotations") or {}


def _without(entry: Object, names: Collection[str]) -> Object | None:
    """``entry`` less those of ``names`` that it carries; None if it had no others."""
    annotations = dict(_annotations(entry))
    full, name = annotations.get(CONTAINERD_NAME, ""), annotations.get(REF_NAME, "")
    if full not in names and name not in names:
        return entry
    if name in names or (full in names and full.endswith(f":{name}")):
        annotations.pop(REF_NAME, None)
    if full in names:
        annotations.pop(CONTAINERD_NAME)
    if not annotations.keys() & {REF_NAME, CONTAINERD_NAME}:
        return None
    return {**entry, "annotations": annotations}


def _entry(offer: Offer, name: str) -> Object:
    entry = offer.descriptor.to_object()
    annotations = {k: v for k, v in offer.descriptor.annotations.items() if k not in (REF_NAME, CONTAINERD_NAME)}
    if name:
        if _is_canonical(name):
            annotations[CONTAINERD_NAME] = name
        annotations[REF_NAME] = name
    entry.pop("annotations", None)
    if annotations:
        entry["annotations"] = annotations
    return entry


def _is_canonical(name: str) -> bool:
    """Whether a name is a whole reference with host and tag, so that nobody can take it for anything else."""
    try:
        reference = Reference.parse(name)
    except InvalidInput:
        return False
    return str(reference) == name and bool(reference.tag) and reference.digest is None
