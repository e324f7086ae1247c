"""``registries.conf`` version 2: where the images of a prefix are, mirrors of it, short names.

Format: containers-registries.conf(5) and containers-registries.conf.d(5).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lamella._sys.files import os_errors
from lamella.errors import AccessDenied, InvalidInput, LamellaError, NotFound
from lamella.spec import jsondoc
from lamella.spec.reference import DEFAULT_DOMAIN, Reference

SYSTEM = Path("/etc/containers/registries.conf")
PullFrom = Literal["all", "digest-only", "tag-only"]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a repository is served: host, path there, and whether TLS need not be verified."""

    domain: str
    path: str
    insecure: bool = False
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of a registry: ``location`` takes the place of the prefix."""

    location: str
    insecure: bool = False
    pull_from: PullFrom = "all"


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``[[registry]]``."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """What the files say, merged. The default value says nothing: every name means itself."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    search: tuple[str, ...] = ()

    @classmethod
    def of_user(cls, home: Path, system: Path = SYSTEM) -> RegistriesConf:
        """The files that podman reads for a user: the user's own main file in place of the system's, then drop-ins."""
        own = home / ".config/containers/registries.conf"
        return cls.load(own if own.exists() else system, _drop_ins(system), _drop_ins(own))

    @classmethod
    def load(cls, main: Path, *directories: Path) -> RegistriesConf:
        """Read a file, and over it the ``*.conf`` of directories in the order of their names.

        Raises InvalidInput for a file that is malformed or of version 1, Unsupported for nothing.
        """
        merged = cls()
        paths = [main, *(path for directory in directories for path in _files(directory))]
        for path in paths:
            merged = merged._with(_read(path), path)
        return merged

    def _with(self, document: jsondoc.Object, path: Path) -> RegistriesConf:
        try:
            if "registries" in document:
                raise InvalidInput("it is of version 1", code="registries-conf", hint="version 2 has [[registry]]")
            found = [_entry(item) for item in _tables(document, "registry")]
            search = tuple(jsondoc.strings(document, "unqualified-search-registries", "it"))
            aliases = jsondoc.string_map(document, "aliases", "it")
        except LamellaError as error:
            raise error.about(subject=str(path)) from None
        return replace(
            self,
            entries={**self.entries, **{entry.prefix: entry for entry in found}},
            aliases={**self.aliases, **aliases},
            search=search or self.search,
        )

    # -- short names

    def candidates(self, text: str) -> list[Reference]:
        """What a name as a user writes it can mean, in the order to try: one, but for a short name to be searched for.

        A name without a host is an alias, or is looked for in the search registries, or is docker's.
        """
        plain = Reference.parse(text)
        name, suffix = _split_suffix(text)
        first = name.partition("/")[0]
        if "/" in name and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
            return [plain]
        alias = self.aliases.get(name)
        if alias:
            return [Reference.parse(alias + suffix)]
        return [Reference.parse(f"{registry}/{name}{suffix}") for registry in self.search] or [plain]

    # -- where things are

    def locations(self, reference: Reference) -> list[Location]:
        """Where to pull from: mirrors first. Raises AccessDenied for what is blocked."""
        entry = self._match(reference)
        own = self.location(reference)
        if entry is None:
            return [own]
        return [*_mirrors(entry, reference), own]

    def location(self, reference: Reference) -> Location:
        """The one place to push to. Raises AccessDenied for what is blocked."""
        entry = self._match(reference)
        if entry is None:
            return Location(reference.domain, reference.path)
        if entry.blocked:
            raise AccessDenied("registries.conf blocks it", code="registry-blocked", subject=reference.familiar)
        return _moved(reference, entry.prefix, entry.location, insecure=entry.insecure)

    def _match(self, reference: Reference) -> Entry | None:
        """The entry with the longest prefix."""
        name = str(reference)
        matching = [entry for entry in self.entries.values() if _has_prefix(name, reference.domain, entry.prefix)]
        return max(matching, key=lambda entry: len(entry.prefix), default=None)


def _drop_ins(main: Path) -> Path:
    return main.with_name(main.name + ".d")


def _files(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        with os_errors(str(directory)):
            yield from sorted(path for path in directory.iterdir() if path.suffix == ".conf")


def _read(path: Path) -> jsondoc.Object:
    try:
        with os_errors(str(path)):
            return tomllib.loads(path.read_bytes().decode())
    except NotFound:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"it is no TOML: {error}", code="registries-conf", subject=str(path)) from None


def _tables(document: jsondoc.Object, key: str) -> Iterable[jsondoc.Object]:
    values: list[Any] = jsondoc.field(document, key, list, "it", [])
    if not all(isinstance(value, dict) for value in values):
        raise InvalidInput(f"'{key}' is no table", code="registries-conf")
    return values


def _entry(table: jsondoc.Object) -> Entry:
    location = (jsondoc.optional(table, "location", str, "registry") or "").rstrip("/")
    prefix = (jsondoc.optional(table, "prefix", str, "registry") or location).rstrip("/")
    if not prefix or (not location and not prefix.startswith("*.")):
        raise InvalidInput("a registry has neither a location nor a prefix", code="registries-conf")
    digest_only = bool(jsondoc.optional(table, "mirror-by-digest-only", bool, "registry"))
    return Entry(
        prefix,
        location,
        bool(jsondoc.optional(table, "insecure", bool, "registry")),
        bool(jsondoc.optional(table, "blocked", bool, "registry")),
        tuple(_mirror(item, digest_only=digest_only) for item in _tables(table, "mirror")),
    )


def _mirror(table: jsondoc.Object, *, digest_only: bool) -> Mirror:
    asked = jsondoc.optional(table, "pull-from-mirror", str, "mirror") or "all"
    kinds: dict[str, PullFrom] = {"all": "all", "digest-only": "digest-only", "tag-only": "tag-only"}
    if asked not in kinds:
        raise InvalidInput(f"'{asked[:40]}' is no value of pull-from-mirror", code="registries-conf")
    return Mirror(
        jsondoc.field(table, "location", str, "mirror").rstrip("/"),
        bool(jsondoc.optional(table, "insecure", bool, "mirror")),
        "digest-only" if digest_only else kinds[asked],
    )


def _has_prefix(name: str, domain: str, prefix: str) -> bool:
    if prefix.startswith("*."):
        return domain.endswith(prefix[1:])
    return name.startswith(prefix) and (len(name) == len(prefix) or name[len(prefix)] in "/:@")


def _mirrors(entry: Entry, reference: Reference) -> Iterator[Location]:
    by_digest = reference.digest is not None
    for mirror in entry.mirrors:
        if mirror.pull_from == "all" or (mirror.pull_from == "digest-only") == by_digest:
            moved = _moved(reference, entry.prefix, mirror.location, insecure=mirror.insecure)
            yield replace(moved, mirror=True)


def _moved(reference: Reference, prefix: str, location: str, *, insecure: bool) -> Location:
    """The place of a repository whose ``prefix`` is to be read as ``location``."""
    if not location:
        return Location(reference.domain, reference.path, insecure)
    start = reference.domain if prefix.startswith("*.") else prefix
    rest = reference.repository.removeprefix(start)  # a prefix with a tag is that of one repository
    domain, _, path = f"{location}{rest if rest.startswith('/') else ''}".partition("/")
    parsed = Reference.parse(f"{domain}/{path}") if path else None
    if parsed is None or (parsed.domain != domain and domain != DEFAULT_DOMAIN):
        raise InvalidInput(f"'{location}' is no location for {reference.familiar}", code="registries-conf")
    return Location(parsed.domain, parsed.path, insecure)


def _split_suffix(text: str) -> tuple[str, str]:
    """A name without its tag and digest, and those."""
    name, at, digest = text.partition("@")
    bare, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        return bare, f":{tag}{at}{digest}"
    return name, f"{at}{digest}"
