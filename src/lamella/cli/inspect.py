"""``lamella inspect``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments, describe, lookup, remote
from lamella.cli.output import write_json
from lamella.cli.remote import PREFIX, Reach
from lamella.cli.session import Session, pass_session
from lamella.errors import NotFound

if TYPE_CHECKING:
    from lamella.store.store import Store


@click.command("inspect")
@click.argument("names", metavar="IMAGE|SNAPSHOT...", nargs=-1, required=True, shell_complete=arguments.complete_any)
@click.option("--type", "kind", type=click.Choice(("image", "snapshot")), help="Look for this only.")
@arguments.platform_option
@remote.options
@pass_session
def command(
    here: Session,
    names: tuple[str, ...],
    kind: str | None,
    platform: str | None,
    reach: Reach,
) -> None:
    """Show everything about images and snapshots, as JSON.

    A list with a document for each name. The document of a multi-platform image is that of its image for this machine
    (or --platform), with all of them under "index"; if none of them fits, it is the index alone. docker://NAME is an
    image at a registry: nothing but its documents is fetched, and what signs it or refers to it is listed.
    """
    documents = []
    with ExitStack() as stack:
        store: Store | None = None
        for name in names:
            if name.startswith(PREFIX):
                from lamella.cli import describe_remote

                access = remote.access(reach)
                documents.append(describe_remote.describe(name.removeprefix(PREFIX), access, platform))
                continue
            store = store or stack.enter_context(here.store())
            documents.append(_describe(store, name, kind, platform))
    write_json(documents)


def _describe(store: Store, name: str, kind: str | None, platform: str | None) -> dict[str, Any]:
    if kind != "image" and store.catalog.snapshot(name) is not None:
        return describe.snapshot(store.snapshot(name))
    if kind == "snapshot":
        return describe.snapshot(store.snapshot(name))
    try:
        document = store.graph.find_document(name)
    except NotFound:
        lookup.image_or_snapshot(store, name)  # says so for both
        raise
    if document.kind == "artifact":
        return describe.artifact(store, document)
    if document.kind == "image":
        return describe.image(lookup.image(store, name, platform))
    try:
        chosen = lookup.image(store, name, platform)
    except NotFound:
        if platform is not None:
            raise
        return describe.index(store, document)
    return {**describe.image(chosen), "index": describe.index(store, document)}
