"""``lamella history``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lamella.cli import arguments, describe, lookup
from lamella.cli.output import clean, human_age, human_size, shorten, show_id, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session

if TYPE_CHECKING:
    from lamella.images.image import HistoryEntry

_HEADER = ("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT")
_MISSING = "<missing>"
_WIDTH = 45


@click.command("history")
@click.argument("name", metavar="IMAGE", shell_complete=arguments.complete_image)
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@arguments.no_trunc_option
@arguments.json_option
@arguments.platform_option
@pass_session
def command(here: Session, name: str, quiet: bool, no_trunc: bool, as_json: bool, platform: str | None) -> None:
    """Show how an image came to be.

    The newest step first. A step's size is that of the files in its layer; a step after which the store knows no image
    shows as <missing>.
    """
    with here.store() as store:
        steps = lookup.image(store, name, platform).history()[::-1]
    if as_json:
        write_json([describe.step(step) for step in steps])
    elif quiet:
        for step in steps:
            write_text(_id(step, full=no_trunc))
    else:
        write_table(_HEADER, (_row(step, full=no_trunc) for step in steps))


def _id(step: HistoryEntry, *, full: bool) -> str:
    return _MISSING if step.image is None else show_id(step.image, full=full)


def _row(step: HistoryEntry, *, full: bool) -> tuple[str, ...]:
    by = clean(step.created_by) if full else shorten(step.created_by, _WIDTH)
    comment = clean(step.comment) if full else shorten(step.comment, _WIDTH)
    return (_id(step, full=full), human_age(step.created), by, human_size(step.size), comment)
