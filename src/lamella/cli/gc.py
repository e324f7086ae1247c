"""``lamella gc``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import clean, human_size, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session


@click.command("gc")
@click.option("-n", "--dry-run", is_flag=True, help="Remove nothing, only show what would be.")
@arguments.json_option
@pass_session
def command(here: Session, dry_run: bool, as_json: bool) -> None:
    """Remove what no name, snapshot or running process needs.

    May run beside anything else. What an image with a name was made from is needed, as is what is being loaded or
    committed at this moment.
    """
    with here.store() as store:
        report = store.gc(dry_run=dry_run)
    if as_json:
        items = [{"kind": item.kind, "name": item.name, "size": item.size} for item in report.items]
        write_json({"dry_run": dry_run, "items": items, "size": report.size})
        return
    if report.items:
        write_table(
            ("KIND", "SIZE", "NAME"), [(item.kind, human_size(item.size), clean(item.name)) for item in report.items]
        )
    write_text(f"Total {'reclaimable' if dry_run else 'reclaimed'} space: {human_size(report.size)}")
