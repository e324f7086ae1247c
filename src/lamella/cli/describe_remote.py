"""Images at a registry as JSON documents: what ``inspect docker://`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamella.cli.describe import moment

if TYPE_CHECKING:
    from lamella.registry.access import Access
    from lamella.registry.source import RegistrySource
    from lamella.spec.descriptor import Descriptor

Document = dict[str, Any]


def describe(name: str, access: Access, platform: str | None) -> Document:
    """What there is to know of an image without its layers; of a multi-platform one, that for ``platform``."""
    from lamella.registry.repository import SCHEMA1_TYPES
    from lamella.registry.source import find_any

    found = find_any(access.registries.candidates(name), access)
    descriptor = found.document.descriptor
    head: Document = {
        "name": found.name,
        "repository": found.reference.repository,
        "served_by": found.repository.name,
        "digest": str(descriptor.digest),
        "media_type": descriptor.media_type,
        "size": descriptor.size,
    }
    if descriptor.media_type in SCHEMA1_TYPES:
        found.repository.registry.close()
        return {"kind": "schema1", **head}
    with found.source() as source:
        head["signatures"] = {tag: str(digest) for tag, digest in source.signatures(descriptor).items()}
        head["referrers"] = [item.to_object() for item in found.repository.referrers(descriptor.digest)]
        return {**head, **_document(source, descriptor, platform)}


def _document(source: RegistrySource, descriptor: Descriptor, platform: str | None) -> Document:
    from lamella.spec.documents import Index, Manifest

    raw = source.document(descriptor).raw
    if not descriptor.is_index:
        return _manifest(source, Manifest.parse(raw, descriptor.media_type))
    index = Index.parse(raw, descriptor.media_type)
    members = [
        {
            "digest": str(child.digest),
            "media_type": child.media_type,
            "size": child.size,
            "platform": None if child.platform is None else str(child.platform),
        }
        for child in index.manifests
    ]
    listed = {"kind": "index", "manifests": members}
    chosen = _choose(index.manifests, platform, str(descriptor.digest))
    return listed if chosen is None else {**listed, "image": _document(source, chosen, None)}


def _choose(manifests: tuple[Descriptor, ...], platform: str | None, subject: str) -> Descriptor | None:
    """The member for a platform; None if none was asked for and none fits this machine."""
    from lamella.errors import NotFound
    from lamella.spec.platform import Platform

    wanted = Platform.host() if platform is None else Platform.parse(platform)
    known = [child for child in manifests if child.platform is not None]
    at = wanted.choose([child.platform for child in known if child.platform is not None])
    if at is None and platform is not None:
        raise NotFound(f"no image for {wanted}", code="platform-not-found", subject=subject)
    return None if at is None else known[at]


def _manifest(source: RegistrySource, manifest: Any) -> Document:
    from lamella.spec.documents import ImageConfig

    layers = [
        {"digest": str(layer.digest), "media_type": layer.media_type, "size": layer.size} for layer in manifest.layers
    ]
    document: Document = {
        "kind": "image" if manifest.is_image else "artifact",
        "manifest": str(manifest.descriptor.digest),
        "annotations": dict(manifest.annotations),
        "layers": layers,
        "compressed_size": sum(layer.size for layer in manifest.layers),
    }
    if not manifest.is_image:
        return {**document, "artifact_type": manifest.artifact_type or manifest.config.media_type}
    config = ImageConfig.parse(_read(source, manifest.config))
    return {
        **document,
        "id": str(config.id),
        "platform": str(config.platform),
        "created": moment(config.created),
        "author": config.author,
        "config": config.config,
        "labels": config.labels,
        "diff_ids": [str(diff_id) for diff_id in config.diff_ids],
        "history": [{"created_by": step.created_by, "empty_layer": step.empty_layer} for step in config.history],
    }


def _read(source: RegistrySource, descriptor: Descriptor) -> bytes:
    from lamella.content.verified import VerifiedReader, blob_over_limit

    limit = source.repository.registry.limits.document_bytes
    if descriptor.size > limit:
        raise blob_over_limit(descriptor.digest, descriptor.size, limit)
    with VerifiedReader(source.open_blob(descriptor), descriptor.digest, descriptor.size) as reader:
        return reader.read()
