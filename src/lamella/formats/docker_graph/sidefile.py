"""The small files beside the images (``checksums``, ``repositories``): written whole, durably, and never given up on.

A docker of 2013 refused to start over one that was cut off. Here what can still be read of it is used, and the damaged
bytes are kept beside it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lamella._sys.files import drop_temporaries, os_errors, write_atomic
from lamella.errors import InvalidInput, LamellaError, NotFound
from lamella.formats.docker_graph import gojson
from lamella.formats.docker_graph.layout import read_file
from lamella.spec.limits import DEFAULT_LIMITS

# No string begins at an escaped quotation mark: trying each would go through a string without an end once for each.
_STRING = r'(?<!\\)"(?:[^"\\\x00-\x1f]|\\.)*"'
_PAIR = re.compile(rf"({_STRING})\s*:\s*({_STRING})")
_OPENING = re.compile(rf"({_STRING})\s*:\s*\{{")


class SideFile:
    """One such file. ``read`` needs no lock; ``write`` is for whoever holds the lock of the graph."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        """The bytes; empty when there is no file."""
        return self._read() or b""

    def write(self, data: bytes) -> None:
        """Put ``data`` in its place, atomically and durably (0600); what killed writers left goes."""
        drop_temporaries(self.path)
        with self.restored_on_failure():
            write_atomic(self.path, data, mode=0o600)

    @contextmanager
    def restored_on_failure(self) -> Iterator[None]:
        """Make the file what it is now if what is done inside fails. For whoever holds the lock of the graph."""
        before = self._read()
        try:
            yield
        except BaseException:
            self._restore(before)
            raise

    def _read(self) -> bytes | None:
        try:
            return read_file(self.path, DEFAULT_LIMITS.document_bytes)
        except NotFound:
            return None

    def _restore(self, before: bytes | None) -> None:
        if self._read() == before:
            return
        with os_errors(str(self.path)):
            if before is None:
                self.path.unlink(missing_ok=True)
            else:
                write_atomic(self.path, before, mode=0o600)

    def set_aside(self, data: bytes) -> Path:
        """Keep damaged bytes beside the file under a name of their own: the same bytes are kept once."""
        number = 1
        while True:
            kept = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if not os.path.lexists(kept):
                write_atomic(kept, data, mode=0o600)
                return kept
            with suppress(LamellaError):  # not a file, or a larger one: something else
                if read_file(kept, len(data)) == data:
                    return kept
            number += 1


def parse_checksums(raw: bytes) -> tuple[dict[str, str], LamellaError | None]:
    """The checksums by id, without empty ones, which no image has; and what is wrong with the file, if anything."""
    if not raw:
        return {}, None
    damage: LamellaError | None = None
    found: dict[str, str] = {}
    try:
        for id, value in gojson.parse_object(raw, "checksums"):
            try:
                found[id] = gojson.string_of(value, f"checksums.{id}")
            except InvalidInput as error:
                damage = error
    except LamellaError as error:
        damage = error
        found = _pairs(raw.decode("utf-8", "replace"))
    return {id: value for id, value in found.items() if value}, damage


def parse_repositories(raw: bytes) -> tuple[dict[str, dict[str, str]], LamellaError | None]:
    """The tags of each repository; and what is wrong with the file, if anything."""
    damage: LamellaError | None = None
    found: dict[str, dict[str, str]] = {}
    try:
        for _, value in gojson.members(gojson.parse_object(raw, "repositories"), ("Repositories",)):
            for name, tags in gojson.object_of(value, "Repositories"):
                try:
                    found[name] = _tags(tags, name)
                except InvalidInput as error:
                    damage = error
    except LamellaError as error:
        damage = error
        found = found or _repositories(raw.decode("utf-8", "replace"))
    return {name: tags for name, tags in found.items() if tags}, damage


def _tags(value: gojson.Value, name: str) -> dict[str, str]:
    obj = gojson.object_of(value, f"Repositories.{name}")
    return {tag: gojson.string_of(id, f"Repositories.{name}.{tag}") for tag, id in obj}


def _pairs(text: str) -> dict[str, str]:
    """Every ``"key": "value"`` that is whole."""
    return {_text(key): _text(value) for key, value in _PAIR.findall(text)}


def _repositories(text: str) -> dict[str, dict[str, str]]:
    """Every tag that is whole, under the repository that was opened last before it."""
    openings = list(_OPENING.finditer(text))
    ends = [opening.start() for opening in openings[1:]] + [len(text)]
    found: dict[str, dict[str, str]] = {}
    for opening, end in zip(openings, ends, strict=False):
        tags = _pairs(text[opening.end() : end])
        if tags:
            found.setdefault(_text(opening[1]), {}).update(tags)
    return found


def _text(literal: str) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal[1:-1]
