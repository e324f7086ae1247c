"""Users and passwords: htpasswd files with bcrypt hashes, as ``htpasswd -B`` writes them, and Basic (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import InvalidInput, Unsupported

_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_SIGNIFICANT = 72
"""Bytes of a password that bcrypt looks at, in whoever made the hash too."""
_REMEMBERED = 300.0
_ENTRIES = 1024
_FILE_BYTES = 4 << 20


class Users:
    """The users of a file, which is read again when it changes. Thread-safe.

    Raises InvalidInput for a line that is none, Unsupported for a hash that is not bcrypt, and what reading raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._hashes: dict[str, bytes] = {}
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._nobody = b""
        self._load()

    def knows(self, authorization: str) -> bool:
        """Whether ``allows`` has said yes to this header lately, and nothing has changed since. Takes no time."""
        found = _credentials(authorization)
        return found is not None and self._remembers(self._trace(found, self._current().get(found[0])))

    def allows(self, authorization: str) -> bool:
        """Whether the header names a user and has the user's password. Takes as long as bcrypt takes."""
        found = _credentials(authorization)
        if found is None:
            return False
        user, password = found
        hashed = self._current().get(user)
        # Nobody is checked too, so that the time does not tell who there is.
        right = _matches(password, hashed or self._nobody) and hashed is not None
        if right:
            self._remember(self._trace(found, hashed))
        return right

    def _trace(self, found: tuple[str, bytes], hashed: bytes | None) -> bytes:
        """What is remembered of credentials: nothing that tells them, and of no use with another hash."""
        user, password = found
        told = b"\0".join((hashed or b"", user.encode("utf-8", "surrogateescape"), password))
        return hmac.new(self._key, told, hashlib.sha256).digest()

    def _current(self) -> dict[str, bytes]:
        with self._lock:
            if _stamp(self._path) != self._stamp:
                self._load()
            return self._hashes

    def _load(self) -> None:
        stamp = _stamp(self._path)
        with os_errors(str(self._path)), self._path.open("rb") as file:
            self._hashes = _parsed(file.read(_FILE_BYTES), str(self._path))
        self._nobody = next(iter(self._hashes.values()), b"")
        self._stamp = stamp  # after the rest: a file that cannot be read is tried again, and lets nobody in

    def _remembers(self, seen: bytes) -> bool:
        with self._lock:
            until = self._right.get(seen, 0.0)
            return time.monotonic() < until

    def _remember(self, seen: bytes) -> None:
        with self._lock:
            self._right[seen] = time.monotonic() + _REMEMBERED
            while len(self._right) > _ENTRIES:
                self._right.popitem(last=False)


def _stamp(path: Path) -> tuple[int, ...]:
    with os_errors(str(path)):
        info = os.stat(path)
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def _parsed(data: bytes, subject: str) -> dict[str, bytes]:
    hashes: dict[str, bytes] = {}
    for number, raw in enumerate(data.splitlines(), 1):
        line = raw.decode("utf-8", "surrogateescape").strip()
        if not line or line.startswith("#"):
            continue
        user, colon, hashed = line.partition(":")
        if not user or not colon:
            raise InvalidInput(f"line {number} is not USER:HASH", code="htpasswd-line", subject=subject)
        if not _BCRYPT.fullmatch(hashed):
            raise Unsupported(
                f"the hash of line {number} is not bcrypt",
                code="htpasswd-hash",
                subject=subject,
                hint="make it with 'htpasswd -B'",
            )
        hashes[user] = hashed.encode()
    return hashes


def _credentials(authorization: str) -> tuple[str, bytes] | None:
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = raw.partition(b":")
    return (user.decode("utf-8", "surrogateescape"), password) if colon else None


def _matches(password: bytes, hashed: bytes) -> bool:
    import bcrypt

    try:
        return bool(hashed) and bcrypt.checkpw(password[:_SIGNIFICANT], hashed)
    except ValueError:
        return False
