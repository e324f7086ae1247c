"""``lamella prune``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import clean, human_size, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session


@click.command("prune")
@click.option("--compressed", is_flag=True, help="Drop blobs of layers that can be had again.")
@click.option("--trees", is_flag=True, help="Drop directories, mountable metadata and tars that can be made again.")
@click.option("--restore", is_flag=True, help="Make files again of the blobs that were dropped.")
@click.option("-n", "--dry-run", is_flag=True, help="Drop nothing, only find out and show what would be.")
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(
    here: Session, compressed: bool, trees: bool, restore: bool, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Give back space for what can be had again when it is needed.

    --compressed drops the compressed blobs of layers: those that the unpacked layer gives byte for byte when it is
    compressed again, which is tried before they go, and those that a registry which they were pulled from or pushed to
    still has, which is asked. --trees drops directories that layers were extracted to, the metadata that images are
    mounted by, and unpacked layers whose compressed blob is there; what is mounted keeps them. No image is lost or
    changed: what was dropped is had again by whatever needs it, which takes time.

    Images that lack a blob are not listed in index.json, which other tools read; --restore brings them back.
    """
    if not (compressed or trees or restore):
        raise click.UsageError("say what to drop: --compressed, --trees or both")
    if restore and (compressed or trees or dry_run):
        raise click.UsageError("--restore goes with none of the others")
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        if restore:
            report = store.restore_blobs(progress=progress)
        else:
            report = store.prune(compressed=compressed, trees=trees, dry_run=dry_run, progress=progress)
    if as_json:
        items = [{"kind": item.kind, "name": item.name, "size": item.size} for item in report.items]
        write_json({"dry_run": dry_run, "items": items, "size": report.size})
        return
    if report.items:
        write_table(
            ("KIND", "SIZE", "NAME"), [(item.kind, human_size(item.size), clean(item.name)) for item in report.items]
        )
    done = "restored" if restore else "reclaimable" if dry_run else "reclaimed"
    write_text(f"Total {done} space: {human_size(report.size)}")
