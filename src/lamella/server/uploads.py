"""Uploads under way: each is an ingest of the store, named by an id that only its repository's clients were told.

The bytes of an upload are on the disk as they come. When the server is killed, or has more uploads than it keeps open,
they stay there, and the upload goes on where it was when its client comes back.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
from anyio.to_thread import run_sync

from lamella.content.local import LocalContent
from lamella.content.protocol import Ingest
from lamella.server.failures import Refusal
from lamella.server.limits import ServerLimits

_PREFIX = "upload-"
_RANDOM, _BINDING = 32, 16
_PATIENCE = 10.0
"""Seconds for the request before, whose client is gone, to let go of an upload."""


class Upload:
    """One upload. ``offset`` is how many bytes are there; only who has it ``claimed`` may touch ``ingest``."""

    def __init__(self, id: str, ingest: Ingest) -> None:
        self.id = id
        self.ingest = ingest
        self.touched = time.monotonic()
        self.lock = asyncio.Lock()
        self.scope: anyio.CancelScope | None = None

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        return self.ingest.offset


class Uploads:
    """The uploads of a server; used by its event loop only."""

    def __init__(self, content: LocalContent, limits: ServerLimits) -> None:
        self._content, self._limits = content, limits
        self._open: dict[str, Upload] = {}
        self._opening = asyncio.Lock()

    async def begin(self, repository: str) -> Upload:
        """A new upload. Raises Refusal (429) when there are too many."""
        if len(await run_sync(self._stored)) >= self._limits.uploads:
            raise _too_many()
        random = secrets.token_hex(_RANDOM // 2)
        return await self._take_up(random + _binding(random, repository))

    async def find(self, repository: str, id: str) -> Upload:
        """An upload that was begun in this repository. Raises Refusal (404)."""
        upload = self._open.get(id)
        if len(id) != _RANDOM + _BINDING or _binding(id[:_RANDOM], repository) != id[_RANDOM:]:
            raise _unknown()
        if upload is None:
            if id not in await run_sync(self._stored):
                raise _unknown()
            upload = await self._take_up(id)
        return upload

    @asynccontextmanager
    async def claimed(self, upload: Upload) -> AsyncIterator[None]:
        """Have an upload for oneself while the block runs.

        The latest request wins: a client whose connection broke comes back before anybody noticed that it broke.
        """
        if upload.scope is not None:
            upload.scope.cancel()
        with anyio.move_on_after(_PATIENCE) as waiting:
            await upload.lock.acquire()
        if waiting.cancelled_caught:
            raise Refusal(409, "BLOB_UPLOAD_INVALID", "another request writes to this upload")
        try:
            if self._open.get(upload.id) is not upload:
                raise _unknown()
            with anyio.CancelScope() as upload.scope:
                yield
            if upload.scope is not None and upload.scope.cancelled_caught:
                raise Refusal(409, "BLOB_UPLOAD_INVALID", "another request took this upload over")
        finally:
            upload.scope = None
            upload.touched = time.monotonic()
            upload.lock.release()

    def forget(self, upload: Upload) -> None:
        """The upload has ended: its ingest was committed or aborted."""
        self._open.pop(upload.id, None)

    async def expire(self) -> None:
        """Drop the uploads that nobody has touched for too long, those of earlier runs too."""
        now = time.monotonic()
        for upload in list(self._open.values()):
            if not upload.lock.locked() and now - upload.touched > self._limits.expiry:
                self.forget(upload)
                await run_sync(upload.ingest.abort)
        await run_sync(self._drop_stale)

    async def close(self) -> None:
        """Let go of all uploads; their bytes stay."""
        for upload in list(self._open.values()):
            self.forget(upload)
            await run_sync(upload.ingest.close)

    async def _take_up(self, id: str) -> Upload:
        async with self._opening:
            if id not in self._open:
                await self._make_room()
                ingest = await run_sync(lambda: self._content.open_ingest(_PREFIX + id, keep=True))
                self._open[id] = Upload(id, ingest)
            return self._open[id]

    async def _make_room(self) -> None:
        """Park the upload that has waited the longest for its client, when there are as many open as may be."""
        if len(self._open) < self._limits.open_uploads:
            return
        idle = [upload for upload in self._open.values() if not upload.lock.locked()]
        if not idle:
            raise _too_many()
        parked = min(idle, key=lambda upload: upload.touched)
        self.forget(parked)
        await run_sync(parked.ingest.close)

    def _stored(self) -> set[str]:
        """The ids of all uploads of which there are bytes, or a file for them."""
        refs = [info.ref for info in self._content.ingests()]
        return {ref.removeprefix(_PREFIX) for ref in refs if ref.startswith(_PREFIX)}

    def _drop_stale(self) -> None:
        now = datetime.now(UTC)
        for info in list(self._content.ingests()):
            age = (now - info.updated).total_seconds()
            if info.ref.startswith(_PREFIX) and not info.busy and age > self._limits.expiry:
                self._content.drop_ingest(info.ref)


def _binding(random: str, repository: str) -> str:
    return hashlib.sha256(f"{random} {repository}".encode()).hexdigest()[:_BINDING]


def _unknown() -> Refusal:
    return Refusal(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload, or no more")


def _too_many() -> Refusal:
    return Refusal(429, "TOOMANYREQUESTS", "too many uploads are under way", {"Retry-After": "5"})
