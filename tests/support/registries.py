"""Registries to test with: Debian's docker-registry on a free port of this machine, as it is found in the world.

Open to all, with users (htpasswd), or behind a token server; over plain HTTP or TLS. Each has a storage of its own,
deletes enabled, and is gone when its block is left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from support import certificates, needs
from support.certificates import Certificate
from support.peers import run
from support.processes import Server, serving
from support.tokens import ISSUER, SERVICE, TokenServer, token_server

Auth = Literal["none", "htpasswd", "token"]

USER, PASSWORD = "ann", "a pass:word, with ünusual ch@racters"
_LISTENING = rb"listening on ([0-9.]+:[0-9]+)"


@dataclass
class Registry:
    """A registry that runs. ``host`` is ``127.0.0.1:PORT``; ``user`` and ``password`` are empty where nobody is asked.

    ``authority`` is the certificate to trust it by, if it speaks TLS; ``tokens`` is its token server, if it has one.
    """

    host: str
    storage: Path
    server: Server
    auth: Auth = "none"
    user: str = ""
    password: str = ""
    tls: Certificate | None = None
    tokens: TokenServer | None = None

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"{'http' if self.tls is None else 'https'}://{self.host}"

    @property
    def authority(self) -> Path | None:
        """The certificate of the authority that vouches for it; None for plain HTTP."""
        return None if self.tls is None else self.tls.authority

    def skopeo_options(self, side: Literal["src", "dest", ""] = "") -> list[str]:
        """What skopeo needs to be told to use it as the source or the destination of a copy, or ("") for the rest."""
        prefix = f"--{side}-" if side else "--"
        options = [f"{prefix}tls-verify=false"]
        if self.user:
            options.append(f"{prefix}creds={self.user}:{self.password}")
        return options


def htpasswd(place: Path, *users: tuple[str, str], name: str = "htpasswd") -> Path:
    """A file of users with bcrypt hashes, as apache's tool writes it."""
    path = place / name
    tool = needs.tool("htpasswd")
    path.write_text("".join(run(tool, "-nbB", "-C", "4", user, password).strip() + "\n" for user, password in users))
    return path


@contextmanager
def docker_registry(
    place: Path,
    *,
    auth: Auth = "none",
    tls: Certificate | None = None,
    port: int = 0,
    tokens: TokenServer | None = None,
) -> Iterator[Registry]:
    """Run docker-registry below the directory ``place`` while the block runs; started again there, it has what it had.

    ``auth="token"`` starts a token server too, unless ``tokens`` is one that is to be used.
    """
    program = needs.tool("docker-registry")
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        rules: dict[str, object] = {}
        if auth == "htpasswd":
            rules = {"htpasswd": {"realm": "tests", "path": str(htpasswd(place, (USER, PASSWORD)))}}
        elif auth == "token":
            if tokens is None:
                signer = certificates.self_signed(place)
                tokens = stack.enter_context(token_server(signer, {USER: PASSWORD}))
            bundle = str(tokens.signer.authority)
            rules = {"token": {"realm": tokens.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}}
        config = _config(place / "storage", rules, tls, port)
        (place / "config.yml").write_text(json.dumps(config))  # YAML has JSON in it
        server = stack.enter_context(serving(program, "serve", place / "config.yml", listening=_LISTENING))
        user, password = ("", "") if auth == "none" else (USER, PASSWORD)
        yield Registry(server.address, place / "storage", server, auth, user, password, tls, tokens)


def _config(storage: Path, auth: dict[str, object], tls: Certificate | None, port: int) -> dict[str, object]:
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "of these tests"}
    if tls is not None:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http,
        "validation": {"manifests": {"urls": {"allow": ["^https?://"]}}},
    }
    if auth:
        config["auth"] = auth
    return config
