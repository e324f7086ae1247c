"""``lamella import-graph``."""

from __future__ import annotations

from pathlib import Path

import click

from lamella.cli import arguments
from lamella.cli.load import show_loaded
from lamella.cli.session import Session, pass_session


@click.command("import-graph")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("names", metavar="[IMAGE]...", nargs=-1)
@click.option("--skip-damaged", is_flag=True, help="Leave out damaged images and what stands on them.")
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(
    here: Session, directory: Path, names: tuple[str, ...], skip_damaged: bool, as_json: bool, quiet: bool
) -> None:
    """Bring Docker's image directory of 2013 into the store.

    DIR is a graph of docker 0.4 to 1.0, or the directory that has one by the name of graph, such as /var/lib/docker.
    Every image, parent and tag is brought, or the IMAGEs with their ancestors; all of it, or nothing. The ids, records
    and checksums that they had stay with them.
    """
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        loaded = store.import_graph(directory, names, skip_damaged=skip_damaged, progress=progress)
    show_loaded(loaded, as_json=as_json)
