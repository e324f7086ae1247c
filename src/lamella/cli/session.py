"""What a command runs in: the store that was asked for, and who is told of progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamella.cli import environment, reporter
from lamella.cli.interrupts import Interrupts
from lamella.cli.reporter import Mode, Reporter

if TYPE_CHECKING:
    from lamella.images.create import Recipe
    from lamella.registry.refetch import RegistryRefetch
    from lamella.spec.digest import Digest
    from lamella.spec.endpoint import Reader
    from lamella.store.store import Store


@dataclass(slots=True)
class Session:
    """One run of the command. ``verb`` is what failures are said of."""

    root: Path = field(default_factory=environment.default_root)
    driver: str | None = None
    progress: Mode = "auto"
    verb: str = ""
    interrupts: Interrupts = field(default_factory=Interrupts)

    @contextmanager
    def store(self, *, file_digests: bool = False) -> Iterator[Store]:
        """The store, open while the block runs; ``file_digests`` as for ``Store.open``."""
        from lamella.store.store import Store

        with Store.open(self.root, driver=self.driver, refetch=_Refetching(), file_digests=file_digests) as store:
            yield store

    @contextmanager
    def reporting(self, *, quiet: bool = False) -> Iterator[Reporter]:
        """Who shows progress while the block runs, and stops the work when a signal comes."""
        mode: Mode = "none" if quiet else self.progress
        shown = reporter.reporter_for(
            mode, plain_terminal=environment.has_plain_terminal(), on_cancelled=self.interrupts.disarm
        )
        self.interrupts.listeners.append(shown.cancel)
        try:
            yield shown
        finally:
            self.interrupts.listeners.remove(shown.cancel)
            shown.close()


class _Refetching:
    """Implements ``upkeep.restore.Refetch``: reaches registries as the user does, once one is needed."""

    def __init__(self) -> None:
        self._refetch: RegistryRefetch | None = None

    def has(self, repository: str, digest: Digest, size: int) -> bool:
        """Whether the repository has the blob now."""
        return self._made().has(repository, digest, size)

    def open(self, repository: str, digest: Digest, size: int) -> Reader:
        """The bytes of a blob, not verified."""
        return self._made().open(repository, digest, size)

    def _made(self) -> RegistryRefetch:
        from lamella.cli import remote
        from lamella.registry.refetch import RegistryRefetch

        if self._refetch is None:
            self._refetch = RegistryRefetch(remote.access(remote.Reach()))
        return self._refetch


def recipe(
    *,
    author: str = "",
    message: str = "",
    changes: tuple[str, ...] = (),
    compression: str | None = None,
    level: int | None = None,
    platform: str | None = None,
) -> Recipe:
    """What goes into a new image, from the options of ``import`` and ``commit`` and from SOURCE_DATE_EPOCH."""
    from lamella.archive.compression import Compression
    from lamella.images.create import Recipe
    from lamella.spec.platform import Platform

    return Recipe(
        author=author,
        comment=message,
        created=environment.epoch_moment(),
        changes=changes,
        compression=None if compression is None else Compression(compression),
        level=level,
        clamp=environment.source_date_epoch(),
        platform=None if platform is None else Platform.parse(platform),
    )


pass_session = click.make_pass_decorator(Session)
"""Hands the session to a command as its first argument."""
