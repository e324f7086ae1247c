"""``lamella login``."""

from __future__ import annotations

import sys

import click

from lamella.cli import remote
from lamella.cli.output import write_text
from lamella.cli.remote import Reach
from lamella.cli.session import Session, pass_session


@click.command("login")
@click.argument("registry", metavar="[REGISTRY[/REPOSITORY]]", required=False)
@click.option("-u", "--username", metavar="NAME", help="Who logs in; asked for on a terminal.")
@click.option("-p", "--password", metavar="PASSWORD", help="The password; others on this machine can see it here.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@remote.login_options
@pass_session
def command(
    here: Session,
    registry: str | None,
    username: str | None,
    password: str | None,
    password_stdin: bool,
    reach: Reach,
) -> None:
    """Log in to a registry.

    The credentials are tried, and kept only if the registry takes them: in the first of podman's and docker's files,
    with mode 0600, or with a credential helper where one is set up. Without REGISTRY it is Docker Hub.
    """
    from dataclasses import replace

    from lamella.registry.client import Registry
    from lamella.registry.credentials import Credentials
    from lamella.registry.login import split_key, store_credentials

    domain, path = split_key(registry)
    name = username if username is not None else click.prompt("Username", err=True)
    credentials = Credentials(name, _password(password, from_stdin=password_stdin))
    access = remote.access(reach)
    entry = access.registries.entries.get(domain)
    insecure = entry is not None and entry.insecure
    with Registry(domain, replace(access, credentials=credentials), insecure=insecure) as client:
        client.ping()
    assert access.files is not None
    store_credentials(access.files, domain, path, credentials)
    write_text("Login Succeeded")


def _password(given: str | None, *, from_stdin: bool) -> str:
    if given is not None and from_stdin:
        raise click.UsageError("the password is given twice")
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise click.UsageError("standard input is no terminal: use --password-stdin")
    return str(click.prompt("Password", hide_input=True, err=True))
