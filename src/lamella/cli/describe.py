"""Images, indexes, artifacts and snapshots as JSON documents: what ``inspect`` prints, and parts of it elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamella.catalog.records import DocumentRecord
    from lamella.images.image import HistoryEntry, Image
    from lamella.images.layer import Layer
    from lamella.spec.descriptor import Descriptor
    from lamella.store.snapshot import Snapshot
    from lamella.store.store import Store

Document = dict[str, Any]


def moment(value: datetime | None) -> str | None:
    """A time as RFC 3339."""
    from lamella.spec.documents import format_time

    return None if value is None else format_time(value)


def image(item: Image) -> Document:
    """Everything that the store knows of an image."""
    parent = item.parent
    return {
        "kind": "image",
        "id": str(item.id),
        "digest": str(item.digest),
        "media_type": item.record.media_type,
        "names": item.names,
        "parent": None if parent is None else str(parent.id),
        "children": [str(child.id) for child in item.children],
        "platform": str(item.platform),
        "created": moment(item.created),
        "added": moment(item.record.added),
        "author": item.config.author,
        "size": item.size,
        "compressed_size": item.compressed_size,
        "config": item.config.config,
        "labels": item.labels,
        "annotations": dict(item.manifest.annotations),
        "layers": [
            {**layer(found), **_before_2016(described)}
            for found, described in zip(item.layers, item.manifest.layers, strict=True)
        ],
        "history": [step(found) for found in item.history()],
    }


def layer(item: Layer) -> Document:
    """One layer of an image."""
    return {
        "digest": str(item.digest),
        "diff_id": str(item.diff_id),
        "chain_id": str(item.chain_id),
        "media_type": item.media_type,
        "size": item.size,
        "tar_size": item.tar_size,
        "content_size": item.content_size,
    }


def _before_2016(described: Descriptor) -> Document:
    """The id and the checksum that the image of a layer had when each layer was an image, if it was one."""
    from lamella.spec.v1image import V1_CHECKSUM, V1_ID

    notes = {"v1_id": V1_ID, "v1_checksum": V1_CHECKSUM}
    return {name: described.annotations[key] for name, key in notes.items() if key in described.annotations}


def step(item: HistoryEntry) -> Document:
    """One step of an image's history."""
    return {
        "created": moment(item.created),
        "created_by": item.created_by,
        "author": item.author,
        "comment": item.comment,
        "size": item.size,
        "layer": None if item.layer is None else str(item.layer),
        "image": None if item.image is None else str(item.image),
    }


def index(store: Store, document: DocumentRecord) -> Document:
    """A multi-platform image as a whole; ``id`` of a member is null where the store lacks it."""
    members = []
    for child in document.children:
        record = store.catalog.image(child.digest)
        platform = child.platform or (None if record is None else record.platform)
        members.append(
            {
                "digest": str(child.digest),
                "media_type": child.media_type,
                "size": child.size,
                "platform": None if platform is None else str(platform),
                "id": None if record is None else str(record.id),
            }
        )
    return {
        "kind": "index",
        "digest": str(document.digest),
        "media_type": document.media_type,
        "names": store.graph.names_by_target().get(document.digest, []),
        "manifests": members,
    }


def artifact(store: Store, document: DocumentRecord) -> Document:
    """A manifest that is no image: a signature, an attestation, a chart."""
    return {
        "kind": "artifact",
        "digest": str(document.digest),
        "media_type": document.media_type,
        "names": store.graph.names_by_target().get(document.digest, []),
        "blobs": [
            {"digest": str(child.digest), "media_type": child.media_type, "size": child.size}
            for child in document.children
        ],
    }


def snapshot(item: Snapshot) -> Document:
    """Everything that the store knows of a snapshot."""
    record, mounted, base = item.record, item.mounted, item.image
    return {
        "kind": "snapshot",
        "key": item.key,
        "image": {"id": str(base.id), "digest": str(base.digest), "names": base.names},
        "forked_from": record.source or None,
        "writable": record.writable,
        "driver": record.driver,
        "created": moment(record.created),
        "upper": str(item.upper),
        "mounted": None
        if mounted is None
        else {"root": str(mounted.root), "target": str(mounted.target), "holder": mounted.holder or None},
    }
