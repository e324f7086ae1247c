"""A tar in a seekable file as a table of its members: what lies where, found without reading the members' data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from lamella._sys.files import os_errors
from lamella.archive.tar import MemberType, TarScanner
from lamella.errors import InvalidInput, LamellaError, NotFound, ResourceExhausted
from lamella.formats.files import CHUNK, FileRange, locate
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits

BLOCK = 512
_CHECKSUM = slice(148, 156)

_MAX_MEMBERS = 250_000
_MAX_NAME_BYTES = 64 << 20
"""Bounds on what the table keeps in memory: an archive of images has a few members a layer."""

LinkOf = Callable[[bytes], bytes | None]
"""Says what a member links to: None for one that is no symbolic link, or is not there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One member: its type, where its bytes lie in the file, how many they are, and what it links to."""

    type: MemberType
    offset: int
    size: int
    linkname: bytes
    sparse: tuple[tuple[int, int], ...] | None = None


class TarIndex:
    """The members of a tar; owns ``fd``, a regular file that is the uncompressed tar. Files may be read by threads.

    Names are taken inside the archive only, as after a chroot: ``./a``, ``/a`` and ``../a`` are ``a``. Links lead to
    other members, over at most ``limits.links`` of them. A name that several members have is no error before it is
    used; then they must be the same bytes, for some readers take the first and others the last. ``has_end`` tells
    whether the archive has an end marker: one without may have been cut off between two members.

    Raises InvalidInput (``not-an-archive``) for what does not even begin as a tar, Integrity for a malformed one,
    ResourceExhausted for one with too many members. The members' data is not read.
    """

    def __init__(self, fd: int, *, subject: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self.subject = subject
        self._fd = fd
        self._limits = limits
        self._table: dict[bytes, list[Stored]] = {}
        self.has_end = False
        try:
            self._scan()
        except BaseException as error:
            self.close()
            if isinstance(error, LamellaError):
                locate(error, subject)
            raise

    def close(self) -> None:
        """Close the file; what was opened stays open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def names(self) -> Iterator[bytes]:
        """The names of all members, each once, without ``./`` and slashes around."""
        return iter(self._table)

    def has(self, path: str | bytes) -> bool:
        """Whether there is something of this name; raises as ``find`` does when that is no file."""
        try:
            self.find(path)
        except NotFound:
            return False
        return True

    def find(self, path: str | bytes) -> Stored:
        """The regular member that a path leads to.

        Raises NotFound (``archive-member-missing``), InvalidInput (``archive-link-loop``, ``archive-member-type``,
        ``archive-duplicate``, ``archive-path``), and ResourceExhausted (``compression-bomb``) for a sparse file that is
        larger than what is stored of it by more than the ratio that compression may have.
        """
        name = path.encode("utf-8", "surrogatepass") if isinstance(path, str) else path
        follow = _Resolution(self._limits, self.subject)
        place = follow.path(name, self._link)
        member = self._member(place)
        while member.type is MemberType.HARDLINK:
            follow.count(place)
            place = follow.path(member.linkname, self._link)
            member = self._member(place)
        if member.type is not MemberType.REGULAR:
            raise InvalidInput("it is not a regular file", code="archive-member-type", subject=self.subject, entry=name)
        if member.sparse is not None:
            self._check_holes(member, name)
        return member

    def _check_holes(self, member: Stored, name: bytes) -> None:
        stored = sum(length for _, length in member.sparse or ())
        if member.size > self._limits.ratio_floor and member.size > stored * self._limits.ratio:
            raise ResourceExhausted(
                f"{member.size} bytes, of which {stored} are stored",
                code="compression-bomb",
                subject=self.subject,
                entry=name,
            )

    def open(self, path: str | bytes) -> Reader:
        """The bytes of the file that a path leads to; raises as ``find`` does."""
        return self.reader(self.find(path))

    def reader(self, member: Stored) -> Reader:
        """The bytes of a member that ``find`` returned."""
        if member.sparse is not None:
            return _SparseReader(self._fd, member, self.subject)
        return FileRange(self._fd, member.offset, member.size, subject=self.subject)

    def _scan(self) -> None:
        source = _HeaderReader(self._fd, self.subject)
        if not begins_tar(source.head()):
            raise InvalidInput("it is no tar archive, or an empty one", code="not-an-archive")
        names = end = 0
        scanner = TarScanner(source.read, limits=self._limits)
        for count, member in enumerate(scanner, start=1):
            name = _inside(member.name)
            names += len(name) + len(member.linkname)
            if count > _MAX_MEMBERS or names > _MAX_NAME_BYTES:
                raise ResourceExhausted(
                    "it has more members than an archive of images has",
                    code="archive-members",
                    hint="'lamella import' takes root file systems",
                )
            source.skip(member.data_offset, member.stored_size)
            end = member.data_offset + -(-member.stored_size // BLOCK) * BLOCK
            stored = Stored(member.type, member.data_offset, member.size, member.linkname, member.sparse)
            self._table.setdefault(name, []).append(stored)
        self.has_end = scanner.end_offset is not None and scanner.end_offset > end

    def _link(self, name: bytes) -> bytes | None:
        """What a name links to if it is a symbolic link."""
        found = self._table.get(name)
        if not found or all(member.type is not MemberType.SYMLINK for member in found):
            return None
        return self._member(name).linkname

    def _member(self, name: bytes) -> Stored:
        found = self._table.get(name)
        if not found:
            raise NotFound("the archive has no such member", code="archive-member-missing", subject=self.subject).about(
                entry=name
            )
        if len(found) > 1 and not self._are_same(found):
            raise InvalidInput(
                "the archive has different members of this name",
                code="archive-duplicate",
                subject=self.subject,
                entry=name,
            )
        return found[-1]

    def _are_same(self, members: list[Stored]) -> bool:
        first = members[0]
        for other in members[1:]:
            if (first.type, first.size, first.linkname) != (other.type, other.size, other.linkname):
                return False
            if first.type is MemberType.REGULAR and not _same_bytes(self.reader(first), self.reader(other)):
                return False
        # Compared once: the next look-up finds a single member.
        members[:] = members[-1:]
        return True


class _Resolution:
    """The following of one path, with a bound on links."""

    def __init__(self, limits: Limits, subject: str) -> None:
        self._limits = limits
        self._left = limits.links
        self._subject = subject

    def count(self, name: bytes) -> None:
        """One more link is followed. Raises InvalidInput when that is one too many."""
        self._left -= 1
        if self._left < 0:
            raise InvalidInput(
                "links lead in a circle, or over too many members",
                code="archive-link-loop",
                subject=self._subject,
                entry=name,
            )

    def path(self, path: bytes, link: LinkOf) -> bytes:
        """The member name that ``path`` leads to, symbolic links followed, the root of the archive above nothing."""
        todo = self._split(path)
        done: list[bytes] = []
        while todo:
            part = todo.pop()
            if part == b"..":
                del done[-1:]
                continue
            done.append(part)
            name = b"/".join(done)
            target = link(name)
            if target is not None:
                self.count(name)
                done = [] if target.startswith(b"/") else done[:-1]
                todo.extend(self._split(target))
        return b"/".join(done)

    def _split(self, path: bytes) -> list[bytes]:
        """The components of a path, last first."""
        if len(path) > self._limits.path_bytes or b"\0" in path:
            raise InvalidInput(
                "not a path that a member could have", code="archive-path", subject=self._subject, entry=path[:100]
            )
        return [part for part in path.split(b"/") if part not in (b"", b".")][::-1]


class _HeaderReader:
    """What the scanner reads from: the file, but zeros in place of members' data, which nobody looks at."""

    def __init__(self, fd: int, subject: str) -> None:
        self._fd = fd
        self._subject = subject
        self._at = 0
        self._skip_to = 0
        with os_errors(subject):
            self._size = os.fstat(fd).st_size

    def head(self) -> bytes:
        """The first block, without reading on."""
        with os_errors(self._subject):
            return os.pread(self._fd, BLOCK, 0)

    def skip(self, offset: int, size: int) -> None:
        """The data of the member just returned lies there."""
        self._skip_to = min(offset + size, self._size)

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        skipped = min(size, self._skip_to - self._at)
        if skipped > 0:
            self._at += skipped
            return bytes(skipped)
        with os_errors(self._subject):
            data = os.pread(self._fd, min(size, CHUNK), self._at)
        self._at += len(data)
        return data


class _SparseReader:
    """A member stored without its holes, as the logical file."""

    def __init__(self, fd: int, member: Stored, subject: str) -> None:
        self._segments = list(member.sparse or ())[::-1]
        self._size = member.size
        self._at = 0
        self._data = FileRange(fd, member.offset, sum(length for _, length in self._segments), subject=subject)

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        while self._segments and self._segments[-1][0] + self._segments[-1][1] <= self._at:
            self._segments.pop()
        if self._segments and self._segments[-1][0] <= self._at:
            end = sum(self._segments[-1])
            data = self._data.read(min(size, end - self._at))
        else:
            end = self._segments[-1][0] if self._segments else self._size
            data = bytes(min(size, end - self._at, CHUNK))
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close the data; nothing happens the second time."""
        self._data.close()


def begins_tar(block: bytes) -> bool:
    """Whether a first block is a tar header, by its checksum."""
    field = block[_CHECKSUM].strip(b" \0")
    try:
        stated = int(field, 8)
    except ValueError:
        return False
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    # Some old tars summed the bytes as signed numbers.
    return stated in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest))


def _inside(name: bytes) -> bytes:
    """A member's name as a path in the archive: nothing leads above its root."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _same_bytes(one: Reader, other: Reader) -> bool:
    """Whether two streams of the same length hold the same; closes both."""
    with closing(one), closing(other):
        while data := one.read(CHUNK):
            while data:
                piece = other.read(len(data))
                if not piece or not data.startswith(piece):
                    return False
                data = data[len(piece) :]
        return True
