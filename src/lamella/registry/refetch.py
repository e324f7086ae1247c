"""Blobs had again from the repositories that they came from: what a store that dropped them asks."""

from __future__ import annotations

from lamella.registry.access import Access
from lamella.registry.source import RegistrySource, repository_for
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader
from lamella.spec.media import OCI_LAYER
from lamella.spec.reference import Reference


class RegistryRefetch:
    """Reaches repositories (``domain/path``) by ``access``. Thread-safe; each call has a client of its own."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def has(self, repository: str, digest: Digest, size: int) -> bool:
        """Whether the repository has the blob now. Raises what keeps it from being asked."""
        place = repository_for(Reference.parse(repository), self._access)
        try:
            return place.has_blob(digest, size)
        finally:
            place.registry.close()

    def open(self, repository: str, digest: Digest, size: int) -> Reader:
        """The bytes of a blob, not verified; closing the reader closes the client. Raises NotFound, Unavailable."""
        source = RegistrySource(repository_for(Reference.parse(repository), self._access), ())
        return _Owner(source, source.open_blob(Descriptor(OCI_LAYER, digest, size)))


class _Owner:
    def __init__(self, source: RegistrySource, reader: Reader) -> None:
        self._source, self._reader = source, reader

    def read(self, size: int, /) -> bytes:
        return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()
        self._source.close()
