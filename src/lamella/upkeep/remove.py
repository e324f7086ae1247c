"""Removing images: names first, then what nothing needs any longer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lamella.catalog.records import DocumentRecord
from lamella.errors import FailedPrecondition, InvalidInput
from lamella.images.graph import Graph
from lamella.spec.digest import Digest
from lamella.spec.reference import Reference
from lamella.upkeep.gc import Holdings, Report, collect


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: the names that are gone, and what was deleted with them."""

    untagged: tuple[str, ...]
    report: Report


def remove_images(graph: Graph, holdings: Holdings, texts: Sequence[str], *, force: bool) -> Removed:
    """Remove what each text means. Checked and decided in one transaction: all of them go, or none.

    What is left without a name then is collected like other garbage.
    """
    untagged: list[str] = []
    candidates: set[Digest] = set()
    going: dict[Digest, tuple[str, DocumentRecord, bool]] = {}
    with graph.catalog.transaction():
        for text in texts:
            document = graph.find_document(text)
            names = _names_to_remove(graph, text, document, force=force)
            if len(names) == len(_names_of(graph, document.digest)):
                going[document.digest] = (text, document, not names)
                candidates |= _closure(graph, document)
            for name in names:
                graph.catalog.remove_name(name)
                untagged.append(Reference.parse(name).familiar)
        if not force:
            # After all names: what is removed together does not need each other, in whatever order it was given.
            for text, document, alone in going.values():
                _refuse_needed(graph, document, text, going, alone=alone)
    report = collect(holdings, only=candidates) if candidates else Report()
    return Removed(tuple(untagged), report)


def _names_of(graph: Graph, digest: Digest) -> list[str]:
    return [record.name for record in graph.catalog.names() if record.target == digest]


def _names_to_remove(graph: Graph, text: str, document: DocumentRecord, *, force: bool) -> list[str]:
    """The one name that was given; by id or digest all that there are, several only with ``force``."""
    names = _names_of(graph, document.digest)
    try:
        reference = Reference.parse(text)
    except InvalidInput:
        reference = None
    if reference is not None and str(reference) in names:
        return [str(reference)]
    if len(names) > 1 and not force:
        listed = ", ".join(Reference.parse(name).familiar for name in names)
        raise FailedPrecondition(
            f"the image has several names: {listed}",
            code="image-named",
            subject=text,
            hint="remove them by name, or --force",
        )
    return names


def _refuse_needed(
    graph: Graph, document: DocumentRecord, text: str, going: Collection[Digest], *, alone: bool
) -> None:
    """Raise if images or snapshots stand on it; ``alone`` (no name that could go) also if an index lists it.

    What is ``going`` too does not count.
    """
    manifests = [document.digest, *(child.digest for child in document.children if graph.catalog.image(child.digest))]
    children = [c for manifest in manifests for c in graph.catalog.children(manifest) if c.manifest not in going]
    snapshots = [record for manifest in manifests for record in graph.catalog.snapshots_of(manifest)]
    indexes = [
        record
        for record in graph.catalog.parents_of(document.digest)
        if alone and record.kind == "index" and record.digest not in going
    ]
    if not children and not snapshots and not indexes:
        return
    names = graph.names_by_target()
    needed = [f"image {', '.join(names.get(c.manifest, [])) or c.id.short}" for c in children]
    needed += [f"snapshot {record.key}" for record in snapshots]
    needed += [f"index {', '.join(names.get(i.digest, [])) or i.digest.short}" for i in indexes]
    raise FailedPrecondition(
        f"the image is needed by {', '.join(needed)}",
        code="image-in-use",
        subject=text,
        hint="remove those first, or --force to drop the name and keep what they need",
    )


def _closure(graph: Graph, document: DocumentRecord) -> set[Digest]:
    """Everything that may be garbage once the document is: what it names, and its parents with what they name."""
    found: set[Digest] = set()
    todo: list[Digest] = [document.digest]
    while todo:
        digest = todo.pop()
        if digest in found:
            continue
        found.add(digest)
        record = graph.catalog.document(digest)
        if record is not None:
            todo.extend(child.digest for child in record.children)
        image = graph.catalog.image(digest)
        if image is not None:
            for layer in image.layers:
                found |= {layer.diff_id, layer.chain_id}
            if image.parent is not None:
                todo.append(image.parent)
    return found
