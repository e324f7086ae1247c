"""What the handlers of requests share: the store, what it may be asked for, and what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
from anyio.to_thread import run_sync

from lamella.errors import LamellaError
from lamella.server.holds import Holds
from lamella.server.limits import ServerLimits
from lamella.server.referrers import Referrers
from lamella.server.repositories import Repositories
from lamella.server.uploads import Uploads
from lamella.spec.digest import Digest
from lamella.store.store import Store
from lamella.upkeep.gc import collect

_SWEEPS = 4
"""How often in the time of an expiry it is looked what has expired."""


class Service:
    """One server over one store. Made and closed by the event loop that runs it.

    A server that is not ``writable`` writes nothing to the store, no leases either.
    """

    def __init__(self, store: Store, limits: ServerLimits, *, writable: bool, hosts: Sequence[str]) -> None:
        self.store, self.limits, self.writable = store, limits, writable
        self.repositories = Repositories(store.catalog, hosts)
        self.referrers = Referrers(store)
        self.uploads = Uploads(store.content, limits)
        self.accepting = asyncio.Semaphore(limits.manifests_at_once)
        self.holds = Holds(lambda: store.lease("pushed to the server"), limits.expiry, self._abandoned)

    def hold(self, digest: Digest, is_there: Callable[[], bool]) -> bool:
        """Keep what a client asks for, as it may push a manifest that names it next; whether it is there.

        What is not there is not held, or asking for it would fill the catalog; where nobody may push nothing is.
        """
        if not is_there():
            return False
        if self.writable:
            self.holds.hold(digest)
        return not self.writable or is_there()

    async def keep_clean(self) -> None:
        """Drop what has expired, again and again, until cancelled."""
        while self.writable:
            await anyio.sleep(min(60.0, self.limits.expiry / _SWEEPS))
            with suppress(LamellaError):  # another process may keep the store busy: the next time, then
                await self.uploads.expire()
                await run_sync(self.holds.expire)

    async def close(self) -> None:
        """End what is under way; the bytes of uploads stay."""
        await self.uploads.close()
        await run_sync(self.holds.close)

    def _abandoned(self, digests: set[Digest]) -> None:
        collect(self.store.holdings, only=digests)
