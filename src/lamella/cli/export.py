"""``lamella export``."""

from __future__ import annotations

import click

from lamella.cli import arguments, environment
from lamella.cli.session import Session, pass_session


@click.command("export")
@click.argument("name", metavar="IMAGE|SNAPSHOT", shell_complete=arguments.complete_any)
@arguments.output_option
@arguments.compression_options(arguments.COMPRESSIONS, "none")
@arguments.platform_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    name: str,
    output: str | None,
    compression: str | None,
    level: int | None,
    platform: str | None,
    quiet: bool,
) -> None:
    """Write the files of an image or a snapshot as a tar.

    All layers merged, nothing mounted; the same files give the same bytes. A snapshot's key wins over an image's name.
    """
    from lamella.archive.compression import Compression, CompressWriter
    from lamella.cli.lookup import image_or_snapshot
    from lamella.formats.output import Output

    path = arguments.binary_output(output)
    chosen = Compression(compression or "none")
    clamp = environment.source_date_epoch()
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        source = image_or_snapshot(store, name, platform)
        target = Output(path)
        try:
            with target.writing() as write, CompressWriter(write, chosen, level=level) as compressed:
                store.export(source, compressed.write, clamp=clamp, progress=progress)
        finally:
            target.close()
