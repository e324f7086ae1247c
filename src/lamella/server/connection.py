"""HTTP connections that end when their client stalls: uvicorn's, with deadlines.

Uvicorn ends connections that are idle between requests. What it leaves to a proxy in front of it is a client that never
finishes sending its request, or never reads what it asked for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lamella.server.limits import ServerLimits


def protocol_with(limits: ServerLimits) -> type[H11Protocol]:
    """The class of connections that observe ``limits``: their ``head`` and ``idle`` seconds."""

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._buffered = 0
            self._head_since: float | None = self.loop.time()
            self._moved = self.loop.time()
            self._watch = self.loop.call_later(min(limits.head, limits.idle) / 4, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._moved = self.loop.time()
            super().data_received(data)
            self._note_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._moved = self.loop.time()
            self._note_head()

        def resume_writing(self) -> None:
            self._moved = self.loop.time()
            super().resume_writing()

        def _note_head(self) -> None:
            """Remember since when the head of a request is incomplete; None while there is none on its way."""
            waiting = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
            if not waiting:
                self._head_since = None
            elif self._head_since is None:
                self._head_since = self.loop.time()

        def _look(self) -> None:
            now = self.loop.time()
            buffered = self.transport.get_write_buffer_size()
            if buffered < self._buffered:
                self._moved = now
            self._buffered = buffered
            late = self._head_since is not None and now - self._head_since > limits.head
            stalled = self._is_expecting() and now - self._moved > limits.idle
            if late or stalled:
                self.transport.abort()
                return
            self._watch = self.loop.call_later(min(limits.head, limits.idle) / 4, self._look)

        def _is_expecting(self) -> bool:
            """Whether it is the client's turn: to send more of a body, or to take more of an answer."""
            if self.flow.write_paused or self.transport.is_closing():
                return True
            return self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused and not self.cycle.body

    return Connection


class Announcing(uvicorn.Server):
    """A server that says when clients can connect."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()
