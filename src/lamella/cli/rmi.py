"""``lamella rmi``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import write_json, write_text
from lamella.cli.session import Session, pass_session

_SHOWN = ("blob", "layer")


@click.command("rmi")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=arguments.complete_image)
@click.option("-f", "--force", is_flag=True, help="Drop the names even if images or snapshots need the image.")
@arguments.json_option
@pass_session
def command(here: Session, names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove images.

    A name goes; with an image's last name goes everything that nothing else needs. All of what is asked for is removed,
    or nothing. An image that has children or snapshots is refused; with --force it loses its names and stays for them.
    """
    with here.store() as store:
        removed = store.remove(names, force=force)
    if as_json:
        deleted = [{"kind": item.kind, "name": item.name, "size": item.size} for item in removed.report.items]
        write_json({"untagged": list(removed.untagged), "deleted": deleted, "size": removed.report.size})
        return
    for name in removed.untagged:
        write_text(f"Untagged: {name}")
    # A layer that came uncompressed is a blob too: one digest, one line.
    for digest in dict.fromkeys(item.name for item in removed.report.items if item.kind in _SHOWN):
        write_text(f"Deleted: {digest}")
