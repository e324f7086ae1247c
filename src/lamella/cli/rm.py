"""``lamella rm``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("rm")
@click.argument("keys", metavar="SNAPSHOT...", nargs=-1, required=True, shell_complete=arguments.complete_snapshot)
@click.option("-f", "--force", is_flag=True, help="Unmount those that are mounted.")
@pass_session
def command(here: Session, keys: tuple[str, ...], force: bool) -> None:
    """Remove snapshots.

    What was written to them and not committed is gone. The key of each is printed once it is removed.
    """
    with here.store() as store:
        for snapshot in [store.snapshot(key) for key in dict.fromkeys(keys)]:
            snapshot.remove(force=force)
            write_text(snapshot.key)
