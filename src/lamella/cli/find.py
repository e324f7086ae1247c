"""``lamella find``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments, lookup
from lamella.cli.output import clean, path_fields, write_json, write_table
from lamella.cli.session import Session, pass_session
from lamella.errors import printable

if TYPE_CHECKING:
    from lamella.images.image import Image
    from lamella.images.search import Found
    from lamella.store.store import Store

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")


@click.command("find")
@click.argument("what", metavar="PATTERN|DIGEST", type=arguments.InnerPath())
@click.argument("names", metavar="[IMAGE]...", nargs=-1, shell_complete=arguments.complete_image)
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(here: Session, what: bytes, names: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Find files over every image, by name, path or content.

    PATTERN is compared with names, or if it has a slash with whole paths; * and ? stand for anything in it. DIGEST is
    the sha256 of a file's content, as sha256:HEX. Layers whose files were never hashed ('lamella load --file-digests'
    does so while loading) are read once for that. The exit code is 1 if nothing is found.
    """
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        images = [lookup.image(store, name) for name in names] if names else store.images()
        if _DIGEST.fullmatch(what):
            from lamella.spec.digest import Digest

            digest = Digest.parse(what.decode())
            found = store.find_content(digest, images=images, progress=progress)
        else:
            found = store.find_path(what, images=images)
        count = _print(store, found, as_json=as_json)
    if not count:
        arguments.no_more()


def _print(store: Store, found: Iterator[Found], *, as_json: bool) -> int:
    names = store.graph.names_by_target()
    items = list(found)
    if as_json:
        write_json([_document(item, names.get(item.image.digest, [])) for item in items])
    elif items:
        rows = []
        for item in items:
            name = next(iter(names.get(item.image.digest, [])), item.image.short_id)
            rows.append((clean(name), "/" + printable(item.file.path)))
        write_table(("IMAGE", "PATH"), rows)
    return len(items)


def _document(item: Found, names: list[str]) -> dict[str, Any]:
    image: Image = item.image
    return {
        "image": {"id": str(image.id), "digest": str(image.digest), "names": names},
        **path_fields(item.file.path),
        "type": item.file.kind.name.lower(),
        "size": item.file.size,
        "layer": item.file.layer,
        "digest": None if item.file.digest is None else str(item.file.digest),
    }
