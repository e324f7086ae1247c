"""``lamella exists``."""

from __future__ import annotations

import click

from lamella.cli import arguments, lookup
from lamella.cli.session import Session, pass_session
from lamella.errors import NotFound


@click.command("exists")
@click.argument("name", metavar="IMAGE|SNAPSHOT", shell_complete=arguments.complete_any)
@click.argument("path", required=False, type=arguments.InnerPath())
@arguments.platform_option
@pass_session
def command(here: Session, name: str, path: bytes | None, platform: str | None) -> None:
    """Tell by the exit code whether something exists.

    0 if there is such an image or snapshot, and in it PATH if one is given; 1 if not. Nothing is printed.
    """
    with here.store() as store:
        try:
            if path is not None:
                with lookup.files(store, name, platform) as files:
                    found = files.exists(path)
            elif platform is None:
                found = store.catalog.snapshot(name) is not None or store.exists(name)
            else:
                found = lookup.image(store, name, platform) is not None
        except NotFound:
            found = False
    if not found:
        arguments.no_more()
