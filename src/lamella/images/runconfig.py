"""Instructions that change how an image runs: ``commit --change`` and ``import --change``, in Dockerfile words.

The forms are those of ``docker commit --change``: CMD, ENTRYPOINT and VOLUME (JSON list or words), ENV and LABEL
(``key=value`` pairs with quotes, or ``key value``), EXPOSE, ONBUILD, USER, WORKDIR, STOPSIGNAL.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

from lamella.errors import InvalidInput

Config = dict[str, Any]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_SHELL = ["/bin/sh", "-c"]


def apply_changes(config: Config, instructions: list[str]) -> Config:
    """``config`` with the instructions applied in order; the one given stays as it is. Raises InvalidInput."""
    result = dict(config)
    for text in instructions:
        word, _, rest = text.strip().partition(" ")
        apply = _INSTRUCTIONS.get(word.upper())
        if apply is None:
            known = ", ".join(sorted(_INSTRUCTIONS))
            raise InvalidInput(f"'{word[:40]}' is not one of {known}", code="change-instruction", subject=text[:80])
        if not rest.strip():
            raise InvalidInput(f"{word.upper()} needs a value", code="change-instruction", subject=text[:80])
        apply(result, rest.strip())
    return result


def _command(config: Config, key: str, text: str) -> None:
    listed = _json_list(text)
    config[key] = [*_SHELL, text] if listed is None else listed


def _cmd(config: Config, text: str) -> None:
    _command(config, "Cmd", text)


def _entrypoint(config: Config, text: str) -> None:
    """A new entry point drops a command that was meant for the old one, as docker does."""
    _command(config, "Entrypoint", text)
    config.pop("Cmd", None)


def _env(config: Config, text: str) -> None:
    env = list(config.get("Env") or [])
    for key, value in _pairs(text):
        env = [item for item in env if item.partition("=")[0] != key]
        env.append(f"{key}={value}")
    config["Env"] = env


def _label(config: Config, text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(text))}


def _expose(config: Config, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in text.split():
        match = _PORT.fullmatch(word)
        if match is None:
            raise InvalidInput(
                f"'{word[:40]}' is not a port", code="change-port", hint="write 80, 80/udp or 8000-8010/tcp"
            )
        first = int(match[1])
        last = int(match[2] or first)
        if not 0 < first <= last < 65_536:
            raise InvalidInput(f"'{word[:40]}' is not a range of ports", code="change-port")
        ports.update({f"{port}/{match[3] or 'tcp'}": {} for port in range(first, last + 1)})
    config["ExposedPorts"] = dict(sorted(ports.items()))


def _volume(config: Config, text: str) -> None:
    listed = _json_list(text)
    paths = text.split() if listed is None else listed
    config["Volumes"] = dict(sorted({**(config.get("Volumes") or {}), **{path: {} for path in paths}}.items()))


def _user(config: Config, text: str) -> None:
    config["User"] = text


def _workdir(config: Config, text: str) -> None:
    """A relative directory is below the one that was set before."""
    base = str(config.get("WorkingDir") or "/")
    config["WorkingDir"] = text if text.startswith("/") else f"{base.rstrip('/')}/{text}"


def _stop_signal(config: Config, text: str) -> None:
    if not re.fullmatch(r"(?:SIG)?[A-Z0-9+]{2,12}|\d{1,3}", text):
        raise InvalidInput(f"'{text[:40]}' is not a signal", code="change-signal")
    config["StopSignal"] = text


def _on_build(config: Config, text: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or []), text]


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _json_list(text: str) -> list[str] | None:
    """A JSON list of strings, or None for what is not meant as one."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _pairs(text: str) -> list[tuple[str, str]]:
    """``key=value key="other value"``, or the old form ``key the rest``."""
    first = text.split()[0]
    if "=" not in first:
        key, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidInput(f"'{key[:40]}' has no value", code="change-pair", hint="write KEY=VALUE")
        return [(key, value.strip())]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"{error}", code="change-pair", subject=text[:80]) from None
    pairs = [word.partition("=") for word in words]
    if any(not sep or not key for key, sep, _ in pairs):
        raise InvalidInput("every word must be KEY=VALUE", code="change-pair", subject=text[:80])
    return [(key, value) for key, _, value in pairs]
