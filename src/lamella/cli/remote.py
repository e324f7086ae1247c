"""How the command line reaches registries: the options for that, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lamella import __version__
from lamella.cli import environment

if TYPE_CHECKING:
    from lamella.registry.access import Access
    from lamella.registry.credentials import CredentialFiles
    from lamella.registry.policy import Verify

F = TypeVar("F", bound=Callable[..., Any])

PREFIX = "docker://"


@dataclass(frozen=True, slots=True)
class Reach:
    """The options as they were given."""

    creds: str | None = None
    authfile: Path | None = None
    tls_verify: bool | None = None
    cert_dir: Path | None = None
    allow_realm: tuple[str, ...] = ()
    connections: int = 1
    foreign_layers: bool = False
    timeout: float | None = None


def _verify_option(flag: str, what: str) -> Callable[[F], F]:
    return click.option(
        flag,
        type=bool,
        is_flag=False,
        flag_value="true",
        metavar="BOOL",
        help=f"Whether TLS is needed and verified{what}.  [default: true, but for this machine's own addresses]",
    )


def _creds_option(flag: str, what: str) -> Callable[[F], F]:
    return click.option(flag, metavar="USER:PASSWORD", help=f"Credentials{what}, in place of those of files.")


def files_option(command: F) -> F:
    """``--authfile``."""
    return click.option(
        "--authfile", metavar="FILE", type=click.Path(path_type=Path), help="The only file of credentials to use."
    )(command)


def _common(command: F) -> F:
    options = (
        files_option,
        click.option(
            "--cert-dir",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Where HOST[:PORT]/{ca.crt,client.cert,client.key} are, besides certs.d of podman and docker.",
        ),
        click.option(
            "--allow-realm",
            metavar="HOST",
            multiple=True,
            help="A token server that may get credentials though it is in another domain. May be repeated.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="Give up after so long; what is there is gone on with the next time.  [default: none]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def options(command: F) -> F:
    """The options of a verb that reaches one registry."""
    command = _common(command)
    return _creds_option("--creds", "")(_verify_option("--tls-verify", "")(command))


def two_ended_options(command: F) -> F:
    """The options of a verb that may reach two."""
    command = _common(command)
    for side, what in (("dest", " for the target"), ("src", " for the source")):
        command = _creds_option(f"--{side}-creds", what)(_verify_option(f"--{side}-tls-verify", what)(command))
    return command


def download_options(command: F) -> F:
    """The options of a verb that fetches layers."""
    options = (
        click.option(
            "--connections",
            type=click.IntRange(1, 16),
            default=1,
            metavar="N",
            help="Fetch each layer of 32 MiB or more over N connections.  [default: 1]",
        ),
        click.option(
            "--foreign-layers", is_flag=True, help="Fetch layers that are elsewhere from the addresses that are named."
        ),
        click.option(
            "--policy",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="The policy.json to obey.  [default: podman's, if there is one]",
        ),
        click.option("--insecure-policy", is_flag=True, help="Obey no policy.json."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def access(reach: Reach) -> Access:
    """What the options, the environment and the user's files come to. Raises InvalidInput."""
    from dataclasses import replace

    from lamella.registry.access import Access
    from lamella.registry.credentials import Credentials
    from lamella.registry.registries_conf import RegistriesConf

    found = Access.of_user(Path.home(), environment.runtime_directory())
    conf = environment.registries_conf()
    return replace(
        found,
        credentials=None if reach.creds is None else Credentials.parse(reach.creds),
        files=credential_files(reach.authfile),
        registries=found.registries if conf is None else RegistriesConf.load(conf),
        tls_verify=reach.tls_verify,
        certificates=((reach.cert_dir,) if reach.cert_dir is not None else ()) + found.certificates,
        realms=frozenset(name.lower() for name in reach.allow_realm),
        connections=reach.connections,
        foreign_layers=reach.foreign_layers,
        deadline=reach.timeout,
        proxies=environment.proxies(),
        user_agent=f"lamella/{__version__}",
    )


def credential_files(named: Path | None) -> CredentialFiles:
    """The files of credentials: the one that is named on the command line or in the environment, or the user's."""
    from lamella.registry.credentials import CredentialFiles

    only = named or environment.auth_file()
    if only is not None:
        return CredentialFiles((only,))
    return CredentialFiles.of_user(Path.home(), environment.runtime_directory(), config=environment.docker_config())


def policy(named: Path | None, *, insecure: bool) -> Verify | None:
    """The policy to obey: the named one, or the first of podman's files that is there."""
    from lamella.registry.policy import SYSTEM, Policy

    if insecure:
        return None
    if named is not None:
        return Policy.load(named)
    own = Path.home() / ".config/containers/policy.json"
    return next((Policy.load(path) for path in (own, SYSTEM) if path.is_file()), None)


def bare(name: str) -> str:
    """A name without ``docker://``, which verbs that mean a registry anyway take too."""
    return name.removeprefix(PREFIX)
