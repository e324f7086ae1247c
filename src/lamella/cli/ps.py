"""``lamella ps``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lamella.cli import arguments, describe
from lamella.cli.output import clean, human_age, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session

if TYPE_CHECKING:
    from lamella.spec.digest import Digest
    from lamella.store.snapshot import Snapshot
    from lamella.store.store import Store

_HEADER = ("KEY", "IMAGE", "DRIVER", "CREATED", "MOUNTED AT")


@click.command("ps")
@click.option("-q", "--quiet", is_flag=True, help="Print keys only.")
@arguments.no_trunc_option
@arguments.json_option
@pass_session
def command(here: Session, quiet: bool, no_trunc: bool, as_json: bool) -> None:
    """List snapshots."""
    with here.store() as store:
        snapshots = store.snapshots()
        if as_json:
            write_json([describe.snapshot(snapshot) for snapshot in snapshots])
        elif quiet:
            for snapshot in snapshots:
                write_text(snapshot.key)
        else:
            names = store.graph.names_by_target()
            write_table(_HEADER, [_row(store, names, snapshot, full=no_trunc) for snapshot in snapshots])


def _row(store: Store, names: dict[Digest, list[str]], snapshot: Snapshot, *, full: bool) -> tuple[str, ...]:
    record, mounted = snapshot.record, snapshot.mounted
    image = snapshot.image
    shown = names.get(image.digest) or [str(image.id) if full else image.short_id]
    where = "" if mounted is None else clean(str(mounted.root))
    driver = record.driver if record.writable else f"{record.driver} (ro)"
    return (snapshot.key, shown[0], driver, human_age(record.created), where)
