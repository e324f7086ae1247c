"""``lamella export-graph``."""

from __future__ import annotations

from pathlib import Path

import click

from lamella.cli import arguments
from lamella.cli.session import Session, pass_session

FORMS = ("0.4", "0.6", "aufs", "vfs")


@click.command("export-graph")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=arguments.complete_image)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--form",
    type=click.Choice(FORMS),
    help="How the graph lies on disk: as docker 0.4 and 0.5, 0.6, or 0.7 to 1.0 with aufs or vfs had it.  "
    "[default: as the one that is there, else 0.4]",
)
@click.option("-f", "--force", is_flag=True, help="Move names that other images have in the graph.")
@arguments.platform_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    names: tuple[str, ...],
    directory: Path,
    form: str | None,
    force: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Write images into an image directory that Docker of 2013 reads.

    DIR becomes what docker 0.4 to 1.0 kept in /var/lib/docker, or is one already: the images are added, with their
    ancestors and names. What came from such a docker has the ids, records and checksums again that it had there.
    """
    from lamella.formats.docker_graph import GraphForm
    from lamella.spec.platform import Platform

    wanted = None if platform is None else Platform.parse(platform)
    kind = None if form is None else GraphForm(form)
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        store.export_graph(names, directory, form=kind, force=force, platform=wanted, progress=progress)
