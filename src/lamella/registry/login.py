"""Keeping credentials, and forgetting them: what ``login`` and ``logout`` do with the files and helpers."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from lamella._sys.files import os_errors, write_atomic
from lamella._sys.locks import FileLock
from lamella.errors import InvalidInput, NotFound
from lamella.registry import helpers
from lamella.registry.credentials import (
    CredentialFiles,
    Credentials,
    helper_for,
    helper_key,
    keys_for,
    names_host,
    read_file,
)
from lamella.registry.hosts import DOCKER_HUB
from lamella.spec import jsondoc
from lamella.spec.reference import Reference


def split_key(text: str | None) -> tuple[str, str]:
    """The registry, and the repository or its beginning, that a user logs in to; None is Docker Hub.

    Raises InvalidInput for what is no host, and for an address with a scheme other than docker's own.
    """
    if text is None or text in ("docker.io", "index.docker.io", "https://index.docker.io/v1/"):
        return DOCKER_HUB, ""
    bare = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    domain, _, path = bare.partition("/")
    reference = Reference.parse(f"{domain}/{path or 'x'}")
    if reference.domain != domain:
        raise InvalidInput(f"'{text[:200]}' is no registry", code="registry-syntax")
    return domain, reference.path if path else ""


def store_credentials(files: CredentialFiles, domain: str, path: str, credentials: Credentials) -> None:
    """Keep credentials for a registry, or for repositories of it: with its helper, if there is one, else in the file.

    The file has mode 0600 and is replaced atomically; what else is in it stays.
    """
    document = read_file(files.written)
    helper = helper_for(document, domain)
    if helper is not None:
        answer = {"ServerURL": helper_key(domain), "Username": credentials.username, "Secret": credentials.password}
        helpers.call(helper, "store", jsondoc.render(answer))
        return
    entry: dict[str, Any] = {"auth": credentials.basic.removeprefix("Basic ")}
    if credentials.identity_token:
        entry = {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": credentials.identity_token}
    _edit(files.written, lambda auths: auths.__setitem__(f"{domain}/{path}" if path else domain, entry))


def forget_credentials(files: CredentialFiles, domain: str, path: str) -> None:
    """Forget what is kept in the file, or by the helper, for exactly this. Raises NotFound if nothing is."""
    document = read_file(files.written)
    helper = helper_for(document, domain)
    if helper is not None:
        helpers.call(helper, "erase", helper_key(domain).encode())
        return
    wanted = next(keys_for(domain, path))
    auths: dict[str, Any] = jsondoc.field(document, "auths", dict, str(files.written), {})
    found = [key for key in auths if key == wanted or (not path and names_host(key, domain))]
    if not found:
        elsewhere = files.find(domain, path)
        hint = "another file has some, which 'podman logout' or 'docker logout' forgets" if elsewhere else ""
        raise NotFound(
            f"there are no credentials in {files.written}", code="credentials-not-found", subject=wanted, hint=hint
        )

    def remove(auths: dict[str, Any]) -> None:
        for key in found:
            auths.pop(key, None)

    _edit(files.written, remove)


def forget_all(files: CredentialFiles) -> None:
    """Forget everything that is kept in the file."""
    if files.written.exists():
        _edit(files.written, dict.clear)


def _edit(path: Path, change: Any) -> None:
    """Change ``auths`` of a file; of several processes one after the other."""
    with os_errors(str(path)):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            document = read_file(path)
            auths: dict[str, Any] = jsondoc.field(document, "auths", dict, str(path), {})
            change(auths)
            document["auths"] = auths
            write_atomic(path, _pretty(document), mode=0o600)


def _pretty(document: jsondoc.Object) -> bytes:
    """The form that docker and podman write: with tabs, for people to read."""
    import json

    return json.dumps(document, indent="\t", ensure_ascii=False).encode() + b"\n"
