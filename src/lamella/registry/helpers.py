"""Credential helpers: programs named ``docker-credential-NAME``, called with a verb and text on standard input."""

from __future__ import annotations

from lamella.errors import Authentication

PREFIX = "docker-credential-"
_MISSING = (b"credentials not found in native keychain", b"no credentials server url", b"no credentials username")
_PATIENCE = 60


def call(name: str, verb: str, text: bytes) -> bytes | None:
    """What a helper answers to a verb; None if it says that it has nothing. Raises Authentication if it fails.

    What it prints is never part of an error: it may be a secret.
    """
    import subprocess

    program = PREFIX + name
    try:
        done = subprocess.run(
            [program, verb],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "it does not answer" if not isinstance(error, OSError) else error.strerror or "it cannot be run"
        raise Authentication(why, code="credential-helper", subject=program) from None
    if done.returncode == 0:
        return done.stdout
    if any(words in done.stdout for words in _MISSING):
        return None
    raise Authentication(f"it ends with {done.returncode}", code="credential-helper", subject=program)
