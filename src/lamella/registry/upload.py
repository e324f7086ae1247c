"""Sending one blob to a registry (distribution-spec, "Pushing blobs"): at once, or as a stream that can go on.

A large blob is streamed into an upload session with one PATCH, as all clients do. When the connection breaks, the
registry is asked how far it has come, and the rest is sent; where it cannot tell, the blob is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from lamella.content.verified import check_whole
from lamella.errors import Integrity, LamellaError, NotFound, Unavailable
from lamella.registry.client import Answer, expect
from lamella.registry.repository import Repository
from lamella.registry.transport import BROKEN
from lamella.spec.descriptor import Descriptor
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader, RewindableReader

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK = 1 << 20
_AT_ONCE = 1 << 20
"""Blobs of up to so many bytes are sent with the request that ends their upload."""
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")


class Upload:
    """One blob on its way to a repository. ``location`` is a session that is open already, if there is one."""

    def __init__(self, repository: Repository, descriptor: Descriptor, reader: Reader, location: str = "") -> None:
        self._repository, self._descriptor = repository, descriptor
        self._source = _Source(reader, descriptor)
        self.location = location

    def run(self) -> None:
        """Send it. Raises Integrity for bytes that are not what the descriptor says, and what the registry says."""
        registry = self._repository.registry
        retrying = registry.access.retrying
        offset = 0
        for failures in range(1, retrying.attempts + 1):
            try:
                if not self.location:
                    self.location, offset = self._begin(), 0
                self._send(offset)
                return
            except LamellaError as error:
                if self._source.failure is not None or failures == retrying.attempts or not _worth_again(error):
                    raise
            registry.transport.sleep(retrying.pause(failures))
            offset = self._ask()

    def cancel(self) -> None:
        """Give the session up; a registry that does not care is left alone."""
        location, self.location = self.location, ""
        if location:
            with suppress(LamellaError):
                self._repository.registry.call(self._repository.request("DELETE", location, again=False))

    @property
    def _subject(self) -> str:
        return f"{self._repository.name}@{self._descriptor.digest}"

    def _begin(self) -> str:
        answer = self._repository.registry.call(self._repository.request("POST", "blobs/uploads/", body=b""))
        expect(answer, (202,), self._subject)
        return session_of(self._repository, answer)

    def _send(self, offset: int) -> None:
        size = self._descriptor.size
        if size <= _AT_ONCE:
            self._source.rewind(0)
            self._end(b"".join(self._source.pieces()))
            return
        if offset < size:
            self._patch(offset)
        self._source.check()
        self._end(b"")

    def _patch(self, offset: int) -> None:
        """Send everything from ``offset`` on."""
        size = self._descriptor.size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - offset)}
        if offset:
            headers["Content-Range"] = f"{offset}-{size - 1}"

        def body() -> Iterator[bytes]:
            self._source.rewind(offset)
            return self._source.pieces()

        call = self._repository.request("PATCH", self.location, headers=headers, body=body, again=False)
        answer = expect(self._repository.registry.call(call), (202, 201, 204), self._subject)
        self.location = session_of(self._repository, answer)

    def _end(self, body: bytes) -> None:
        query = urlencode({"digest": str(self._descriptor.digest)})
        target = f"{self.location}{'&' if '?' in self.location else '?'}{query}"
        headers = {"Content-Type": "application/octet-stream"}
        call = self._repository.request("PUT", target, headers=headers, body=body, again=False)
        answer = self._repository.registry.call(call)
        expect(answer, (201, 204), self._subject)
        self.location = ""

    def _ask(self) -> int:
        """How many bytes the session has; a session that cannot be gone on with is given up, for a new one."""
        location, self.location = self.location, ""
        if not location or self._descriptor.size <= _AT_ONCE:
            return 0
        with suppress(LamellaError):
            answer = self._repository.registry.call(self._repository.request("GET", location))
            found = _RANGE.fullmatch(answer.header("Range").strip())
            if answer.status == 204 and found is not None:
                offset = int(found[1]) + 1
                # "0-0" is what some registries say of one byte, and of none.
                if 1 < offset <= self._descriptor.size:
                    self.location = session_of(self._repository, answer, location)
                    return offset
        return 0


def session_of(repository: Repository, answer: Answer, known: str = "") -> str:
    """The URL of an upload session that an answer names; ``known`` if it names none."""
    location = answer.header("Location")
    if not location:
        if known:
            return known
        raise Unavailable("it names no place to upload to", code="registry-protocol", subject=repository.name)
    return repository.registry.transport.safe_target(answer.url, location)


def _worth_again(error: LamellaError) -> bool:
    """Whether sending once more may help: the connection broke, the server is busy, the session is gone."""
    if isinstance(error, Unavailable):
        return error.code in BROKEN or error.code in ("registry-error", "registry-rate-limit")
    return isinstance(error, NotFound) or error.code == "registry-refused"


class _Source:
    """The bytes of the blob, as often as they are needed, verified before the last of them is handed out."""

    def __init__(self, reader: Reader, descriptor: Descriptor) -> None:
        self._reader, self._descriptor = reader, descriptor
        self._at = 0
        self._hashed = 0
        self._hasher: _Hash = descriptor.digest.hasher()
        self._checked = False
        self._trusted = False
        self.failure: BaseException | None = None

    def rewind(self, offset: int) -> None:
        """Go to where the next bytes are to be from."""
        if offset == self._at:
            return
        if not isinstance(self._reader, RewindableReader):
            self.failure = Unavailable(
                "the connection broke, and what is sent cannot be read again", code="source-not-rewindable"
            )
            raise self.failure
        if offset > self._hashed and not self._trusted:  # the registry has more than was hashed here: hash what it has
            self._reader.rewind(self._hashed)
            self._at = self._hashed
            while self._at < offset and self._piece(min(_CHUNK, offset - self._at)):
                pass
            return
        self._reader.rewind(offset)
        self._at = offset

    def pieces(self) -> Iterator[bytes]:
        """The rest."""
        try:
            while data := self._piece(_CHUNK):
                yield data
        except BaseException as error:
            self.failure = error
            raise

    def _piece(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._at += len(data)
        # What reads from a store is checked there, and need not be hashed twice.
        self._trusted = self._trusted or (not self._hashed and bool(getattr(self._reader, "verifies", False)))
        if self._trusted:
            return data
        new = self._at - self._hashed
        if new > 0:
            self._hasher.update(data[len(data) - new :])
            self._hashed = self._at
        if self._hashed > self._descriptor.size or not data or self._hashed == self._descriptor.size:
            self.check()
        return data

    def check(self) -> None:
        """Raise Integrity if what was read is not the blob."""
        if not self._checked and not self._trusted:
            actual = Digest.finish(self._hasher)
            try:
                expected, size = self._descriptor.digest, self._descriptor.size
                check_whole(actual, self._hashed, expected=expected, size=size)
            except Integrity as error:
                self.failure = error
                raise
            self._checked = True
