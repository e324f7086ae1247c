"""The records that docker kept for each layer before images were content-addressed, and still puts into archives.

Format: Docker's image specification v1 (``json``, ``VERSION``), with the ids that docker computes since version 1.10:
the sha256 of the record without its id and with ``layer_id``, the ChainID, and ``parent`` added. The texts are those
of Go's ``encoding/json`` on docker's own types, or the ids would be others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamella.spec.digest import Digest
from lamella.spec.documents import ImageConfig
from lamella.spec.v1image import V1Image

VERSION = b"1.0"
"""What the VERSION file beside a record says."""

_NO_TIME = "0001-01-01T00:00:00Z"
_EPOCH = "1970-01-01T00:00:00Z"

_OPTIONAL = object()
"""Marks a field that is left out when it has no value."""

_RUN_FIELDS: tuple[tuple[str, Any], ...] = (
    ("Hostname", ""),
    ("Domainname", ""),
    ("User", ""),
    ("AttachStdin", False),
    ("AttachStdout", False),
    ("AttachStderr", False),
    ("ExposedPorts", _OPTIONAL),
    ("Tty", False),
    ("OpenStdin", False),
    ("StdinOnce", False),
    ("Env", None),
    ("Cmd", None),
    ("Healthcheck", _OPTIONAL),
    ("ArgsEscaped", _OPTIONAL),
    ("Image", ""),
    ("Volumes", None),
    ("WorkingDir", ""),
    ("Entrypoint", None),
    ("NetworkDisabled", _OPTIONAL),
    ("MacAddress", _OPTIONAL),
    ("OnBuild", None),
    ("Labels", None),
    ("StopSignal", _OPTIONAL),
    ("StopTimeout", _OPTIONAL),
    ("Shell", _OPTIONAL),
)
_HEALTH_FIELDS = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")


@dataclass(frozen=True, slots=True)
class V1Record:
    """The record of one layer: its id (64 hexadecimal digits), the text of its ``json`` file, and the layer."""

    id: str
    json: bytes
    diff_id: Digest


def v1_records(config: ImageConfig, kept: Sequence[V1Image] = ()) -> list[V1Record]:
    """The records of an image's layers, bottom first; the topmost carries the image's configuration.

    The lowest layers have the records ``kept``, byte by byte.
    """
    records: list[V1Record] = []
    top = len(config.diff_ids) - 1
    for i, (diff_id, chain_id) in enumerate(zip(config.diff_ids, config.chain_ids, strict=True)):
        if i < len(kept):
            records.append(V1Record(kept[i].id, kept[i].raw, diff_id))
            continue
        body = _top(config.fields) if i == top else {"created": _EPOCH, "container_config": _run_config({})}
        hashed = {**body, "layer_id": str(chain_id)}
        if records:
            hashed["parent"] = f"sha256:{records[-1].id}"
        identity = Digest.of(_go_json(dict(sorted(hashed.items())))).hex
        record: dict[str, Any] = {"id": identity}
        if records:
            record["parent"] = records[-1].id
        record |= body
        if config.platform.os:
            record["os"] = config.platform.os
        records.append(V1Record(identity, _go_json(record), diff_id))
    return records


def _top(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The image's configuration in the fields, and their order, of a record."""
    body: dict[str, Any] = {}
    _copy(fields, body, "comment")
    body["created"] = _go_time(fields.get("created"))
    _copy(fields, body, "container")
    body["container_config"] = _run_config(fields.get("container_config") or {})
    _copy(fields, body, "docker_version", "author")
    if fields.get("config") is not None:
        body["config"] = _run_config(fields["config"])
    _copy(fields, body, "architecture", "variant", "os", "Size")
    return body


def _copy(source: Mapping[str, Any], target: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if source.get(key):
            target[key] = source[key]


def _run_config(config: Any) -> dict[str, Any]:
    """docker's ``container.Config``: every field in its place, and nothing else."""
    result: dict[str, Any] = {}
    given = config if isinstance(config, dict) else {}
    for key, default in _RUN_FIELDS:
        value = given.get(key)
        if key == "Healthcheck" and isinstance(value, dict):
            result[key] = {name: value[name] for name in _HEALTH_FIELDS if value.get(name)}
        elif default is _OPTIONAL:
            if value or (key == "StopTimeout" and value is not None):
                result[key] = _sorted(value)
        else:
            result[key] = default if value is None else _sorted(value)
    return result


def _sorted(value: Any) -> Any:
    """Maps as Go writes them: sorted by key."""
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def _go_time(text: Any) -> str:
    """A time as Go writes it: no zeros at the end of the fraction."""
    if not isinstance(text, str) or not text:
        return _NO_TIME
    return re.sub(r"(\.\d*?)0+(?=\D|$)", lambda match: "" if match[1] == "." else match[1], text, count=1)


def _go_json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace")
