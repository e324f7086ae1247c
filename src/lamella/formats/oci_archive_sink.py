"""An OCI image layout in a tar (what skopeo calls oci-archive) to write images to."""

from __future__ import annotations

from collections.abc import Iterator

from lamella.archive.tar import Member
from lamella.formats.archive_sink import ArchiveSink, Content
from lamella.formats.layout import INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, blob_path
from lamella.formats.layout_index import updated_index
from lamella.spec import jsondoc
from lamella.spec.endpoint import Offer


class OciArchiveSink(ArchiveSink):
    """Writes images as an OCI layout in a tar; see ArchiveSink for what is promised.

    The members are oci-layout, index.json and the blobs, sorted. All blobs that were taken are written.
    """

    def _members(self, offers: tuple[Offer, ...]) -> Iterator[tuple[Member, Content]]:
        yield self._file(LAYOUT_FILE, jsondoc.render({"imageLayoutVersion": LAYOUT_VERSION}))
        for offer in offers:
            self._spool.open(offer.descriptor.digest).close()
        yield self._file(INDEX_FILE, updated_index(None, offers, limits=self._limits))
        yield self._directory("blobs")
        algorithm = ""
        for digest in self._spool.digests():
            if digest.algorithm != algorithm:
                algorithm = digest.algorithm
                yield self._directory(f"blobs/{algorithm}")
            yield self._file(blob_path(digest), digest)
