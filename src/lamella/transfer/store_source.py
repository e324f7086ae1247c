"""The store as an endpoint that images are copied from."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.catalog.records import DocumentRecord
from lamella.images.graph import Graph
from lamella.spec.descriptor import Descriptor
from lamella.spec.endpoint import Offer, Reader


class StoreSource:
    """Offers documents of a store under the names that the caller gives them."""

    def __init__(self, graph: Graph, documents: Sequence[tuple[DocumentRecord, Sequence[str]]]) -> None:
        self._graph = graph
        self._offers = tuple(self._offer(document, names) for document, names in documents)

    def _offer(self, document: DocumentRecord, names: Sequence[str]) -> Offer:
        image = self._graph.catalog.image(document.digest)
        descriptor = Descriptor(
            document.media_type, document.digest, document.size, platform=None if image is None else image.platform
        )
        return Offer(descriptor, tuple(names), None if image is None else image.parent)

    def offers(self) -> Sequence[Offer]:
        """The documents, in the order given."""
        return self._offers

    def open_blob(self, descriptor: Descriptor) -> Reader:
        """A blob as it was received, verified while it is read. Raises NotFound."""
        return self._graph.content.open(descriptor.digest)

    def close(self) -> None:
        """Nothing is held."""
