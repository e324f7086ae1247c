"""Mounts as values: what is to be mounted, what was mounted, and what a driver is."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self

from lamella.errors import InvalidInput


class Form(enum.Enum):
    """How a directory tree records that something of the trees below it is gone."""

    PLAIN = "plain"
    """Not at all: the tree is whole by itself."""
    OVERLAY = "overlay"
    """0/0 character devices; ``trusted.overlay.opaque`` = ``y`` on directories that hide what is below."""
    OVERLAY_USER = "overlay-user"
    """0/0 character devices; ``user.overlay.opaque`` = ``y``."""
    AUFS = "aufs"
    """Files ``.wh.<name>``; ``.wh..wh..opq`` in directories that hide what is below; more ``.wh..wh.*`` bookkeeping."""


@dataclass(frozen=True, slots=True)
class ErofsImage:
    """An image that is mounted in place: the file with its metadata, and those that hold the content, in their order.

    ``at`` is an empty directory that belongs to this image alone: there it is mounted while something stands on it.
    """

    metadata: Path
    devices: tuple[Path, ...]
    at: Path


@dataclass(frozen=True, slots=True)
class Mount:
    """What to mount: the trees of ``lowers``, topmost first, and over them ``upper``, which takes all changes.

    Without an ``upper`` the mount is read-only. ``work`` is an empty directory on the file system of ``upper``, for
    the drivers that need one (all but aufs and copy). ``image`` lies below all of them, for a driver that is
    ``in_place``.
    """

    driver: str
    lowers: tuple[Path, ...]
    upper: Path | None = None
    work: Path | None = None
    image: ErofsImage | None = None


@dataclass(frozen=True, slots=True)
class Mounted:
    """A live mount, in a form that another process can take up (``to_json``).

    ``target`` is the directory that was mounted over, ``root`` the path under which the tree is reached: often the
    same, but below /proc/<holder>/root when the process ``holder`` keeps the mount in a namespace of its own. The
    rest tells a mount from one of an earlier boot, another namespace, or another process of the same number.
    """

    driver: str
    target: Path
    root: Path
    holder: int = 0
    boot_id: str = ""
    mount_ns: int = 0
    holder_start: int = 0

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({**asdict(self), "target": str(self.target), "root": str(self.root)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` wrote; InvalidInput for anything else."""
        try:
            fields = json.loads(text)
            return cls(
                driver=str(fields["driver"]),
                target=Path(fields["target"]),
                root=Path(fields["root"]),
                holder=int(fields["holder"]),
                boot_id=str(fields["boot_id"]),
                mount_ns=int(fields["mount_ns"]),
                holder_start=int(fields["holder_start"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"not the record of a mount: {error}", code="mount-record") from error


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a driver works at a place, and why not.

    ``exhausted``: only a full disk, or the like, kept it from being tried.
    """

    ok: bool
    reason: str = ""
    exhausted: bool = False


class Driver(Protocol):
    """One way to mount. Stateless: what ``mount`` returned is all that ``unmount`` needs, in any process."""

    @property
    def name(self) -> str:
        """What users and ``Mount.driver`` call it."""
        ...

    @property
    def form(self) -> Form:
        """The form of the lowers it takes and of the upper it writes, for this user."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether it mounts images (``Mount.image``) and needs no trees of their layers."""
        ...

    def probe(self, at: Path) -> Probe:
        """Try it, for real, with tiny trees in a temporary directory under the existing directory ``at``.

        The answer is remembered for the life of the process, unless it is ``exhausted``. Nothing is left behind.
        """
        ...

    def mount(self, mount: Mount, target: Path) -> Mounted:
        """Mount over the existing directory ``target``. All or nothing.

        Raises FailedPrecondition (``snapshot-mounted``) when the upper is mounted already, by whomever;
        InvalidInput for directories that are not there or do not fit together; Unsupported, AccessDenied,
        ResourceExhausted with the kernel's own words otherwise.
        """
        ...

    def unmount(self, mounted: Mounted) -> None:
        """Take the mount away; fine when it is gone already. Conflict (``mount-busy``) when somebody uses it."""
        ...

    def is_mounted(self, mounted: Mounted) -> bool:
        """Whether exactly this mount is still there."""
        ...
