"""What the environment says. No other module of the package looks at it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from lamella.errors import InvalidInput

ROOT = "LAMELLA_ROOT"
DRIVER = "LAMELLA_DRIVER"
PROGRESS = "LAMELLA_PROGRESS"
DEBUG = "LAMELLA_DEBUG"
EPOCH = "SOURCE_DATE_EPOCH"
COMPLETE = "_LAMELLA_COMPLETE"
AUTH_FILE = "REGISTRY_AUTH_FILE"
REGISTRIES_CONF = "CONTAINERS_REGISTRIES_CONF"

VARIABLES = (
    (ROOT, "the directory of the store, as `--root`"),
    (DRIVER, "how snapshots are mounted, as `--driver`"),
    (PROGRESS, "how progress is shown, as `--progress`"),
    (
        EPOCH,
        "seconds since 1970: the time that `import` and `commit` write into an image, and the newest time of a file "
        "that `commit` and `export` write. With it the same files give the same digests",
    ),
    (DEBUG, "not empty: a failure is told with its traceback"),
    ("NO_COLOR", "not empty: no colours (https://no-color.org)"),
    (AUTH_FILE, "the file of credentials for registries, as `--authfile`; without either, podman's and docker's files"),
    (REGISTRIES_CONF, "the registries.conf to read; without it, podman's"),
    ("DOCKER_CONFIG", "the directory of docker's `config.json`"),
    ("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "proxies for registries; in lower case too"),
    ("XDG_RUNTIME_DIR", "where podman keeps credentials, in `containers/auth.json`"),
    ("XDG_DATA_HOME", "where the store is by default for a user who is not root"),
)
"""What the manual says of each variable."""


def default_root() -> Path:
    """The store when none is named: ``/var/lib/lamella`` for root, else ``$XDG_DATA_HOME/lamella``."""
    if os.geteuid() == 0:
        return Path("/var/lib/lamella")
    data = os.environ.get("XDG_DATA_HOME", "")
    # The specification says of a relative path that it is invalid and to be ignored.
    return (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "lamella"


def source_date_epoch() -> int | None:
    """``SOURCE_DATE_EPOCH`` (https://reproducible-builds.org/specs/source-date-epoch/), None if it is not set.

    Raises InvalidInput for what is no number of seconds in the range of dates.
    """
    text = os.environ.get(EPOCH, "")
    if not text:
        return None
    try:
        seconds = int(text)
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(
            f"'{text[:40]}' is no number of seconds since 1970", code="source-date-epoch", subject=EPOCH
        ) from None
    return seconds


def epoch_moment() -> datetime | None:
    """``SOURCE_DATE_EPOCH`` as a time."""
    seconds = source_date_epoch()
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def auth_file() -> Path | None:
    """The one file of credentials that is to be used, if there is one."""
    text = os.environ.get(AUTH_FILE, "")
    return Path(text) if text else None


def registries_conf() -> Path | None:
    """The registries.conf that is to be read in place of podman's."""
    text = os.environ.get(REGISTRIES_CONF, "")
    return Path(text) if text else None


def docker_config() -> Path | None:
    """docker's directory of configuration, if it is not ``~/.docker``."""
    text = os.environ.get("DOCKER_CONFIG", "")
    return Path(text) if text else None


def runtime_directory() -> Path:
    """``$XDG_RUNTIME_DIR``, or where it would be."""
    text = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(text) if text.startswith("/") else Path(f"/run/user/{os.getuid()}")


def proxies() -> dict[str, str]:
    """Proxies by scheme, and under ``no`` the hosts that are reached without one."""
    found = {}
    for key in ("http", "https", "no"):
        name = f"{key}_proxy"
        text = os.environ.get(name, "") or os.environ.get(name.upper(), "")
        if text:
            found[key] = text
    return found


def debugging() -> bool:
    """Whether failures are to be told with their tracebacks."""
    return bool(os.environ.get(DEBUG))


def wants_colour() -> bool:
    """Whether colours are not ruled out; whether a stream can show them is another question."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_plain_terminal() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "") in ("", "dumb")
