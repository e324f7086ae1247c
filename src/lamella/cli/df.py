"""``lamella df``."""

from __future__ import annotations

import click

from lamella.cli import arguments
from lamella.cli.output import clean, human_size, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session

_WORDS = {
    "blob": "Blobs",
    "layer": "Layers",
    "tree": "Extracted trees",
    "rootfs": "Mountable images",
    "snapshot": "Snapshots",
    "ingest": "Unfinished",
}


@click.command("df")
@click.option("-v", "--verbose", is_flag=True, help="Show each image too.")
@arguments.json_option
@pass_session
def command(here: Session, verbose: bool, as_json: bool) -> None:
    """Show what takes the disk.

    RECLAIMABLE is what 'lamella gc' would remove. An image's UNIQUE bytes are those of layers that no other image has.
    """
    with here.store() as store:
        rows = store.usage()
        images = store.image_usage() if verbose else []
    if as_json:
        document = {
            "usage": [
                {"kind": row.kind, "count": row.count, "size": row.size, "reclaimable": row.reclaimable} for row in rows
            ]
        }
        if verbose:
            document["images"] = [
                {"name": row.name, "id": f"sha256:{row.id}", "size": row.size, "unique": row.unique} for row in images
            ]
        write_json(document)
        return
    write_table(
        ("TYPE", "COUNT", "SIZE", "RECLAIMABLE"),
        [
            (_WORDS.get(row.kind, row.kind), str(row.count), human_size(row.size), human_size(row.reclaimable))
            for row in rows
        ],
    )
    if verbose:
        write_text("")
        write_table(
            ("IMAGE", "IMAGE ID", "SIZE", "UNIQUE"),
            [(clean(row.name), row.id[:12], human_size(row.size), human_size(row.unique)) for row in images],
        )
