"""``lamella load``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments
from lamella.cli.output import clean, write_json, write_text
from lamella.cli.session import Session, pass_session

if TYPE_CHECKING:
    from lamella.transfer.load import Loaded


@click.command("load")
@click.argument("source", metavar="[FILE|DIR|-]", required=False, type=click.Path())
@click.option("-i", "--input", "from_", metavar="FILE|DIR|-", type=click.Path(), help="What to load, as the argument.")
@click.option("--name", metavar="NAME", help="The name for the one image there is.")
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Load only this image of a multi-platform one.  [default: all of it]",
)
@click.option("--file-digests", is_flag=True, help="Hash every file too, for 'find' and 'df --duplicates'.")
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    source: str | None,
    from_: str | None,
    name: str | None,
    platform: str | None,
    file_digests: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Load images from an OCI layout or a docker archive.

    A layout may be a directory or a tar. Without an argument, or with -, standard input is read. All that is in it is
    loaded, and verified; nothing shows up if anything is wrong with it.
    """
    from lamella.spec.platform import Platform

    wanted = None if platform is None else Platform.parse(platform)
    path = _source(source, from_)
    with here.store(file_digests=file_digests) as store, here.reporting(quiet=quiet) as progress:
        loaded = store.load(path, name=name, platform=wanted, progress=progress)
    show_loaded(loaded, as_json=as_json)


def show_loaded(loaded: Sequence[Loaded], *, as_json: bool) -> None:
    """Print what was loaded."""
    if as_json:
        write_json([_document(item) for item in loaded])
        return
    for item in loaded:
        for text in item.names:
            write_text(f"Loaded image: {clean(text)}")
        if not item.names:
            write_text(f"Loaded {item.kind} ID: {item.id or item.descriptor.digest}")


def _source(argument: str | None, option: str | None) -> str | None:
    """What to load; None is standard input."""
    if argument is not None and option is not None:
        raise click.UsageError("what to load is given twice")
    source = argument if argument is not None else option
    if source is None or source == "-":
        arguments.binary_input().close()  # complains about a terminal; the library reads it
        return None
    return source


def _document(item: Loaded) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "id": None if item.id is None else str(item.id),
        "digest": str(item.descriptor.digest),
        "names": list(item.names),
    }
