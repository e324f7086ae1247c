"""Media types: OCI image-spec 1.1 ``media-types.md`` and Docker's image manifest version 2, schema 2."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

_LAYER_BASES = (
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    DOCKER_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_COMPRESSIONS = ("gzip", "zstd", "bzip2", "xz")
_SUFFIXES = ("", *(mark + compression for mark in "+." for compression in _COMPRESSIONS))
LAYERS = frozenset(base + suffix for base in _LAYER_BASES for suffix in _SUFFIXES)
"""Media types of a tar layer. The compression that the suffix claims is not believed: content is told by its magic."""


def layer(compression: str, *, docker: bool = False) -> str:
    """The media type of a layer that is compressed with ``compression`` (``none``, ``gzip``, ``zstd``, ...)."""
    if docker:
        return DOCKER_LAYER if compression == "none" else f"{DOCKER_LAYER}.{compression}"
    return OCI_LAYER if compression == "none" else f"{OCI_LAYER}+{compression}"
