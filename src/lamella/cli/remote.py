"""How the command line reaches registries: the options for that, and what they come to."""

from __future__ import annotations

import functools
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


_FILES = click.option(
    "--authfile", metavar="FILE", type=click.Path(path_type=Path), help="The only file of credentials to use."
)
_CERT_DIR = click.option(
    "--cert-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where HOST[:PORT]/{ca.crt,client.cert,client.key} are, besides certs.d of podman and docker.",
)
_ALLOW_REALM = click.option(
    "--allow-realm",
    metavar="HOST",
    multiple=True,
    help="A token server that may get credentials though it is in another domain. May be repeated.",
)
_TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Give up after so long; what is there is gone on with the next time.  [default: none]",
)


def files_option(command: F) -> F:
    """``--authfile``."""
    return _FILES(command)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that reaches one registry: it gets them as ``reach``."""
    fields = {name: name for name in ("creds", "tls_verify", *_SHARED, "timeout")}
    return _with_options(
        _gathering(command, reach=fields),
        _creds_option("--creds", ""),
        _verify_option("--tls-verify", ""),
        _FILES,
        _CERT_DIR,
        _ALLOW_REALM,
        _TIMEOUT,
    )


def login_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that tries credentials at one registry: it gets them as ``reach``."""
    fields = {name: name for name in ("tls_verify", *_SHARED)}
    return _with_options(
        _gathering(command, reach=fields), _verify_option("--tls-verify", ""), _CERT_DIR, _ALLOW_REALM, _FILES
    )


def two_ended_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that may reach two: it gets those of the source as ``reach``, and ``target_reach``."""
    shared = {name: name for name in (*_SHARED, "timeout")}
    command = _gathering(
        command,
        reach={**shared, "creds": "src_creds", "tls_verify": "src_tls_verify"},
        target_reach={**shared, "creds": "dest_creds", "tls_verify": "dest_tls_verify"},
    )
    return _with_options(
        command,
        _creds_option("--src-creds", " for the source"),
        _verify_option("--src-tls-verify", " for the source"),
        _creds_option("--dest-creds", " for the target"),
        _verify_option("--dest-tls-verify", " for the target"),
        _FILES,
        _CERT_DIR,
        _ALLOW_REALM,
        _TIMEOUT,
    )


_SHARED = ("authfile", "cert_dir", "allow_realm")
"""The fields of Reach that are the same for all registries of a command."""


def _with_options(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def _gathering(command: Callable[..., None], **reaches: dict[str, str]) -> Callable[..., None]:
    """``command``, called with values of Reach in place of the options that they are made of.

    For each of its parameters that is a Reach: the option that each field is taken from.
    """

    @functools.wraps(command)
    def gathered(*args: Any, **given: Any) -> None:
        made = {name: Reach(**{field: given[at] for field, at in fields.items()}) for name, fields in reaches.items()}
        rest = {name: value for name, value in given.items() if not any(name in f.values() for f in reaches.values())}
        command(*args, **made, **rest)

    return gathered


def download_options(command: F) -> F:
    """The options of a verb that fetches layers."""
    return _with_options(
        command,
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
