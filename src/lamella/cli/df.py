"""``lamella df``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from lamella.cli import arguments
from lamella.cli.output import clean, human_size, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session

_WORDS = {
    "blob": "Blobs",
    "tar": "Unpacked layers",
    "index": "Layer indexes",
    "rootfs": "Mountable images",
    "tree": "Extracted trees",
    "snapshot": "Snapshots",
    "ingest": "Unfinished",
    "catalog": "Catalog",
}


@click.command("df")
@click.option("-v", "--verbose", is_flag=True, help="Show each image too.")
@arguments.json_option
@pass_session
def command(here: Session, verbose: bool, as_json: bool) -> None:
    """Show what takes the disk.

    Sizes are bytes on disk; a file with several names, and blocks that files share, are counted once. RECLAIMABLE is
    what 'lamella gc' would remove. PRUNABLE is needed, but can be made again: about what 'lamella prune --compressed'
    (blobs) and 'lamella prune --trees' (the others) would drop. An image's UNIQUE bytes are those of files that no
    other image has, SHARED ones those that others have too.
    """
    with here.store() as store:
        rows = store.usage()
        images = store.image_usage() if verbose else []
        dropped = [record for record in store.catalog.dropped_blobs() if store.content.stored(record.blob) is None]
    absent = {"count": len(dropped), "size": sum(record.size for record in dropped)}
    if as_json:
        document: dict[str, Any] = {
            "usage": [asdict(row) for row in rows],
            "size": sum(row.size for row in rows),
            "dropped": absent,
        }
        if verbose:
            document["images"] = [{**asdict(row), "id": f"sha256:{row.id}"} for row in images]
        write_json(document)
        return
    write_table(
        ("TYPE", "COUNT", "SIZE", "RECLAIMABLE", "PRUNABLE"),
        [
            (
                _WORDS.get(row.kind, row.kind),
                str(row.count),
                *map(human_size, (row.size, row.reclaimable, row.prunable)),
            )
            for row in rows
        ],
    )
    write_text(f"Total: {human_size(sum(row.size for row in rows))}")
    if dropped:
        write_text(f"Dropped and made again when needed: {absent['count']} blobs of {human_size(absent['size'])}")
    if verbose:
        write_text("")
        write_table(
            ("IMAGE", "IMAGE ID", "SIZE", "UNIQUE", "SHARED"),
            [(clean(row.name), row.id[:12], *map(human_size, (row.size, row.unique, row.shared))) for row in images],
        )
