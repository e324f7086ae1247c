"""Reading with a check: nobody sees the last byte of a blob that is not what its digest says."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from lamella._sys.files import map_os_error
from lamella.errors import Integrity, NotFound, ResourceExhausted
from lamella.spec.digest import Digest
from lamella.spec.endpoint import Reader

CHUNK = 1 << 20


def check_whole(actual: Digest, length: int, *, expected: Digest | None, size: int | None) -> None:
    """Compare what was received with what was announced. Raises Integrity (``size-mismatch``, ``digest-mismatch``)."""
    subject = f"blob {expected or actual}"
    if size is not None and size != length:
        raise Integrity(f"{length} bytes were received, {size} announced", code="size-mismatch", subject=subject)
    if expected is not None and expected != actual:
        raise Integrity(f"the bytes received have the digest {actual}", code="digest-mismatch", subject=subject)


def blob_over_limit(digest: Digest, size: int, limit: int) -> ResourceExhausted:
    """The refusal to read a whole blob into memory that is larger than its reader takes."""
    return ResourceExhausted(
        f"it has {size} bytes, over the limit of {limit}", code="blob-size", subject=f"blob {digest}"
    )


def no_blob(digest: Digest) -> NotFound:
    """The failure to find a blob."""
    return NotFound("there is no such blob", code="blob-not-found", subject=f"blob {digest}")


class VerifiedReader:
    """A stream that must turn out to have ``size`` bytes and ``digest``; owns ``stream`` and closes it.

    A stream that is too long fails at once, one that is too short or has other bytes at its end: the last bytes are
    handed out after the check only, so a reader that has got ``size`` bytes has got the right ones. A failure is
    Integrity (``size-mismatch``, ``digest-mismatch``) and every later read repeats it. Used by one thread.
    """

    __slots__ = ("_failure", "_hasher", "_seen", "_stream", "_whole", "digest", "size")

    def __init__(self, stream: Reader, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self._stream = stream
        self._hasher = digest.hasher()
        self._seen = 0
        self._whole = False
        self._failure: Integrity | None = None

    @property
    def verified(self) -> bool:
        """Whether the stream was read to its end and is what it should be."""
        return self._whole

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that are left if negative; empty at the end."""
        if self._failure is not None:
            raise self._failure
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if size == 0 or self._whole:
            return b""
        data = self._pull(size)
        self._seen += len(data)
        self._hasher.update(data)
        if self._seen >= self.size or not data:
            self._check()
        return data

    def drain(self) -> None:
        """Read what is left, for the check alone."""
        while self.read(CHUNK):
            pass

    def _pull(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise map_os_error(error, f"blob {self.digest}") from error

    def _check(self) -> None:
        if self._seen == self.size and self._pull(1):
            self._seen += 1
        if self._seen > self.size:
            self._fail(Integrity(f"it has more than its {self.size} bytes", code="size-mismatch"))
        if self._seen < self.size:
            self._fail(Integrity(f"it ends after {self._seen} of {self.size} bytes", code="size-mismatch"))
        actual = Digest.finish(self._hasher)
        if actual != self.digest:
            self._fail(Integrity(f"its bytes have the digest {actual}", code="digest-mismatch"))
        self._whole = True

    def _fail(self, failure: Integrity) -> None:
        self._failure = failure.about(subject=f"blob {self.digest}")
        raise self._failure

    def close(self) -> None:
        """Close the stream; allowed before its end."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
