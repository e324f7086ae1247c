"""Between a store and registries: pull and push."""

from __future__ import annotations

from collections.abc import Callable

from lamella.catalog.holder import Lease
from lamella.catalog.records import DocumentRecord
from lamella.content.local import LocalContent
from lamella.errors import NotFound
from lamella.images.graph import Graph
from lamella.registry.access import Access
from lamella.registry.policy import Candidate, Verify, verified
from lamella.registry.sink import RegistrySink
from lamella.registry.source import Found, find_any, repository_for
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.limits import Limits
from lamella.spec.platform import Platform
from lamella.spec.progress import NO_PROGRESS, Progress
from lamella.spec.reference import Reference
from lamella.transfer.copy import copy_images
from lamella.transfer.load import Loaded, load
from lamella.transfer.store_source import StoreSource

_MOUNT_SOURCES = 4
"""Repositories that are asked for a blob before it is sent."""


def find_remote(name: str, access: Access, verify: Verify | None, limits: Limits) -> Found:
    """The image that a name means at a registry, if ``verify`` lets it pass; its client is the caller's to close."""
    found = find_any(access.registries.candidates(name), access, limits=limits)
    repository, descriptor = found.repository, found.document.descriptor
    try:
        candidate = Candidate(
            found.reference,
            descriptor,
            found.document.raw,
            lambda: repository.referrers(descriptor.digest),
            lambda: repository.signatures(descriptor.digest),
        )
        verified(candidate, verify)
    except BaseException:
        repository.registry.close()
        raise
    return found


def pull(
    graph: Graph,
    content: LocalContent,
    lease: Lease,
    name: str,
    *,
    access: Access,
    platform: Platform | None,
    verify: Verify | None = None,
    cleanup: Callable[[set[Digest]], None],
    progress: Progress = NO_PROGRESS,
) -> Loaded:
    """Take the image that a name means at a registry into the store; ``platform`` None takes an index whole."""
    found = find_remote(name, access, verify, graph.limits)
    try:
        source = found.source(scratch=lease.directory, progress=progress)
        loaded = load(graph, content, lease, source, platform=platform, cleanup=cleanup, progress=progress)
    finally:
        found.repository.registry.close()
    record_sources(graph, loaded[0].descriptor.digest, found.reference.repository)
    return loaded[0]


def push(
    graph: Graph,
    document: DocumentRecord,
    target: Reference,
    *,
    access: Access,
    platform: Platform | None = None,
    progress: Progress = NO_PROGRESS,
) -> Descriptor:
    """Send an image of the store to a registry under the name ``target``; what was sent."""
    blobs = _blobs(graph, document.digest)
    mounts = _mounts(graph, blobs, target)
    sources = tuple(dict.fromkeys(path for paths in mounts.values() for path in paths))[:_MOUNT_SOURCES]
    mounts = {blob: [path for path in paths if path in sources] for blob, paths in mounts.items()}
    repository = repository_for(target, access, push=True, sources=sources, limits=graph.limits)
    with RegistrySink(repository, mounts=mounts) as sink:
        source = StoreSource(graph, [(document, [str(target)])])
        copied = copy_images(source, sink, platform=platform, limits=graph.limits, progress=progress)
    for note in copied.notes:
        progress.note(note)
    sent = copied.offers[0].descriptor
    record_sources(graph, sent.digest, target.repository)
    return sent


def record_sources(graph: Graph, document: Digest, repository: str) -> None:
    """Remember that a repository has the layers of an image."""
    with graph.catalog.transaction(durable=False):
        for blob in _layers(graph, document):
            graph.catalog.add_blob_source(blob, repository)


def _layers(graph: Graph, document: Digest) -> set[Digest]:
    record = graph.catalog.document(document)
    if record is None:
        return set()
    found = {child.digest for child in record.children if child.is_layer}
    for child in record.children:
        if child.is_manifest or child.is_index:
            found |= _layers(graph, child.digest)
    return found


def _blobs(graph: Graph, document: Digest) -> set[Digest]:
    """Everything that a document leads to and that is no document."""
    record = graph.catalog.document(document)
    if record is None:
        raise NotFound("the document is no longer in the store", code="image-not-found", subject=str(document))
    found: set[Digest] = set()
    for child in record.children:
        if not (child.is_manifest or child.is_index):
            found.add(child.digest)
        elif graph.catalog.document(child.digest) is not None:
            found |= _blobs(graph, child.digest)
    return found


def _mounts(graph: Graph, blobs: set[Digest], target: Reference) -> dict[Digest, list[str]]:
    """Other repositories of the target's registry that are known to have one of these blobs."""
    prefix = f"{target.domain}/"
    found: dict[Digest, list[str]] = {}
    for blob in sorted(blobs):
        repositories = graph.catalog.blob_sources(blob)
        paths = [name.removeprefix(prefix) for name in repositories if name.startswith(prefix)]
        others = [path for path in paths if path != target.path]
        if others:
            found[blob] = others[:_MOUNT_SOURCES]
    return found
