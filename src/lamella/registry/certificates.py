"""Certificates of a registry, as docker and podman keep them: ``certs.d/HOST[:PORT]/{*.crt,*.cert,*.key}``."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import InvalidInput


def tls_context(host: str, directories: Sequence[Path], *, verify: bool) -> ssl.SSLContext:
    """What to speak TLS to ``host`` (with its port, where it has one) with.

    The first directory that has one for the host counts: its ``*.crt`` are authorities to trust besides the system's,
    each ``*.cert`` a certificate to show, with the ``*.key`` of the same name. Raises InvalidInput for what is none.
    """
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    found = next((at for directory in directories if (at := directory / host).is_dir()), None)
    if found is not None:
        with os_errors(str(found)):
            for path in sorted(found.iterdir()):
                _take(context, path)
    return context


def _take(context: ssl.SSLContext, path: Path) -> None:
    try:
        if path.suffix == ".crt":
            context.load_verify_locations(path)
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            if not key.exists():
                raise InvalidInput(f"there is no {key.name} beside it", code="certificate-invalid", subject=str(path))
            context.load_cert_chain(path, key)
    except ssl.SSLError as error:
        raise InvalidInput(
            f"it is no certificate in PEM: {error.reason or error}", code="certificate-invalid", subject=str(path)
        ) from None
