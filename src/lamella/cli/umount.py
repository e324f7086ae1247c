"""``lamella umount``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("umount")
@click.argument("keys", metavar="[KEY...]", nargs=-1, shell_complete=arguments.complete_snapshot)
@click.option("-a", "--all", "everything", is_flag=True, help="Unmount all that is mounted.")
@pass_session
def command(here: Session, keys: tuple[str, ...], everything: bool) -> None:
    """Unmount snapshots.

    What was written to them stays. The key of each is printed once it is unmounted.
    """
    if bool(keys) == everything:
        raise click.UsageError("name the snapshots to unmount, or say --all")
    with here.store() as store:
        if everything:
            snapshots = [snapshot for snapshot in store.snapshots() if snapshot.mounted is not None]
        else:
            snapshots = [store.snapshot(key) for key in keys]
        for snapshot in snapshots:
            snapshot.detach()
            write_text(snapshot.key)
