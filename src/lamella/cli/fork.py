"""``lamella fork``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("fork")
@click.argument("key", metavar="SNAPSHOT", shell_complete=arguments.complete_snapshot)
@click.argument("new", metavar="[KEY]", required=False)
@pass_session
def command(here: Session, key: str, new: str | None) -> None:
    """Make a snapshot that starts from what another one holds.

    From then on the two are independent. The key of the new one is printed.
    """
    with here.store() as store:
        fork = store.snapshot(key).fork(new)
    write_text(fork.key)
