"""``lamella rollback``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("rollback")
@click.argument("key", metavar="SNAPSHOT", shell_complete=arguments.complete_snapshot)
@arguments.quiet_option
@pass_session
def command(here: Session, key: str, quiet: bool) -> None:
    """Undo everything that was written to a snapshot.

    It becomes what it was when it was created or forked. One that is mounted is refused. Its key is printed.
    """
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        store.snapshot(key).roll_back(progress=progress)
    write_text(key)
