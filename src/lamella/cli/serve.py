"""``lamella serve``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("serve")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:5000",
    show_default=True,
    help="Where to listen; port 0 takes a free one, no host is every address.",
)
@click.option("--writable", is_flag=True, help="Let clients push and delete.")
@click.option("--htpasswd", metavar="FILE", type=_FILE, help="Ask for a user and a password of this file (bcrypt).")
@click.option("--tls-cert", metavar="FILE", type=_FILE, help="Speak TLS with this certificate (and chain, PEM).")
@click.option("--tls-key", metavar="FILE", type=_FILE, help="The key of the certificate (PEM).")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.1),
    help="End a connection that stalls for so long.  [default: 60]",
)
@click.option(
    "--expiry",
    metavar="SECONDS",
    type=click.FloatRange(1),
    help="Keep uploads, and blobs that no manifest names, for so long.  [default: 3600]",
)
@click.option("--max-blob", metavar="BYTES", type=click.IntRange(1), help="Refuse larger blobs.  [default: 256 GiB]")
@click.option("--max-connections", metavar="N", type=click.IntRange(2), help="Refuse more at a time.  [default: 256]")
@pass_session
def command(
    here: Session,
    listen: str,
    writable: bool,
    htpasswd: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    timeout: float | None,
    expiry: float | None,
    max_blob: int | None,
    max_connections: int | None,
) -> None:
    """Serve the store as a registry.

    Until it is interrupted, clients of registries (docker, podman, skopeo, lamella) pull every image that has a name,
    by the name that it has here: app:1 is HOST:PORT/app:1, quay.io/org/app:1 is HOST:PORT/quay.io/org/app:1. With
    --writable what is pushed to HOST:PORT/app:1 is app:1 here, unpacked and ready to be mounted. The address is
    printed when clients can connect.

    Whoever can connect can read everything; --htpasswd lets in users only. Without TLS passwords can be read on the
    way: use it for this machine, or behind a proxy.
    """
    from dataclasses import replace

    from lamella.server.limits import ServerLimits
    from lamella.server.serve import Options, parse_listen, serve

    host, port = parse_listen(listen)
    limits = ServerLimits()
    if timeout is not None:
        limits = replace(limits, idle=timeout, head=min(limits.head, timeout))
    if expiry is not None:
        limits = replace(limits, expiry=expiry)
    if max_blob is not None:
        limits = replace(limits, blob_bytes=max_blob)
    if max_connections is not None:
        limits = replace(limits, connections=max_connections)
    options = Options(host, port, writable, htpasswd, tls_cert, tls_key, limits)
    with here.store() as store:
        serve(store, options, ready=_say)


def _say(url: str) -> None:
    write_text(url)
    sys.stdout.flush()
