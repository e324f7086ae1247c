"""What is mounted, as /proc/<pid>/mountinfo says it (proc_pid_mountinfo(5)), for this and for other namespaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def unescape(field: bytes) -> bytes:
    r"""Undo the kernel's octal escapes (``\040`` for a space)."""
    if b"\\" not in field:
        return field
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo. Paths are as the process sees them whose mountinfo it is.

    ``root`` is the directory of the file system that is mounted, ``device`` its st_dev, ``options`` are those of the
    mount, ``super_options`` those of the file system; option texts are bytes, unescaped.
    """

    id: int
    parent: int
    device: int
    root: Path
    target: Path
    options: tuple[bytes, ...]
    fs_type: str
    source: str
    super_options: tuple[bytes, ...]

    def super_option(self, name: bytes) -> bytes | None:
        """The value of the file system option ``name=value``; None when it is not set."""
        prefix = name + b"="
        for option in self.super_options:
            if option.startswith(prefix):
                return option[len(prefix) :]
        return None


def parse_line(line: bytes) -> MountPoint:
    """Parse one line; ValueError when it is none."""
    head, separator, tail = line.rstrip(b"\n").partition(b" - ")
    fields = head.split(b" ")
    rest = tail.split(b" ")
    if not separator or len(fields) < 6 or len(rest) < 3:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    major, minor = fields[2].split(b":")
    return MountPoint(
        id=int(fields[0]),
        parent=int(fields[1]),
        device=os.makedev(int(major), int(minor)),
        root=_path(fields[3]),
        target=_path(fields[4]),
        options=_options(fields[5]),
        fs_type=os.fsdecode(unescape(rest[0])),
        source=os.fsdecode(unescape(rest[1])),
        super_options=_options(rest[2]),
    )


def _path(field: bytes) -> Path:
    return Path(os.fsdecode(unescape(field)))


def _options(field: bytes) -> tuple[bytes, ...]:
    return tuple(unescape(option) for option in field.split(b","))


def raw_lines(pid: int | None = None) -> list[bytes]:
    """The lines for a process, None for this one. OSError when it is gone or may not be looked at."""
    with open("/proc/self/mountinfo" if pid is None else f"/proc/{pid}/mountinfo", "rb") as file:
        return file.read().splitlines()


def mount_points(pid: int | None = None) -> list[MountPoint]:
    """Everything mounted in the namespace of a process, None for this one. OSError as for ``raw_lines``."""
    return [parse_line(line) for line in raw_lines(pid)]


def mount_at(target: Path, pid: int | None = None) -> MountPoint | None:
    """What is mounted last at exactly ``target`` (resolved, as the process sees it); None when nothing is."""
    wanted = os.fsencode(target)
    found = None
    for line in raw_lines(pid):
        if unescape(line.split(b" ", 5)[4]) == wanted:
            found = line
    return None if found is None else parse_line(found)


def namespaces() -> Iterator[int]:
    """One process of every mount namespace that can be seen, this process first.

    Namespaces that no process is in, or whose processes are hidden (hidepid), are missing. Processes whose namespace
    may not be told apart come one by one.
    """
    own = os.getpid()
    seen = {os.readlink("/proc/self/ns/mnt")}
    yield own
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        except PermissionError:
            yield pid
            continue
        except OSError:  # gone, or a zombie
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield pid
