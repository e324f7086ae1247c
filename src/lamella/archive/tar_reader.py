"""Reading a tar archive front to back: the members, and where their bytes lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lamella.archive import pax, sparse
from lamella.archive.member import Member, MemberType
from lamella.archive.tar_header import (
    BLOCK,
    FILE_TYPES,
    GNU,
    MAX_ID,
    MAX_SIZE,
    ZERO_BLOCK,
    HeaderDecoder,
    bad_header,
    number,
    owner_names,
    text,
)
from lamella.errors import Integrity, ResourceExhausted, Unsupported
from lamella.spec.limits import DEFAULT_LIMITS, Limits

_PIECE = 256 << 10
"""Bytes read at a time to get past data."""
_PAX_LOCAL = (b"x", b"X")
_DEVICES = (MemberType.CHARDEV, MemberType.BLOCKDEV)
_LINKS = (MemberType.HARDLINK, MemberType.SYMLINK)
_REGULAR = MemberType.REGULAR
_NO_NAMES = (b"", b"")


class TarScanner:
    """Iterates over the members of an archive that ``read(n)``, which returns up to n bytes, delivers.

    Understands v7, ustar, star, GNU and pax archives, sparse files of every GNU kind included. Data is passed over by
    ``skip(n)``, which says how many bytes, up to n, it got past (0 only at the end), else by reading; ``jump(n)`` gives
    the block behind n bytes where all of that is at hand, else nothing, and stays where it is. Nothing that was yielded
    is kept. The iteration ends at the end marker (two zero blocks), at one zero block that is the last, or
    where the stream ends between two members; ``end_offset`` then says how many bytes were read, and what follows is
    the caller's. An archive can be scanned once. While a member is the current one,
    ``header`` is its block as it stands in the archive, ``uname`` and ``gname`` are the names that it is owned by.

    Raises Integrity (``tar-truncated``, ``tar-checksum``, ``tar-header``), Unsupported (``tar-type``, ``tar-sparse``,
    ``tar-global``) and ResourceExhausted (``layer-entries``, ``tar-header-size``, ``path-length``, ``xattr-size``,
    ``sparse-segments``), naming the entry as far as it is known.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        *,
        skip: Callable[[int], int] | None = None,
        jump: Callable[[int], bytes] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.end_offset: int | None = None
        self.header = b""
        self._read = read
        self._pass_over = skip or (lambda size: len(read(min(size, _PIECE))))
        self._jump = jump or (lambda _: b"")
        self._limits = limits
        self._offset = 0
        self._skip = 0
        self._entry: bytes | None = None
        self._decoder = HeaderDecoder()
        self._globals: dict[bytes, bytes] = {}
        self._global_bytes = 0
        self._pending = _Pending()
        self._names = _NO_NAMES
        self._members = self._scan()

    def __iter__(self) -> Iterator[Member]:
        return self._members

    def __next__(self) -> Member:
        return next(self._members)

    @property
    def uname(self) -> bytes:
        """The name of the owner of the current member; empty where none is given."""
        return self._names[0] or owner_names(self.header)[0]

    @property
    def gname(self) -> bytes:
        """The name of the group of the current member; empty where none is given."""
        return self._names[1] or owner_names(self.header)[1]

    def _scan(self) -> Iterator[Member]:
        decode, jump = self._decoder.decode, self._jump
        most = self._limits.layer_entries
        entries = 0
        while True:
            block = jump(self._skip)
            if block:
                self._offset += self._skip + BLOCK
                self._skip = 0
            else:
                block = self._next_block()
                if not block:
                    break
            if not block[0] and block == ZERO_BLOCK:
                self._end_marker()
                break
            self.header = block
            member, flag = decode(block, self._offset - BLOCK)
            self._entry = member.name
            if flag not in FILE_TYPES:
                self._extension(member, flag)
                continue
            if self._pending.used or self._globals:
                self._extend(member, flag)
            elif self._names is not _NO_NAMES:
                self._names = _NO_NAMES
            if flag == b"0" and member.name[-1:] != b"/":
                self._skip = -(-member.stored_size // BLOCK) * BLOCK
            elif flag in b"S\x0007D":
                self._with_data(member, flag, block)
            entries += 1
            if entries > most:
                raise ResourceExhausted(f"more than {most} entries", code="layer-entries", entry=member.name)
            yield member
        if self._pending.used:
            raise Integrity("the archive ends after an extended header", code="tar-truncated", entry=self._entry)
        self.end_offset = self._offset

    def _with_data(self, member: Member, flag: bytes, block: bytes) -> None:
        """What only members that may have data need; sets how much is to be skipped."""
        if flag == b"S":
            self._old_sparse(member, block)
        elif flag == b"D" or member.name.endswith(b"/"):
            # Before ustar a directory was a file whose name ends in a slash, and tars go on reading it so.
            member.type = MemberType.DIRECTORY
            member.size = 0
        self._skip = -(-member.stored_size // BLOCK) * BLOCK

    # The stream

    def _next_block(self) -> bytes:
        """The block after the data to be skipped; empty where the stream ends just before it."""
        left, self._skip = self._skip, 0
        while left:
            passed = self._pass_over(left)
            if not passed:
                raise self._truncated()
            left -= passed
            self._offset += passed
        block = self._read(BLOCK)
        self._offset += len(block)
        if len(block) == BLOCK or not block:
            return block
        return self._rest(block, BLOCK)

    def _rest(self, data: bytes, want: int) -> bytes:
        """Go on after a short read until there are ``want`` bytes. Raises Integrity at the end."""
        pieces = [data]
        missing = want - len(data)
        while missing and (data := self._read(missing)):
            pieces.append(data)
            missing -= len(data)
            self._offset += len(data)
        if missing:
            raise self._truncated()
        return b"".join(pieces)

    def _payload(self, size: int) -> bytes:
        """The whole data of an extension, padding excluded."""
        self._pending.bytes += size
        if self._pending.bytes > self._limits.header_bytes:
            raise ResourceExhausted(
                f"extended headers of more than {self._limits.header_bytes} bytes",
                code="tar-header-size",
                entry=self._entry,
            )
        return self._exactly(-(-size // BLOCK) * BLOCK)[:size]

    def _exactly(self, want: int) -> bytes:
        if not want:
            return b""
        data = self._read(want)
        self._offset += len(data)
        return data if len(data) == want else self._rest(data, want)

    def _truncated(self) -> Integrity:
        return Integrity(f"the archive is cut off at {self._offset}", code="tar-truncated", entry=self._entry)

    def _end_marker(self) -> None:
        block = self._next_block()
        if block and block != ZERO_BLOCK:
            raise bad_header(f"a lone zero block at {self._offset - 2 * BLOCK}", self._entry)

    # Extensions: headers that describe the next one

    def _extension(self, member: Member, flag: bytes) -> None:
        pending = self._pending
        size = member.stored_size
        if flag in _PAX_LOCAL:
            pending.used = True
            pending.records.update(pax.records(self._payload(size), self._entry), self._entry)
        elif flag == b"g":
            self._global(size)
        elif flag == b"L":
            pending.used = True
            pending.name = text(self._payload(size))
        elif flag == b"K":
            pending.used = True
            pending.linkname = text(self._payload(size))
        elif flag == b"V":
            self._skip = -(-size // BLOCK) * BLOCK
        else:
            raise Unsupported(f"tar member of type {flag!r}", code="tar-type", entry=member.name)

    def _global(self, size: int) -> None:
        """Records that last to the end of the archive: all of them together must stay small, and cheap to apply."""
        pending, self._pending = self._pending, _Pending()
        self._pending.bytes = self._global_bytes
        found = list(pax.records(self._payload(size), self._entry))
        self._global_bytes = self._pending.bytes
        self._pending = pending
        if any(pax.is_of_one_file(key) for key, _ in found):
            # Nobody writes such; with them each of four million members would cost what one may.
            raise Unsupported(
                "extended attributes or sparse maps in a global header", code="tar-global", entry=self._entry
            )
        self._globals.update(found)

    def _extend(self, member: Member, flag: bytes) -> None:
        """Apply what extended headers say about this member."""
        pending, self._pending = self._pending, _Pending()
        records = pending.records
        if self._globals:
            records.values = {**self._globals, **records.values}
        found = records.values.get
        self._names = (found(b"uname", b""), found(b"gname", b""))
        member.name = found(b"path") or member.name
        if member.type in _LINKS:
            member.linkname = pending.linkname or found(b"linkpath") or member.linkname
        if records.values or records.is_rich:
            self._apply(member, flag, records)
        # Like Go's reader, which the other engines use: a GNU long name counts more than a pax path.
        member.name = pending.name or member.name
        self._entry = member.name
        if len(member.name) > self._limits.path_bytes or len(member.linkname) > self._limits.path_bytes:
            raise ResourceExhausted(
                f"a path of more than {self._limits.path_bytes} bytes", code="path-length", entry=member.name[:80]
            )

    def _apply(self, member: Member, flag: bytes, records: pax.Records) -> None:
        entry = self._entry = member.name
        if (mtime := records.mtime(entry)) is not None:
            member.mtime = mtime
        if (uid := records.number(b"uid", entry, highest=MAX_ID)) is not None:
            member.uid = uid
        if (gid := records.number(b"gid", entry, highest=MAX_ID)) is not None:
            member.gid = gid
        if member.type in _DEVICES:
            member.major = records.number(b"SCHILY.devmajor", entry) or member.major
            member.minor = records.number(b"SCHILY.devminor", entry) or member.minor
        if records.is_rich:
            member.xattrs = records.xattrs(entry, limit=self._limits.xattr_bytes)
        if member.type is _REGULAR:
            if (size := records.number(b"size", entry)) is not None:
                member.size = member.stored_size = size
            if records.is_rich:
                self._pax_sparse(member, flag, records)

    # Sparse files

    def _pax_sparse(self, member: Member, flag: bytes, records: pax.Records) -> None:
        version = (records.text(b"GNU.sparse.major"), records.text(b"GNU.sparse.minor"))
        text_map = records.text(b"GNU.sparse.map")
        if version == (b"", b"") and not text_map and not records.sparse_map:
            return
        if flag == b"S":
            raise bad_header("a sparse map of two formats", member.name)
        member.name = self._entry = records.text(b"GNU.sparse.name") or member.name
        size = records.number(b"GNU.sparse.realsize", self._entry)
        if size is None:
            size = records.number(b"GNU.sparse.size", self._entry)
        if size is None:
            raise bad_header("a sparse file without its size", self._entry)
        if version == (b"1", b"0"):
            pairs = self._leading_map(member)
        elif version in ((b"", b""), (b"0", b"0"), (b"0", b"1")):
            pairs = sparse.from_text(sparse.split(text_map) if text_map else records.sparse_map, self._entry)
        else:
            raise Unsupported("a sparse file of an unknown version", code="tar-sparse", entry=self._entry)
        self._set_sparse(member, pairs, size)

    def _leading_map(self, member: Member) -> Iterator[tuple[int, int]]:
        collector = sparse.MapReader(limit=self._limits.sparse_segments, entry=self._entry)
        more = True
        while more:
            if member.stored_size < BLOCK:
                raise bad_header("a sparse map that does not end within its file", self._entry)
            member.stored_size -= BLOCK
            more = collector.feed(self._exactly(BLOCK))
        member.data_offset = self._offset
        return collector.pairs()

    def _old_sparse(self, member: Member, block: bytes) -> None:
        if block[257:263] != GNU:
            raise bad_header("an old GNU sparse file in a header that is not GNU's", member.name)
        try:
            size = number(block[483:495])
        except ValueError as error:
            raise bad_header(f"sparse file: {error}", member.name) from None
        if not 0 <= size <= MAX_SIZE:
            raise bad_header("sparse file: its size is out of range", member.name)
        pairs = list(sparse.old_gnu(block, 386, 4, member.name))
        extended = block[482]
        while extended:
            if len(pairs) > self._limits.sparse_segments:
                raise sparse.too_many(self._limits.sparse_segments, member.name)
            block = self._exactly(BLOCK)
            pairs += sparse.old_gnu(block, 0, 21, member.name)
            extended = block[504]
        member.data_offset = self._offset
        self._set_sparse(member, iter(pairs), size)

    def _set_sparse(self, member: Member, pairs: Iterator[tuple[int, int]], size: int) -> None:
        member.sparse = sparse.checked(
            pairs, size=size, stored=member.stored_size, limit=self._limits.sparse_segments, entry=member.name
        )
        member.size = size


class _Pending:
    """What extended headers have said so far about the member to come."""

    __slots__ = ("bytes", "linkname", "name", "records", "used")

    def __init__(self) -> None:
        self.used = False
        self.bytes = 0
        self.name = b""
        self.linkname = b""
        self.records = pax.Records()
