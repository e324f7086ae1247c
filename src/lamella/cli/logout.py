"""``lamella logout``."""

from __future__ import annotations

from pathlib import Path

import click

from lamella.cli import remote
from lamella.cli.output import clean, write_text
from lamella.cli.session import Session, pass_session


@click.command("logout")
@click.argument("registry", metavar="[REGISTRY[/REPOSITORY]]", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Forget the credentials of every registry.")
@remote.files_option
@pass_session
def command(here: Session, registry: str | None, everything: bool, authfile: Path | None) -> None:
    """Forget the credentials for a registry.

    Without REGISTRY it is Docker Hub.
    """
    from lamella.registry.login import forget_all, forget_credentials, split_key

    files = remote.credential_files(authfile)
    if everything:
        if registry is not None:
            raise click.UsageError("--all and a registry exclude each other")
        forget_all(files)
        write_text("Removed login credentials for all registries")
        return
    domain, path = split_key(registry)
    forget_credentials(files, domain, path)
    write_text(f"Removed login credentials for {clean(f'{domain}/{path}' if path else domain)}")
