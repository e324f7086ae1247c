"""Platforms: OCI image-spec 1.1 ``image-index.md``, and how one is chosen (the rules of containerd's ``platforms``)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from lamella.errors import InvalidInput
from lamella.spec.jsondoc import Object, optional, strings

_SPELLINGS = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
}
"""Other spellings of an architecture, each with the variant that it implies: None is the one that is given."""

_SYSTEM_NAMES = {"macos": "darwin", "": "linux"}
"""Other names of an operating system; images that state none are from a time when there was but one."""

_USUAL = {"arm64": "v8", "amd64": "v1"}
"""The variant that the bare name means, and that is therefore not written."""

_SYSTEM = re.compile(
    "aix|android|darwin|dragonfly|freebsd|illumos|ios|js|linux|netbsd|openbsd|plan9|solaris|wasip1|windows|zos"
)
_ARCHITECTURE = re.compile(
    "386|amd64|arm|arm64|loong64|mips|mipsle|mips64|mips64le|ppc64|ppc64le|riscv|riscv64|s390x|sparc64|wasm"
)
_WORD = re.compile(r"[a-z0-9_.-]+")
_VARIANT = re.compile(r"v?(\d{1,2})(?:\.(\d{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor architecture, in Go's words (``linux``, ``amd64``)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``os/architecture[/variant]``, ``architecture`` (of Linux) or ``os`` (on this machine's architecture).

        Other spellings of an architecture are normalised. Raises InvalidInput.
        """
        parts = text.lower().split("/")
        if len(parts) == 1 and text and _SYSTEM.fullmatch(cls(parts[0], "").normalized().os):
            here = cls.host()
            return cls(parts[0], here.architecture, here.variant).normalized()
        if len(parts) == 1 and _ARCHITECTURE.fullmatch(cls("linux", parts[0]).normalized().architecture):
            parts.insert(0, "linux")
        if not 2 <= len(parts) <= 3 or not all(map(_WORD.fullmatch, parts)):
            raise InvalidInput(
                f"'{text[:80]}' is not a platform", code="platform-syntax", hint="write os/arch or os/arch/variant"
            )
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "").normalized()

    @classmethod
    def from_object(cls, obj: Object, what: str = "platform") -> Self:
        """Read the ``platform`` of a descriptor, or the same fields of an image config."""
        return cls(
            optional(obj, "os", str, what) or "",
            optional(obj, "architecture", str, what) or "",
            optional(obj, "variant", str, what) or "",
            optional(obj, "os.version", str, what) or "",
            tuple(strings(obj, "os.features", what)),
        )

    @classmethod
    def host(cls) -> Self:
        """The platform of this machine."""
        machine = os.uname()
        return cls(machine.sysname, machine.machine).normalized()

    def normalized(self) -> Self:
        """The same platform in canonical words: ``linux/arm64/v8`` is ``linux/arm64``, ``linux/arm`` is v7."""
        architecture, variant = self.architecture.lower(), self.variant.lower()
        if architecture in _SPELLINGS:
            architecture, implied = _SPELLINGS[architecture]
            variant = variant if implied is None else implied
        if architecture in ("arm", "arm64", "amd64") and variant[:1].isdigit():
            variant = "v" + variant
        if architecture == "arm":
            variant = variant or "v7"
        elif architecture == "386" or variant == _USUAL.get(architecture):
            variant = ""
        system = _SYSTEM_NAMES.get(self.os.lower(), self.os.lower())
        return type(self)(system, architecture, variant, self.os_version, self.os_features)

    def distance(self, offered: Platform) -> int | None:
        """How far ``offered`` is from what is wanted: 0 exact, more for what also runs there, None if it does not run.

        Older variants of ARM and of amd64 run, 386 on amd64, and 32-bit ARM on arm64. A newer variant never does. The
        version and the features of the operating system are not compared.
        """
        want, have = self.normalized(), offered.normalized()
        if want.os != have.os:
            return None
        for steps, (architecture, variant) in enumerate(_runs(want.architecture, want.variant)):
            if (have.architecture, have.variant) == (architecture, variant):
                return steps
        return None

    def choose(self, offered: Iterable[Platform]) -> int | None:
        """The position of the best match among ``offered``, the first of equals; None if nothing matches."""
        ranked = [(d, i) for i, p in enumerate(offered) if (d := self.distance(p)) is not None]
        return min(ranked)[1] if ranked else None

    def to_object(self) -> dict[str, Any]:
        """The JSON form, absent fields left out."""
        obj: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            obj["os.version"] = self.os_version
        if self.os_features:
            obj["os.features"] = list(self.os_features)
        if self.variant:
            obj["variant"] = self.variant
        return obj

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _runs(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    """What runs on a processor, the best first, in canonical words."""
    yield architecture, variant
    found = _VARIANT.fullmatch(variant or _USUAL.get(architecture, ""))
    major, minor = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    if architecture == "amd64":
        for older in range(major - 1, 0, -1):
            yield "amd64", "" if older == 1 else f"v{older}"
        yield "386", ""
    elif architecture == "arm":
        for older in range(major - 1, 4, -1):
            yield "arm", f"v{older}"
    elif architecture == "arm64" and major >= 8:
        yield from _older_arm64(major, minor)
        for older in range(8, 4, -1):
            yield "arm", f"v{older}"


def _older_arm64(major: int, minor: int) -> Iterator[tuple[str, str]]:
    """``v9.N`` has all that ``v8.N+5`` has."""
    if major == 9:
        for older in range(minor - 1, -1, -1):
            yield "arm64", f"v9.{older}" if older else "v9"
        minor += 6
    for older in range(minor - 1, -1, -1):
        yield "arm64", f"v8.{older}" if older else ""
