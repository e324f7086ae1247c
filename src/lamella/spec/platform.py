"""Platforms: OCI image-spec 1.1 ``image-index.md``, and how one is chosen (containerd's normalisation)."""

from __future__ import annotations

import platform as _machine
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from lamella.errors import InvalidInput
from lamella.spec.jsondoc import Object, optional, strings

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
}
_ARM_ORDER = ("v8", "v7", "v6", "v5")


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
        """Read ``os/architecture[/variant]`` or ``architecture``; other spellings of an architecture are normalised."""
        parts = text.lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise InvalidInput(
                f"'{text}' is not a platform", code="platform-syntax", hint="write os/arch or os/arch/variant"
            )
        if len(parts) == 1:
            parts.insert(0, "linux")
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
        return cls(_machine.system().lower(), _machine.machine().lower()).normalized()

    def normalized(self) -> Self:
        """The same platform in canonical words; ``arm64/v8`` and ``arm/v7`` are the meaning of the bare names."""
        architecture, variant = _ARCHITECTURES.get(self.architecture, (self.architecture, self.variant))
        variant = self.variant or variant
        if architecture == "arm64":
            variant = "" if variant in ("8", "v8") else variant
        elif architecture == "arm":
            variant = variant if variant.startswith("v") else f"v{variant}" if variant else "v7"
        return type(self)(self.os, architecture, variant, self.os_version, self.os_features)

    def distance(self, offered: Platform) -> int | None:
        """How far ``offered`` is from what is wanted: 0 exact, more for an older ARM variant, None if it cannot run."""
        want, have = self.normalized(), offered.normalized()
        if (want.os, want.architecture) != (have.os, have.architecture):
            return None
        if want.variant == have.variant:
            return 0
        if want.architecture == "arm" and {want.variant, have.variant} <= set(_ARM_ORDER):
            steps = _ARM_ORDER.index(have.variant) - _ARM_ORDER.index(want.variant)
            return steps if steps > 0 else None
        return 1 if not want.variant or not have.variant else None

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
