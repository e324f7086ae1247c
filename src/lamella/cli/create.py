"""``lamella create``."""

from __future__ import annotations

import click

from lamella.cli import arguments, lookup
from lamella.cli.output import write_text
from lamella.cli.session import Session, pass_session


@click.command("create")
@click.argument("image", metavar="IMAGE", shell_complete=arguments.complete_image)
@click.option("--name", "key", metavar="KEY", help="What to call it.  [default: twelve random digits]")
@click.option("--read-only", is_flag=True, help="Make one that cannot be written to.")
@click.option("--driver", metavar="NAME", help="How to mount it.  [default: the first that works here]")
@click.option(
    "--init-layer", is_flag=True, help="Put what containers need (/proc, /etc/hosts, ...) on top of the image."
)
@arguments.platform_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    image: str,
    key: str | None,
    read_only: bool,
    driver: str | None,
    init_layer: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Create a snapshot on an image.

    A snapshot is a file system of its own that starts as the image and can be written to. Its key is printed.
    """
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        base = lookup.image(store, image, platform)
        snapshot = store.prepare(
            base, key, driver=driver, writable=not read_only, init_layer=init_layer, progress=progress
        )
    write_text(snapshot.key)
