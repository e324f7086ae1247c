"""Blobs from a registry as streams that outlive their connections: what broke goes on where it was."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from lamella.errors import Integrity, LamellaError, Unavailable
from lamella.registry.access import Retrying
from lamella.registry.transport import BROKEN, Response
from lamella.spec.descriptor import Descriptor

_CHUNK = 256 << 10
_PROGRESS = 64 << 10
"""Bytes that have to come between two failures for the second not to count as the next of the first."""
_WINDOW = 8 << 20
_LARGE = 4 * _WINDOW
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")

Open = Callable[[int, int | None], Response]
"""Asks for the bytes from an offset to before another (None: to the end); an answer of 200 or 206."""
Sleep = Callable[[float], object]


class BlobReader:
    """The bytes of one blob from ``start`` to before ``end``; a connection that breaks is made again where it was.

    Nothing is asked for before the first read. A server that knows no ranges sends all of it, and what is known already
    is passed over. Raises Integrity (``size-mismatch``, ``range-mismatch``) for an answer of another size or place than
    announced, and what opening raises. The bytes themselves are not verified.
    """

    def __init__(
        self,
        open_: Open,
        descriptor: Descriptor,
        *,
        start: int = 0,
        end: int | None = None,
        retrying: Retrying,
        sleep: Sleep,
    ) -> None:
        self._open, self._descriptor = open_, descriptor
        self._at, self._start = start, start
        self._end = descriptor.size if end is None else end
        self._retrying, self._sleep = retrying, sleep
        self._response: Response | None = None
        self._failures = 0
        self._failed_at = start
        self.in_ranges = False

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        if size <= 0:
            return b""
        while self._at < self._end:
            try:
                if self._response is None:
                    self._response = self._connect()
                data = self._response.read(min(size, self._end - self._at, _CHUNK))
                if not data:
                    raise Unavailable("the connection broke", code="registry-connection", subject=self._subject)
            except Unavailable as error:
                self._recover(error)
                continue
            self._at += len(data)
            return data
        self._check_end()
        return b""

    @property
    def _subject(self) -> str:
        return f"blob {self._descriptor.digest}"

    def connect(self) -> None:
        """Ask for the bytes now rather than with the first read."""
        if self._response is None and self._at < self._end:
            self._response = self._connect()

    def extend(self) -> None:
        """Read on to the end of the blob: for a server that sends all of it anyway."""
        self._end = self._descriptor.size

    def _connect(self) -> Response:
        end = None if self._end == self._descriptor.size else self._end
        response = self._open(self._at, end)
        try:
            self._check(response)
            if response.status == 200:
                self._skip(response, self._at)
        except BaseException:
            response.close()
            raise
        return response

    def _check(self, response: Response) -> None:
        size = self._descriptor.size
        self.in_ranges = response.status == 206
        if response.status == 200:
            if response.length not in (None, size):
                raise Integrity(
                    f"it has {response.length} bytes at the registry, not {size}",
                    code="size-mismatch",
                    subject=self._subject,
                )
            return
        found = _CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
        if found is None or int(found[1]) != self._at or found[3] not in ("*", str(size)):
            raise Integrity("other bytes came than were asked for", code="range-mismatch", subject=self._subject)

    def _skip(self, response: Response, count: int) -> None:
        while count:
            data = response.read(min(count, _CHUNK))
            if not data:
                raise Unavailable("the connection broke", code="registry-connection", subject=self._subject)
            count -= len(data)

    def _recover(self, error: Unavailable) -> None:
        """Drop the connection and wait. Raises ``error`` if it makes no sense to try again."""
        self.close()
        if error.code not in BROKEN:
            raise error
        if self._at - self._failed_at >= _PROGRESS:
            self._failures = 0
        self._failures += 1
        self._failed_at = self._at
        if self._failures >= self._retrying.attempts:
            raise error.about(subject=self._subject)
        self._sleep(self._retrying.pause(self._failures))

    def _check_end(self) -> None:
        """A blob that goes on behind its announced end is not the one that was announced."""
        response, whole = self._response, self._end == self._descriptor.size
        if response is not None and whole:
            try:
                more = response.read(1)
            except LamellaError:
                more = b""
            if more:
                self.close()
                raise Integrity(
                    f"it has more than its {self._descriptor.size} bytes", code="size-mismatch", subject=self._subject
                )
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        response, self._response = self._response, None
        if response is not None:
            response.close()


class RangedReader:
    """One large blob over several connections: windows of it are fetched ahead, in memory, and handed out in order.

    Holds no more than ``connections`` windows of 8 MiB. A server that knows no ranges is read over one connection.
    """

    def __init__(self, make: Callable[[int, int], BlobReader], start: int, size: int, connections: int) -> None:
        self._make, self._next, self._size = make, start, size
        self._pool = ThreadPoolExecutor(connections, "range")
        self._connections = connections
        self._windows: deque[Future[bytes]] = deque()
        self._readers: set[BlobReader] = set()
        self._data = b""
        self._at = 0
        self._single: BlobReader | None = None
        self._begun = False

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        if not self._begun:
            self._begin()
        if self._single is not None:
            return self._single.read(size)
        if self._at == len(self._data):
            if not self._windows:
                return b""
            self._data, self._at = self._windows.popleft().result(), 0
            self._ask()
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _begin(self) -> None:
        self._begun = True
        first = self._window()
        first.connect()
        if not first.in_ranges:
            first.extend()
            self._single = first
            return
        self._windows.append(self._pool.submit(self._fetch, first))
        for _ in range(self._connections - 1):
            self._ask()

    def _window(self) -> BlobReader:
        start, end = self._next, min(self._next + _WINDOW, self._size)
        self._next = end
        reader = self._make(start, end)
        self._readers.add(reader)
        return reader

    def _ask(self) -> None:
        if self._next < self._size:
            self._windows.append(self._pool.submit(self._fetch, self._window()))

    def _fetch(self, reader: BlobReader) -> bytes:
        try:
            return b"".join(iter(lambda: reader.read(_CHUNK), b""))
        finally:
            reader.close()
            self._readers.discard(reader)

    def close(self) -> None:
        """Give the connections back; windows under way are waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for reader in list(self._readers):
            reader.close()
        self._windows.clear()
        self._data = b""


def worth_ranges(size: int, connections: int) -> bool:
    """Whether so many bytes are worth several connections."""
    return connections > 1 and size >= _LARGE
