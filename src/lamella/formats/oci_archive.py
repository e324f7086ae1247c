"""An OCI image layout in a tar (what skopeo calls oci-archive) to read images from."""

from __future__ import annotations

from lamella.formats.layout import LayoutSource
from lamella.formats.tar_index import TarIndex
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits


class ArchiveFiles:
    """The files of a layout in a tar; links lead to members of the tar only. Owns ``archive``."""

    def __init__(self, archive: TarIndex) -> None:
        self.subject = archive.subject
        self._archive = archive

    def open(self, path: str) -> Reader:
        """One regular file."""
        return self._archive.open(path)

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


class OciArchiveSource(LayoutSource):
    """The images of an OCI layout in a tar; see LayoutSource for what is offered and what is raised."""

    def __init__(self, archive: TarIndex, *, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(ArchiveFiles(archive), limits=limits)
