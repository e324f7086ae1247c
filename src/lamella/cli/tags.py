"""``lamella tags``."""

from __future__ import annotations

import click

from lamella.cli import arguments, remote
from lamella.cli.output import clean, write_json, write_text
from lamella.cli.remote import Reach
from lamella.cli.session import Session, pass_session


@click.command("tags")
@click.argument("name", metavar="REPOSITORY")
@remote.options
@arguments.json_option
@pass_session
def command(
    here: Session,
    name: str,
    reach: Reach,
    as_json: bool,
) -> None:
    """List the tags of a repository at its registry."""
    from lamella.registry.source import repository_for

    access = remote.access(reach)
    reference = access.registries.candidates(remote.bare(name))[0]
    repository = repository_for(reference, access)
    try:
        tags = list(repository.tags())
    finally:
        repository.registry.close()
    if as_json:
        write_json({"repository": reference.repository, "tags": tags})
        return
    for tag in tags:
        write_text(clean(tag))
