"""Writes EROFS metadata for a merged tree: one file that makes an image mountable without extracting it.

Format: the kernel's ``fs/erofs/erofs_fs.h``. The file holds inodes, directories, links and xattrs; the content of
regular files stays where it lies, in the uncompressed layer tars, which are given to the mount as extra devices. Blocks
are 512 bytes, as tar aligns members, so a file is one chunk that names its device and its first block. What is not
contiguous in its tar (sparse files), or in no tar at all (files of a directory that was scanned), is copied into a side
file, the last device, holes left out.

    0      1024         1152           a block, 4096 at least
    | zero | superblock | device slots | inodes | directories and long links | shared xattrs |

The same tree gives the same bytes. Memory: about 150 bytes an entry, beside the tree itself, which takes more.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import itemgetter
from typing import BinaryIO

from lamella.errors import Unsupported, printable
from lamella.layers.entry import Entry, Kind
from lamella.layers.override import as_user
from lamella.layers.sources import TarSource
from lamella.layers.sparse import find_segments
from lamella.layers.tree import MergedTree, Node
from lamella.layers.xattrs import is_users, not_shown, written_name
from lamella.mounts.model import Form

VERSION = 1
"""Raised whenever the same tree gives other bytes than before."""

BLOCK = 512
_BLOCK_BITS = 9
_BLOCKS = 1 << 32
_PAGE = 4096
_MAGIC = 0xE0F5E1E2
_SUPER_AT = 1024
_INCOMPAT_CHUNKED = 0x4
_INCOMPAT_DEVICES = 0x8
_COMPAT_MTIME = 0x2
_SLOT = 128
_NID = 32
_LAST_PLACE = BLOCK - _NID
_NO_BLOCK = 0xFFFFFFFF
_NS = 1_000_000_000
_PLAIN, _INLINE, _CHUNKED = 1, 1 | 2 << 1, 1 | 4 << 1  # the lowest bit: an extended inode
_INDEXES = 0x20
_CHUNK_BITS_MAX = 31
_SPARSE_CHUNK_BITS = 7  # 64 KiB
_SPARSE_CHUNK_BITS_MAX = 15  # 16 MiB
_SPARSE_CHUNKS = 1 << 20
_LINK_MAX = 4095
_XATTR_VALUE_MAX = 0xFFFF
_SHARED_MAX = 255

_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_START_AT, _LINKS_AT = 16, 44  # in the inode
_ONE_CHUNK = struct.Struct("<HHHHQIIIIqII16xHHI24x")  # a whole file: inode, chunk index, padding
_DIRENT_SIZE = 12
_DIRENTS = tuple(struct.Struct("<" + count * "QHBx") for count in range(BLOCK // (_DIRENT_SIZE + 1) + 1))
"""All the dirents of a block at once, by their number."""
_CHUNK = struct.Struct("<HHI")
_XATTR = struct.Struct("<BBH")
_XATTR_HEADER = struct.Struct("<4xB7x")
_SLOT_FIELDS = struct.Struct("<64sII")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")

_MODES = {
    Kind.REGULAR: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.CHARDEV: stat.S_IFCHR,
    Kind.BLOCKDEV: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SYMLINK: stat.S_IFLNK,
}
_FILE_TYPES = {
    Kind.REGULAR: 1,
    Kind.DIRECTORY: 2,
    Kind.CHARDEV: 3,
    Kind.BLOCKDEV: 4,
    Kind.FIFO: 5,
    Kind.SYMLINK: 7,
}
_DIRECTORY_TYPE = _FILE_TYPES[Kind.DIRECTORY]
_REGULAR, _SYMLINK, _CHARDEV, _BLOCKDEV = Kind.REGULAR, Kind.SYMLINK, Kind.CHARDEV, Kind.BLOCKDEV
_SPACES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)


@dataclass(frozen=True, slots=True)
class ErofsLayout:
    """What a metadata file needs to be mounted: the layers whose tars are its devices, by position, in device order.

    ``side_size`` is the length in bytes of the side file, the device after them; 0 if there is none. ``notes`` tell
    what of the image no mount shows.
    """

    devices: tuple[int, ...]
    side_size: int
    notes: tuple[str, ...] = ()


def write_erofs(
    tree: MergedTree, out: BinaryIO, side: BinaryIO, *, form: Form = Form.OVERLAY, uuid: bytes = bytes(16)
) -> ErofsLayout:
    """Write the metadata of ``tree`` to ``out`` and what does not lie contiguous in a tar to ``side``, both empty.

    It is made to lie under an overlay of ``form``: xattrs that would steer that are escaped. For OVERLAY_USER, files
    are what a caller without root extracts, owner 0 being the caller. Raises Unsupported (``erofs-*``), naming the
    entry, for what the format cannot hold, and Integrity for a tar that is shorter than its index.
    """
    return _Writer(tree, side, form, uuid).run(out)


class _Writer:
    def __init__(self, tree: MergedTree, side: BinaryIO, form: Form, uuid: bytes) -> None:
        self._tree, self._form, self._uuid = tree, form, uuid
        self._as_user = form is Form.OVERLAY_USER
        self._devices = _Devices(tree)
        self._side = _SideFile(side)
        # Room for every device there may be, so that inodes have their places before the devices are counted.
        self._base = _align(_SUPER_AT + _SLOT * (len(tree.sources) + 2), BLOCK)
        self._inodes = bytearray()
        self._count = 0
        self._blocks = bytearray()
        # What is known at the end: where in the inodes a block behind them is named, and where the side device.
        self._in_blocks: list[tuple[int, int]] = []
        self._in_side: list[int] = []
        self._xattrs = _SharedXattrs()
        self._notes: dict[str, None] = {}

    def run(self, out: BinaryIO) -> ErofsLayout:
        self._walk()
        if self._side.used:
            self._side.finish()
        inodes_end = _align(self._base + len(self._inodes), BLOCK)
        for at, block in self._in_blocks:
            _U32.pack_into(self._inodes, at, inodes_end // BLOCK + block)
        for at in self._in_side:
            _U16.pack_into(self._inodes, at, len(self._devices.layers) + 1)
        xattrs_at = inodes_end + len(self._blocks)
        end = _align(xattrs_at + len(self._xattrs.area), _PAGE)
        out.write(self._head(end, xattrs_at).ljust(self._base, b"\0"))
        out.write(self._inodes.ljust(inodes_end - self._base, b"\0"))
        out.write(self._blocks)
        out.write(self._xattrs.area.ljust(end - xattrs_at, b"\0"))
        return ErofsLayout(tuple(self._devices.layers), self._side.size, tuple(self._notes))

    # -- the tree

    def _walk(self) -> None:
        """Write the inodes, the root's first, those of a directory's files side by side, and every directory."""
        root = self._tree.root
        nid = self._directory_inode(root)
        nids: dict[int, int] = {}
        stack: list[tuple[Node, int, int]] = [(root, nid, nid)]
        while stack:
            directory, own, parent = stack.pop()
            children = directory.children or {}
            names: list[bytes] = sorted(children)
            # Three lists and not one of tuples: the collector of cycles would look through those again and again.
            shown: list[bytes] = []
            targets: list[int] = []
            types: list[int] = []
            below: list[tuple[Node, int, int]] = []
            for name in names:
                node = children[name]
                entry = as_user(node.entry) if self._as_user else node.entry
                kind = entry.kind
                if node.children is not None:
                    nid = self._directory_inode(node)
                    below.append((node, nid, own))
                elif kind is _CHARDEV and not entry.major and not entry.minor:
                    self._note(entry, "a character device 0/0 reads as a whiteout in an overlay; it will not show")
                    continue
                else:
                    known = nids.get(id(node))
                    if known is not None:
                        self._one_more_name(known)
                        nid = known
                    else:
                        regular = kind is _REGULAR and entry.size
                        nid = self._regular_inode(entry, node.layer) if regular else self._file_inode(entry, kind)
                        nids[id(node)] = nid
                shown.append(name)
                targets.append(nid)
                types.append(_FILE_TYPES[kind])
            self._directory_blocks(shown, targets, types, own, parent)
            below.reverse()
            stack += below

    def _one_more_name(self, nid: int) -> None:
        at = nid * _NID - self._base + _LINKS_AT
        _U32.pack_into(self._inodes, at, _U32.unpack_from(self._inodes, at)[0] + 1)

    def _start(self) -> int:
        """Where the next inode goes, counted from the first: no inode crosses a block."""
        self._count += 1
        at = len(self._inodes)
        place = -(-at // _NID) * _NID
        if place % BLOCK == _LAST_PLACE:
            place += _NID
        if place != at:
            self._inodes += bytes(place - at)
        return place

    def _file_inode(self, entry: Entry, kind: Kind) -> int:
        """Write the inode of anything but a directory or a file that holds something; return its nid."""
        if kind is _SYMLINK:
            return self._link_inode(entry)
        at = self._start()
        xattrs = self._shared_xattrs(entry) if entry.xattrs else b""
        value = _NO_BLOCK if kind is _REGULAR else 0
        if kind is _CHARDEV or kind is _BLOCKDEV:
            value = (entry.minor & 0xFF) | entry.major << 8 | (entry.minor & ~0xFF) << 12
            if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
                raise Unsupported("a device number over 4095:1048575", code="erofs-device", entry=entry.path)
        self._inodes += self._inode(entry, _PLAIN, xattrs, 0, value, 1) + xattrs
        return (self._base + at) // _NID

    def _inode(self, entry: Entry, layout: int, xattrs: bytes, size: int, value: int, links: int) -> bytes:
        seconds, nanoseconds = divmod(entry.mtime, _NS)
        mode = _MODES[entry.kind] | (0o777 if entry.kind is _SYMLINK else entry.mode)
        return _INODE.pack(
            layout, _icount(xattrs), mode, 0, size, value, self._count, entry.uid, entry.gid, seconds, nanoseconds,
            links,
        )  # fmt: skip

    def _regular_inode(self, entry: Entry, layer: int) -> int:
        """Write the inode of a file and the places of its content, nearly always one; return its nid."""
        at = self._start()
        size, offset = entry.size, entry.offset
        device = self._devices.number(layer, entry) if entry.sparse is None and not offset % BLOCK else 0
        bits = (size - 1).bit_length() - _BLOCK_BITS
        if device and not entry.xattrs and bits <= _CHUNK_BITS_MAX:
            mtime = entry.mtime
            seconds = mtime // _NS
            self._inodes += _ONE_CHUNK.pack(
                _CHUNKED, 0, stat.S_IFREG | entry.mode, 0, size, _INDEXES | (bits if bits > 0 else 0), self._count,
                entry.uid, entry.gid, seconds, mtime - seconds * _NS, 1, 0, device, offset // BLOCK,
            )  # fmt: skip
            return (self._base + at) // _NID
        xattrs = self._shared_xattrs(entry) if entry.xattrs else b""
        if device:
            bits, blocks = _contiguous(offset // BLOCK, size)
        else:
            bits, blocks = self._side.copy(self._tree, entry, layer)
        self._inodes += self._inode(entry, _CHUNKED, xattrs, size, _INDEXES | bits, 1) + xattrs
        self._inodes += bytes(-len(self._inodes) % _CHUNK.size)
        for block in blocks:
            if not device and block != _NO_BLOCK:
                self._in_side.append(len(self._inodes) + 2)
            self._inodes += _CHUNK.pack(0, device, block)
        return (self._base + at) // _NID

    def _link_inode(self, entry: Entry) -> int:
        """A symbolic link: its target behind the inode where that leaves it in one block, else in blocks."""
        size = len(entry.link)
        if size > _LINK_MAX:
            raise Unsupported("a symbolic link over 4,095 bytes", code="erofs-link", entry=entry.path)
        xattrs = self._shared_xattrs(entry) if entry.xattrs else b""
        at = self._start()
        behind = _INODE.size + len(xattrs)
        if behind % BLOCK + size > BLOCK - _NID or not size:
            self._in_blocks.append((at + _START_AT, len(self._blocks) // BLOCK))
            self._inodes += self._inode(entry, _PLAIN, xattrs, size, 0, 1) + xattrs
            self._blocks += entry.link + bytes(-size % BLOCK)
            return (self._base + at) // _NID
        while at % BLOCK == _LAST_PLACE or (at + behind) // BLOCK != (at + behind + size - 1) // BLOCK:
            at += _NID
        self._inodes += bytes(at - len(self._inodes))
        self._inodes += self._inode(entry, _INLINE, xattrs, size, 0, 1) + xattrs + entry.link
        return (self._base + at) // _NID

    # -- directories

    def _directory_inode(self, node: Node) -> int:
        """Write the inode of a directory whose blocks are still to come; return its nid."""
        entry, children = as_user(node.entry) if self._as_user else node.entry, node.children or {}
        xattrs = self._shared_xattrs(entry) if entry.xattrs else b""
        links = 2
        for child in children.values():
            if child.children is not None:
                links += 1
        at = self._start()
        self._inodes += self._inode(entry, _PLAIN, xattrs, 0, 0, links) + xattrs
        return (self._base + at) // _NID

    def _directory_blocks(self, names: list[bytes], nids: list[int], types: list[int], own: int, parent: int) -> None:
        """Write the blocks of a directory, and into its inode where they are and how long."""
        for name, nid in ((b".", own), (b"..", parent)):
            place = bisect_left(names, name)
            names.insert(place, name)
            nids.insert(place, nid)
            types.insert(place, _DIRECTORY_TYPE)
        at = own * _NID - self._base
        self._in_blocks.append((at + _START_AT, len(self._blocks) // BLOCK))
        first = used = size = 0
        for last, name in enumerate(names):
            used += _DIRENT_SIZE + len(name)
            if used > BLOCK:
                self._directory_block(names[first:last], nids[first:last], types[first:last])
                size += BLOCK
                first, used = last, _DIRENT_SIZE + len(name)
        self._directory_block(names[first:], nids[first:], types[first:])
        struct.pack_into("<Q", self._inodes, at + 8, size + used)

    def _directory_block(self, names: list[bytes], nids: list[int], types: list[int]) -> None:
        count = len(names)
        places = accumulate(map(len, names), initial=count * _DIRENT_SIZE)
        dirents = _DIRENTS[count].pack(*chain.from_iterable(zip(nids, places, types, strict=False)))
        self._blocks += b"".join((dirents, *names)).ljust(BLOCK, b"\0")

    # -- xattrs

    def _shared_xattrs(self, entry: Entry) -> bytes:
        """What stands behind an inode for its xattrs: the numbers of shared ones, and those that are too many."""
        shared: list[int] = []
        inline = b""
        for name, value in sorted(entry.xattrs.items()):
            written = written_name(name, self._form)
            problem = not_shown(entry, written, value)
            if self._as_user and not problem and not is_users(name):
                problem = "without root it cannot be set"
            if problem:
                self._note(entry, f"xattr {printable(name)} cannot be shown: {problem}")
                continue
            if len(value) > _XATTR_VALUE_MAX:
                raise Unsupported("an xattr over 65,535 bytes", code="erofs-xattr", entry=entry.path)
            packed = _packed_xattr(written, value)
            if len(shared) < _SHARED_MAX:
                shared.append(self._xattrs.number(packed))
            else:
                inline += packed
        if len(inline) > _XATTR_VALUE_MAX * 4 - _SHARED_MAX * 4:
            raise Unsupported("more xattrs than EROFS can hold", code="erofs-xattr", entry=entry.path)
        if not shared:
            return b""
        return _XATTR_HEADER.pack(len(shared)) + struct.pack(f"<{len(shared)}I", *shared) + inline

    def _note(self, entry: Entry, text: str) -> None:
        self._notes[f"/{printable(entry.path)}: {text}"] = None

    # -- the head

    def _head(self, size: int, xattrs_at: int) -> bytes:
        devices = self._devices.slots()
        if self._side.used:
            devices.append((b"side", self._side.size // BLOCK))
        features = _INCOMPAT_CHUNKED | (_INCOMPAT_DEVICES if devices else 0)
        head = bytearray(_SUPER_AT)
        head += _SUPER.pack(
            _MAGIC, 0, _COMPAT_MTIME, _BLOCK_BITS, 0, self._base // _NID, self._count, 0, 0, size // BLOCK, 0,
            xattrs_at // BLOCK, self._uuid, b"lamella", features, 0, len(devices), (_SUPER_AT + _SLOT) // _SLOT,
            0, 0, 0, 0, 0,
        )  # fmt: skip
        for label, blocks in devices:
            head += _SLOT_FIELDS.pack(label, blocks, 0).ljust(_SLOT, b"\0")
        return bytes(head)


class _Devices:
    """The tars that content is in, numbered from 1 as they are met; layers with the same bytes are one."""

    def __init__(self, tree: MergedTree) -> None:
        self._tree = tree
        self._by_layer = [0] * len(tree.sources)
        self._ends: list[int] = [0]
        self._by_label: dict[str, int] = {}
        self.layers: list[int] = []

    def number(self, layer: int, entry: Entry) -> int:
        """The device to read a contiguous file from; 0 when it is in no tar, or its last block is not a whole one."""
        number = self._by_layer[layer]
        if not number:
            source = self._tree.sources[layer]
            if not isinstance(source, TarSource):
                return 0
            number = self._add(layer, source)
        if entry.offset + entry.size > self._ends[number]:
            return 0
        return number

    def _add(self, layer: int, source: TarSource) -> int:
        number = self._by_label.get(source.label)
        if number is None:
            fd = source.open_tar()
            try:
                blocks = os.fstat(fd).st_size // BLOCK
            finally:
                os.close(fd)
            self._ends.append(min(blocks, _BLOCKS - 1) * BLOCK)
            self.layers.append(layer)
            number = self._by_label[source.label] = len(self.layers)
        self._by_layer[layer] = number
        return number

    def slots(self) -> list[tuple[bytes, int]]:
        """The tag and the number of blocks of every device."""
        labels = (self._tree.sources[layer].label.rpartition(":")[2].encode()[:64] for layer in self.layers)
        return [(label, end // BLOCK) for label, end in zip(labels, self._ends[1:], strict=True)]


class _SideFile:
    """Takes what does not lie contiguous in a tar, in chunks that hold data; the holes between are left out."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._at = 0

    @property
    def used(self) -> bool:
        """Whether there is anything in it: a file may be all holes."""
        return self._at > 0

    @property
    def size(self) -> int:
        """Bytes, whole pages."""
        return _align(self._at, _PAGE)

    def finish(self) -> None:
        """Give the file its length."""
        self._out.truncate(self.size)

    def copy(self, tree: MergedTree, entry: Entry, layer: int) -> tuple[int, list[int]]:
        """Copy the data of a file; return the size of its chunks, as a power of two blocks, and the block of each."""
        bits = _SPARSE_CHUNK_BITS
        while entry.size > (BLOCK << bits) * _SPARSE_CHUNKS:
            bits += 1
        if bits > _SPARSE_CHUNK_BITS_MAX:
            raise Unsupported("a sparse file over 16 TiB", code="erofs-sparse", entry=entry.path)
        chunk = BLOCK << bits
        blocks = [_NO_BLOCK] * -(-entry.size // chunk)
        source = tree.sources[layer]
        with source.open(entry) as content:
            found = entry.sparse if isinstance(source, TarSource) else find_segments(content, entry.size)
            for start, length in ((0, entry.size),) if found is None else filter(itemgetter(1), found):
                for number in range(start // chunk, -(-(start + length) // chunk)):
                    if blocks[number] == _NO_BLOCK:
                        blocks[number] = self._at // BLOCK
                        self._at += _align(min(chunk, entry.size - number * chunk), BLOCK)
                    begin, end = max(start, number * chunk), min(start + length, (number + 1) * chunk)
                    content.seek(begin)
                    self._out.seek(blocks[number] * BLOCK + begin - number * chunk)
                    _copy(content.read, self._out, end - begin)
        if self._at // BLOCK >= _BLOCKS:
            raise Unsupported("sparse files of over 2 TiB of data", code="erofs-sparse", entry=entry.path)
        return bits, blocks


class _SharedXattrs:
    """Every xattr once: inodes name them by number, which costs 4 bytes, and images have few different ones."""

    def __init__(self) -> None:
        self.area = bytearray()
        self._numbers: dict[bytes, int] = {}

    def number(self, packed: bytes) -> int:
        """The number of an xattr, which is where it lies in units of 4 bytes."""
        number = self._numbers.get(packed)
        if number is None:
            number = self._numbers[packed] = len(self.area) // 4
            self.area += packed
        return number


def _packed_xattr(name: bytes, value: bytes) -> bytes:
    prefix, index = next((prefix, index) for prefix, index in _SPACES if name.startswith(prefix))
    rest = name[len(prefix) :]
    body = _XATTR.pack(len(rest), index, len(value)) + rest + value
    return body + bytes(-len(body) % 4)


def _icount(xattrs: bytes) -> int:
    return (len(xattrs) - _XATTR_HEADER.size) // 4 + 1 if xattrs else 0


def _contiguous(first: int, size: int) -> tuple[int, list[int]]:
    """The chunks of a file that is in one piece: one, up to 1 TiB."""
    bits = min(max((size - 1).bit_length() - _BLOCK_BITS, 0), _CHUNK_BITS_MAX)
    return bits, list(range(first, first - (-size // BLOCK), 1 << bits))


def _align(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _copy(read: Callable[[int], bytes | None], out: BinaryIO, size: int) -> None:
    while size and (data := read(min(size, 1 << 20))):
        out.write(data)
        size -= len(data)
