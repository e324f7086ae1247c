"""Blobs on their way into an archive or a layout: verified, and kept as files in a scratch directory till the end."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import FailedPrecondition
from lamella.formats.files import CHUNK, FileRange, open_file, read_document
from lamella.formats.scratch import Scratch
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader


class Spool:
    """Files named by the digest of their bytes, in ``scratch``. Safe for use by several threads."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._numbers = itertools.count()
        self._digests: set[Digest] = set()

    def digests(self) -> list[Digest]:
        """What is there, sorted."""
        return sorted(self._digests)

    def path(self, digest: Digest) -> Path:
        """Where the bytes with this digest are, or would be."""
        return self._scratch / f"{digest.algorithm}-{digest.hex}"

    def size(self, digest: Digest) -> int | None:
        """The size in bytes of what is there under a digest; None if nothing is."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def store(self, reader: Reader, *, digest: Digest | None = None, durable: bool = False) -> Digest:
        """Keep all that ``reader`` delivers, which stays open; the digest is taken as told, or else computed (sha256).

        Nothing stays when the reader fails. With ``durable`` the bytes survive a power cut once they have a lasting
        name.
        """
        hasher = None if digest is not None else Digest.of(b"").hasher()
        partial = self._scratch / f"partial-{next(self._numbers)}"
        with os_errors(str(self._scratch.path)):
            try:
                with open(self._scratch.create(partial.name), "wb") as file:
                    while data := reader.read(CHUNK):
                        if hasher is not None:
                            hasher.update(data)
                        file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                found = Digest.finish(hasher) if hasher is not None else digest
                assert found is not None
                partial.rename(self.path(found))
                self._digests.add(found)
            finally:
                partial.unlink(missing_ok=True)
        return found

    def open(self, digest: Digest) -> FileRange:
        """The bytes with this digest. Raises FailedPrecondition (``blob-not-written``) if nobody stored them."""
        if self.size(digest) is None:
            raise FailedPrecondition(f"blob {digest} was not written", code="blob-not-written")
        return open_file(self.path(digest))

    def read(self, digest: Digest, what: str, limit: int) -> bytes:
        """The whole document with this digest. Raises as ``open`` does, ResourceExhausted if it is over ``limit``."""
        return read_document(self.open(digest), what, limit)
