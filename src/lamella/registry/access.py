"""How registries are reached: everything that a caller may decide, in one value."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lamella.registry.credentials import CredentialFiles, Credentials
from lamella.registry.registries_conf import RegistriesConf

SYSTEM_CERTIFICATES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


@dataclass(frozen=True, slots=True)
class Retrying:
    """When a request is tried again: after broken connections, 429 and 5xx, with a pause that doubles each time.

    Pauses are seconds and always the same. What a server asks for with ``Retry-After`` is waited for, up to
    ``longest_wait``: more than that is an error at once.
    """

    attempts: int = 6
    first_pause: float = 0.5
    longest_pause: float = 15.0
    longest_wait: float = 120.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return float(min(self.first_pause * 2 ** (failures - 1), self.longest_pause))


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached. The default is what podman does for the user whom the process runs as.

    ``credentials`` are for whatever registry is asked; without them ``files`` are looked through. ``tls_verify`` False
    accepts any certificate, and plain HTTP where a registry speaks no TLS; None goes by ``registries``, and plain HTTP
    is accepted from this machine's own addresses alone. ``plain_http`` speaks that without trying TLS first.
    ``certificates`` are directories in the form of ``/etc/docker/certs.d``. ``realms`` are hosts that may get
    credentials although a registry of another name sends there. ``connections`` is how many one large blob may be
    fetched over, ``foreign_layers`` whether layers are fetched from the addresses that their descriptors name, and
    pushed. Times are seconds; ``deadline`` is how long the client of one registry may be at work, from its first
    request: a pull that it ends is gone on with by the next one. ``sleep`` None waits in a way that closing the client
    ends. ``proxies`` maps ``http`` and ``https`` to the URL of a proxy, ``no`` to a list of hosts.
    """

    credentials: Credentials | None = None
    files: CredentialFiles | None = None
    registries: RegistriesConf = field(default_factory=RegistriesConf)
    tls_verify: bool | None = None
    plain_http: bool = False
    certificates: tuple[Path, ...] = SYSTEM_CERTIFICATES
    realms: frozenset[str] = frozenset()
    connections: int = 1
    foreign_layers: bool = False
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    deadline: float | None = None
    retrying: Retrying = Retrying()
    sleep: Callable[[float], object] | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = "lamella"

    @classmethod
    def of_user(cls, home: Path | None = None, runtime: Path | None = None) -> Access:
        """What the files of a user say: by default the user whom the process runs as, whatever the environment says."""
        home = home or Path(pwd.getpwuid(os.getuid()).pw_dir)
        return cls(
            files=CredentialFiles.of_user(home, runtime or Path(f"/run/user/{os.getuid()}")),
            registries=RegistriesConf.of_user(home),
            certificates=(home / ".config/containers/certs.d", *SYSTEM_CERTIFICATES),
        )
