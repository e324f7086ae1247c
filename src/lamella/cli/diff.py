"""``lamella diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments, lookup
from lamella.cli.output import paint, path_fields, write_bytes, write_json, write_text
from lamella.cli.session import Session, pass_session
from lamella.errors import NotFound, printable

if TYPE_CHECKING:
    from lamella.layers.compare import Change
    from lamella.spec.progress import Progress
    from lamella.store.store import Store

_COLOURS = {"A": "32", "C": "33", "D": "31"}
_WORDS = {"A": "added", "C": "modified", "D": "deleted"}


@click.command("diff")
@click.argument("old", metavar="SNAPSHOT|IMAGE", shell_complete=arguments.complete_any)
@click.argument("new", metavar="[SNAPSHOT|IMAGE|DIR]", required=False, shell_complete=arguments.complete_any_or_path)
@click.option("-0", "--null", is_flag=True, help="Print paths as they are, and lines that end in NUL.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there are changes.")
@arguments.json_option
@arguments.platform_option
@pass_session
def command(
    here: Session, old: str, new: str | None, null: bool, exit_code: bool, as_json: bool, platform: str | None
) -> None:
    """Show what changed: in a snapshot, between images, in a directory.

    Of one snapshot, what was changed over its image; of one image, over its parent (all of it, if it has none). Of two,
    what leads from the first to the second. A directory is written with a slash in it: ./rootfs.

    A line each: A for added, C for changed, D for deleted, and the path.
    """
    with here.store() as store, here.reporting() as progress:
        changes = _changes(store, old, new, platform, progress)
    if as_json:
        write_json([_document(change) for change in changes])
    elif null:
        for change in changes:
            write_bytes(f"{change.kind.letter} /".encode() + change.path + b"\0")
    else:
        for change in changes:
            letter = change.kind.letter
            write_text(f"{paint(letter, _COLOURS[letter])} /{printable(change.path)}")
    if changes and exit_code:
        arguments.no_more()


def _changes(store: Store, old: str, new: str | None, platform: str | None, progress: Progress) -> list[Change]:
    from lamella.images.image import Image
    from lamella.layers.compare import compare

    before = lookup.image_or_snapshot(store, old, platform)
    if new is None:
        return before.changes() if isinstance(before, Image) else before.changes(progress=progress)
    if "/" in new and (new.startswith(("/", "./", "../")) or Path(new).is_dir()):
        return store.changes(before, Path(new), progress=progress) if isinstance(before, Image) else _refuse(old)
    try:
        after = lookup.image_or_snapshot(store, new, platform)
    except NotFound as error:
        if Path(new).is_dir():
            error.hint = f"for the directory write ./{new}"
        raise
    return compare(before.files.tree, after.files.tree)


def _refuse(name: str) -> list[Change]:
    raise click.UsageError(f"'{name}' is a snapshot: a directory is compared with an image")


def _document(change: Change) -> dict[str, Any]:
    return {"kind": _WORDS[change.kind.letter], **path_fields(change.path), "size": change.size}
