"""``lamella pull``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments, remote
from lamella.cli.output import write_json, write_text
from lamella.cli.remote import Reach
from lamella.cli.session import Session, pass_session

if TYPE_CHECKING:
    from lamella.registry.access import Access
    from lamella.store.store import Store
    from lamella.transfer.load import Loaded


@click.command("pull")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-a", "--all-tags", is_flag=True, help="Pull every tag of the repository.")
@click.option("--all-platforms", is_flag=True, help="Keep a multi-platform image whole.")
@arguments.platform_option
@remote.options
@remote.download_options
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    names: tuple[str, ...],
    all_tags: bool,
    all_platforms: bool,
    platform: str | None,
    reach: Reach,
    connections: int,
    foreign_layers: bool,
    policy: Path | None,
    insecure_policy: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pull images from registries.

    The id of each image is printed. A pull that was interrupted goes on where it was when it is started again; several
    that want the same layer at the same time fetch it once.
    """
    from lamella.spec.platform import Platform

    if all_platforms and platform is not None:
        raise click.UsageError("--all-platforms and --platform exclude each other")
    wanted = None if platform is None else Platform.parse(platform)
    reach = replace(reach, connections=connections, foreign_layers=foreign_layers)
    access, verify = remote.access(reach), remote.policy(policy, insecure=insecure_policy)
    pulled = []
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        for given in names:
            for name in _tags(store, given, access) if all_tags else [remote.bare(given)]:
                pulled.append(
                    store.fetch(
                        name,
                        platform=wanted,
                        all_platforms=all_platforms,
                        access=access,
                        verify=verify,
                        progress=progress,
                    )
                )
    if as_json:
        write_json([_document(item) for item in pulled])
        return
    for item in dict.fromkeys(str(found.id or found.descriptor.digest) for found in pulled):
        write_text(item)


def _tags(store: Store, name: str, access: Access) -> list[str]:
    """A name for each tag of a repository."""
    from lamella.registry.source import repository_for

    reference = access.registries.candidates(remote.bare(name))[0]
    repository = repository_for(reference, access, limits=store.limits)
    try:
        return [str(replace(reference, tag=tag, digest=None)) for tag in repository.tags()]
    finally:
        repository.registry.close()


def _document(item: Loaded) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "id": None if item.id is None else str(item.id),
        "digest": str(item.descriptor.digest),
        "names": list(item.names),
    }
