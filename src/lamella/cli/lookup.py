"""From what a user types to what the store has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamella.errors import InvalidInput, LamellaError, NotFound

if TYPE_CHECKING:
    from lamella.images.image import Image
    from lamella.layers.view import TreeView
    from lamella.store.snapshot import Snapshot
    from lamella.store.store import Store


def image(store: Store, name: str, platform: str | None = None) -> Image:
    """The image that ``name`` means; of a multi-platform one, that for ``platform``. Raises NotFound, Ambiguous."""
    from lamella.spec.platform import Platform

    return store.image(name, platform=None if platform is None else Platform.parse(platform))


def image_or_snapshot(store: Store, name: str, platform: str | None = None) -> Image | Snapshot:
    """The snapshot with the key ``name``, else the image that ``name`` means. Raises NotFound for neither."""
    if store.catalog.snapshot(name) is not None:
        if platform is not None:
            raise InvalidInput("a snapshot has one platform", code="snapshot-platform", subject=name)
        return store.snapshot(name)
    try:
        return image(store, name, platform)
    except NotFound as error:
        if error.code != "image-not-found":
            raise
        raise NotFound(
            "no such image or snapshot",
            code="name-not-found",
            subject=name,
            hint="'lamella images -a' and 'lamella ps' list what there is",
        ) from error


@contextmanager
def files(store: Store, name: str, platform: str | None = None) -> Iterator[TreeView]:
    """The files of what ``image_or_snapshot`` finds; failures inside the block are said to be about ``name``."""
    view = image_or_snapshot(store, name, platform).files
    try:
        yield view
    except LamellaError as error:
        raise error.about(subject=name) from error.__cause__
