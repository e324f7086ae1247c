"""``lamella tag``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.session import Session, pass_session


@click.command("tag")
@click.argument("source", metavar="IMAGE", shell_complete=arguments.complete_image)
@click.argument("name", shell_complete=arguments.complete_image)
@pass_session
def command(here: Session, source: str, name: str) -> None:
    """Give an image one more name.

    A name that was another image's is moved. A multi-platform image gets the name as a whole.
    """
    with here.store() as store:
        store.tag(source, name)
