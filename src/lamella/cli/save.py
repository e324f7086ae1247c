"""``lamella save``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from lamella.cli import arguments
from lamella.cli.session import Session, pass_session

if TYPE_CHECKING:
    from lamella.formats.detect import Kind

FORMATS = ("oci-archive", "oci-dir", "docker-archive")


@click.command("save")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=arguments.complete_image)
@click.option("-o", "--output", metavar="FILE|DIR", type=click.Path(), help="Where to write; - is standard output.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="The format.  [default: oci-dir if DIR is a directory or ends in /, else oci-archive]",
)
@click.option("--legacy", is_flag=True, help="Write what docker before 1.10 reads into a docker archive as well.")
@arguments.quiet_option
@pass_session
def command(
    here: Session, names: tuple[str, ...], output: str | None, format_: str | None, legacy: bool, quiet: bool
) -> None:
    """Save images to an OCI layout or a docker archive.

    Without -o the archive goes to standard output. What was received is written as it is. Into a directory that holds a
    layout only what it lacks is written, and the images are added to those that are there.
    """
    kind = cast("Kind", format_ or _kind_for(output, legacy=legacy))
    if kind == "oci-dir":
        if output is None or output == "-":
            raise click.UsageError("a directory needs a name: -o DIR")
        path: Path | None = Path(output)
    else:
        path = arguments.binary_output(output)
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        store.save(names, path, format=kind, legacy=legacy, progress=progress)


def _kind_for(output: str | None, *, legacy: bool) -> Kind:
    if legacy:
        return "docker-archive"
    is_directory = output is not None and (output.endswith("/") or os.path.isdir(output))
    return "oci-dir" if is_directory else "oci-archive"
