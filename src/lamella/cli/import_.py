"""``lamella import``."""

from __future__ import annotations

import click

from lamella.cli import arguments, session
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("import")
@click.argument("source", metavar="FILE|-", type=click.Path())
@click.argument("name", required=False, shell_complete=arguments.complete_image)
@arguments.recipe_options
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="What the image runs on.  [default: this machine's]")
@arguments.compression_options(arguments.LAYER_COMPRESSIONS, "as it came; gzip for what came as bzip2 or xz")
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    source: str,
    name: str | None,
    author: str,
    message: str,
    changes: tuple[str, ...],
    platform: str | None,
    compression: str | None,
    level: int | None,
    quiet: bool,
) -> None:
    """Make an image of the tar of a root file system.

    The tar may be compressed with gzip, bzip2, xz or zstd; - is standard input. The image gets NAME, if one is given,
    and its id is printed.
    """
    recipe = session.recipe(
        author=author, message=message, changes=changes, compression=compression, level=level, platform=platform
    )
    stream = arguments.binary_input() if source == "-" else source
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        image = store.import_rootfs(stream, name, recipe=recipe, progress=progress)
    write_text(str(image.id))
