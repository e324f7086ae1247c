"""``lamella serve`` as a process, as a user would run it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from support.processes import Server, serving
from support.wire import Wire

_LISTENING = rb"^(https?://[^ \n]+)"


@dataclass
class Served:
    """A store that is served: where, and what to ask it with."""

    root: Path
    url: str
    server: Server

    @property
    def host(self) -> str:
        """Its address, with the port."""
        return urlsplit(self.url).netloc

    @property
    def wire(self) -> Wire:
        """To ask it by hand."""
        return Wire(self.host)


@contextmanager
def served(root: Path, *options: str | Path, listen: str = "127.0.0.1:0") -> Iterator[Served]:
    """Serve the store at ``root`` while the block runs. No request may have been answered with a traceback."""
    command = [sys.executable, "-m", "lamella", "--root", root, "serve", "--listen", listen, *options]
    with serving(*command, listening=_LISTENING) as server:
        yield Served(root, server.address, server)
    assert "Traceback" not in server.output, server.output
