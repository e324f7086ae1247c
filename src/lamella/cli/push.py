"""``lamella push``."""

from __future__ import annotations

from dataclasses import replace

import click

from lamella.cli import arguments, remote
from lamella.cli.output import write_json, write_text
from lamella.cli.remote import Reach
from lamella.cli.session import Session, pass_session


@click.command("push")
@click.argument("name", metavar="IMAGE", shell_complete=arguments.complete_image)
@click.argument("target", metavar="[NAME]", required=False)
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Push only this image of a multi-platform one.  [default: all]"
)
@click.option("--foreign-layers", is_flag=True, help="Send layers too that are to be fetched from elsewhere.")
@remote.options
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    name: str,
    target: str | None,
    platform: str | None,
    foreign_layers: bool,
    reach: Reach,
    as_json: bool,
    quiet: bool,
) -> None:
    """Push an image to a registry.

    It goes to the registry that its name, or NAME, begins with. What the registry has is not sent again; layers that
    another of its repositories is known to have are taken from there. The digest of what was pushed is printed.
    """
    from lamella.spec.platform import Platform

    wanted = None if platform is None else Platform.parse(platform)
    access = remote.access(replace(reach, foreign_layers=foreign_layers))
    where = None if target is None else remote.bare(target)
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        sent = store.push(name, where, platform=wanted, access=access, progress=progress)
    if as_json:
        write_json(
            {"name": where or name, "digest": str(sent.digest), "media_type": sent.media_type, "size": sent.size}
        )
    else:
        write_text(str(sent.digest))
