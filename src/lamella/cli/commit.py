"""``lamella commit``."""

from __future__ import annotations

import click

from lamella.cli import arguments, session
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("commit")
@click.argument("key", metavar="SNAPSHOT", shell_complete=arguments.complete_snapshot)
@click.argument("name", required=False, shell_complete=arguments.complete_image)
@arguments.recipe_options
@arguments.compression_options(arguments.LAYER_COMPRESSIONS, "gzip")
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    key: str,
    name: str | None,
    author: str,
    message: str,
    changes: tuple[str, ...],
    compression: str | None,
    level: int | None,
    quiet: bool,
) -> None:
    """Make an image of the changes of a snapshot.

    The new image is a child of the one that the snapshot stands on; the snapshot stays as it is. With SOURCE_DATE_EPOCH
    set, the same changes give the same id. The id is printed.
    """
    recipe = session.recipe(author=author, message=message, changes=changes, compression=compression, level=level)
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        image = store.snapshot(key).commit(name, recipe=recipe, progress=progress)
    write_text(str(image.id))
