"""``lamella cat``."""

from __future__ import annotations

import click

from lamella.cli import arguments, lookup
from lamella.cli.output import write_bytes
from lamella.cli.session import Session, pass_session

_CHUNK = 1 << 20


@click.command("cat")
@click.argument("name", metavar="IMAGE|SNAPSHOT", shell_complete=arguments.complete_any)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=arguments.InnerPath())
@arguments.platform_option
@pass_session
def command(here: Session, name: str, paths: tuple[bytes, ...], platform: str | None) -> None:
    """Print files of an image or a snapshot.

    Nothing is mounted or extracted; links are followed inside the image only.
    """
    with here.store() as store, lookup.files(store, name, platform) as files:
        for path in paths:
            with files.open(path) as stream:
                while data := stream.read(_CHUNK):
                    write_bytes(data)
