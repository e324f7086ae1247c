"""Lamella: a container-image engine for Python, with no daemon.

    import lamella

    with lamella.Store.open("/var/lib/lamella") as store:
        image = store.import_rootfs("base.tar.gz", "base")
        with store.prepare(image, key="dev") as snapshot:
            with snapshot.mount() as root:
                (root / "etc/motd").write_text("hello\\n")
            snapshot.commit("base:motd", author="me", comment="say hello")

What is imported here is imported when it is first used: ``import lamella`` alone costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # not from typing, whose import would be a third of the time that `lamella --version` takes
    from typing import Any

    from lamella.archive.compression import Compression
    from lamella.errors import LamellaError
    from lamella.images.create import Recipe
    from lamella.images.image import Image
    from lamella.images.layer import Layer
    from lamella.layers.compare import Change, ChangeKind
    from lamella.layers.view import FileInfo, TreeView
    from lamella.registry.access import Access
    from lamella.registry.credentials import Credentials
    from lamella.registry.policy import Policy
    from lamella.spec.descriptor import Descriptor
    from lamella.spec.digest import Digest
    from lamella.spec.limits import Limits
    from lamella.spec.platform import Platform
    from lamella.spec.progress import Cancelled, Progress
    from lamella.spec.reference import Reference
    from lamella.store.snapshot import Snapshot
    from lamella.store.store import Store

__version__ = "0.1.0"

_HOMES = {
    "Access": "lamella.registry.access",
    "Cancelled": "lamella.spec.progress",
    "Change": "lamella.layers.compare",
    "ChangeKind": "lamella.layers.compare",
    "Compression": "lamella.archive.compression",
    "Credentials": "lamella.registry.credentials",
    "Descriptor": "lamella.spec.descriptor",
    "Digest": "lamella.spec.digest",
    "FileInfo": "lamella.layers.view",
    "Image": "lamella.images.image",
    "LamellaError": "lamella.errors",
    "Layer": "lamella.images.layer",
    "Limits": "lamella.spec.limits",
    "Platform": "lamella.spec.platform",
    "Policy": "lamella.registry.policy",
    "Progress": "lamella.spec.progress",
    "Recipe": "lamella.images.create",
    "Reference": "lamella.spec.reference",
    "Snapshot": "lamella.store.snapshot",
    "Store": "lamella.store.store",
    "TreeView": "lamella.layers.view",
}

__all__ = [
    "Access",
    "Cancelled",
    "Change",
    "ChangeKind",
    "Compression",
    "Credentials",
    "Descriptor",
    "Digest",
    "FileInfo",
    "Image",
    "LamellaError",
    "Layer",
    "Limits",
    "Platform",
    "Policy",
    "Progress",
    "Recipe",
    "Reference",
    "Snapshot",
    "Store",
    "TreeView",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lamella' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(home), name)
