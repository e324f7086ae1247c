"""``lamella df``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments
from lamella.cli.output import clean, human_size, path_fields, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session
from lamella.errors import printable

if TYPE_CHECKING:
    from lamella.upkeep.duplicates import Duplicates

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
@click.option("--duplicates", is_flag=True, help="Show how much is in equal files; hashes those that never were.")
@arguments.json_option
@pass_session
def command(here: Session, verbose: bool, duplicates: bool, as_json: bool) -> None:
    """Show what takes the disk.

    Sizes are bytes on disk; a file with several names, and blocks that files share, are counted once. RECLAIMABLE is
    what 'lamella gc' would remove. PRUNABLE is needed, but can be made again: about what 'lamella prune --compressed'
    (blobs) and 'lamella prune --trees' (the others) would drop. An image's UNIQUE bytes are those of files that no
    other image has, SHARED ones those that others have too.
    """
    with here.store() as store, here.reporting() as progress:
        equal = store.duplicates(progress=progress) if duplicates else None
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
        if equal is not None:
            document["duplicates"] = _document(equal)
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
    if equal is not None:
        write_text("")
        _print_equal(equal)


def _document(equal: Duplicates) -> dict[str, Any]:
    return {
        "files": equal.files,
        "size": equal.size,
        "equal_files": equal.equal_files,
        "equal_size": equal.equal_size,
        "largest": [
            {
                "digest": str(item.digest),
                "size": item.size,
                "copies": item.copies,
                **path_fields(item.path),
                "diff_id": str(item.layer),
            }
            for item in equal.largest
        ],
    }


def _print_equal(equal: Duplicates) -> None:
    write_text(
        f"Equal files: {equal.equal_files} of {equal.files} files are copies of others, "
        f"{human_size(equal.equal_size)} of {human_size(equal.size)}"
    )
    if equal.largest:
        rows = [
            (str(item.copies), human_size(item.size), human_size(item.excess), "/" + printable(item.path))
            for item in equal.largest
        ]
        write_table(("COPIES", "SIZE", "EXCESS", "ONE OF THEM"), rows)
