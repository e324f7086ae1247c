"""Devices, pipes and extended attributes: what a layer may bring, and what must not steer the mount that shows it."""

from __future__ import annotations

import struct

from build import base256, device, directory, fifo, file, hardlink, header, pax, pax_raw, record, symlink, tar
from hostile_case import (
    Holds,
    Refused,
    Table,
    a_directory,
    a_file,
    a_link,
    a_special,
    layers,
    members,
    together,
)

from lamella import Limits
from lamella.errors import Integrity, InvalidInput, ResourceExhausted, Unsupported

TABLE = Table()


def xattr(member: bytes, **values: bytes) -> bytes:
    """The member with xattrs; two underscores in a keyword stand for a dot."""
    return named(member, *((key.replace("__", ".").encode(), value) for key, value in values.items()))


def named(member: bytes, *pairs: tuple[bytes, bytes]) -> bytes:
    """The member with xattrs of any names."""
    return pax(*((b"SCHILY.xattr." + name, value) for name, value in pairs)) + member


# -- devices and pipes

TABLE.add(
    "a device for everything",
    members(device(b"null", b"3", 1, 3, mode=0o666), device(b"sda", b"4", 8, 0), fifo(b"pipe", mode=0o600)),
    Holds({
        b"null": a_special("char", 1, 3, 0o666), b"sda": a_special("block", 8, 0),
        b"pipe": a_special("fifo", mode=0o600),
    }),
)  # fmt: skip
TABLE.add(
    "a character device 0/0 is no whiteout of a layer",
    members(device(b"zero", b"3", 0, 0), file(b"f")),
    Holds({b"zero": a_special("char"), b"f": a_file()}, hidden=frozenset({b"zero"}), notes=("0/0",)),
)
TABLE.add(
    "a character device 0/0 in place of a file of a lower layer",
    layers(tar(file(b"f", b"1"), file(b"g")), tar(device(b"f", b"3", 0, 0))),
    Holds({b"f": a_special("char"), b"g": a_file()}, hidden=frozenset({b"f"}), notes=("0/0",)),
)
TABLE.add(
    "a block device 0/0",
    members(device(b"zero", b"4", 0, 0)),
    Holds({b"zero": a_special("block")}),
)
TABLE.add(
    "the largest device number", members(device(b"d", b"3", 4095, 1_048_575)),
    Holds({b"d": a_special("char", 4095, 1_048_575)}),
)  # fmt: skip
for _title, _major, _minor in (("major", 4096, 0), ("minor", 0, 1 << 20), ("both", base256(1 << 55, 8), 1 << 50)):
    TABLE.add(
        f"a device number too large for a kernel, {_title}",
        members(device(b"d", b"3", _major, _minor)),
        Refused(InvalidInput, "device-number", b"d"),
    )
TABLE.add(
    "a negative device number",
    members(device(b"d", b"3", base256(-1, 8), 0)),
    Refused(Integrity, "tar-header", b"d"),
)
TABLE.add(
    "a device of 8 exabytes",
    members(header(b"d", b"3", major=1, minor=3, size=base256((1 << 63) - 1)), file(b"f")),
    Holds({b"d": a_special("char", 1, 3), b"f": a_file()}),
)
TABLE.add(
    "a hard link to a device, to a fifo",
    members(device(b"d", b"3", 1, 3), fifo(b"p"), hardlink(b"e", b"d"), hardlink(b"q", b"p")),
    Holds({
        **together(b"d", b"e", leaf=a_special("char", 1, 3)), **together(b"p", b"q", leaf=a_special("fifo")),
    }),
)  # fmt: skip

# -- xattrs that mean something to a union, as layers may carry them

for _prefix in ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."):
    _p = _prefix.encode()
    TABLE.add(
        f"a directory that says it is opaque ({_prefix})",
        layers(
            tar(directory(b"d"), file(b"d/below", b"1")),
            tar(named(directory(b"d"), (_p + b"opaque", b"y")), file(b"d/f", b"2")),
        ),
        Holds({
            b"d": a_directory(xattrs=((f"{_prefix}opaque", b"y"),)), b"d/below": a_file(b"1"), b"d/f": a_file(b"2"),
        }),
    )  # fmt: skip
    TABLE.add(
        f"a directory that says it was renamed ({_prefix})",
        layers(
            tar(directory(b"d"), file(b"d/below"), directory(b"e"), file(b"e/secret")),
            tar(named(directory(b"d"), (_p + b"redirect", b"/e"), (_p + b"origin", b"\0\xfb\x21\0"))),
        ),
        Holds({
            b"d": a_directory(xattrs=((f"{_prefix}origin", b"\0\xfb\x21\0"), (f"{_prefix}redirect", b"/e"))),
            b"d/below": a_file(), b"e": a_directory(), b"e/secret": a_file(),
        }),
    )  # fmt: skip
    TABLE.add(
        f"a file that says its data is elsewhere ({_prefix})",
        layers(
            tar(file(b"secret", b"hidden"), file(b"f", b"old")),
            tar(named(file(b"f", b"mine"), (_p + b"metacopy", b""), (_p + b"redirect", b"/secret"))),
        ),
        Holds({
            b"secret": a_file(b"hidden"),
            b"f": a_file(b"mine", xattrs=((f"{_prefix}metacopy", b""), (f"{_prefix}redirect", b"/secret"))),
        }),
    )  # fmt: skip
    TABLE.add(
        f"a file that says it is a whiteout ({_prefix})",
        layers(
            tar(directory(b"d"), file(b"d/f", b"1"), file(b"d/g")),
            tar(named(directory(b"d"), (_p + b"opaque", b"x")), named(file(b"d/f"), (_p + b"whiteout", b""))),
        ),
        Holds({
            b"d": a_directory(xattrs=((f"{_prefix}opaque", b"x"),)), b"d/g": a_file(),
            b"d/f": a_file(xattrs=((f"{_prefix}whiteout", b""),)),
        }),
    )  # fmt: skip
    TABLE.add(
        f"the root with everything that steers ({_prefix})",
        layers(
            tar(file(b"below", b"1")),
            tar(named(directory(b"./"), (_p + b"opaque", b"y"), (_p + b"impure", b"y"), (_p + b"redirect", b"/x"))),
        ),
        Holds({
            b"": a_directory(xattrs=(
                (f"{_prefix}impure", b"y"), (f"{_prefix}opaque", b"y"), (f"{_prefix}redirect", b"/x"),
            )),
            b"below": a_file(b"1"),
        }),
    )  # fmt: skip
TABLE.add(
    "xattrs that are escaped already",
    members(named(file(b"f"), (b"trusted.overlay.overlay.opaque", b"y"), (b"user.overlay.overlay.opaque", b"y"))),
    Holds({
        b"f": a_file(xattrs=(("trusted.overlay.overlay.opaque", b"y"), ("user.overlay.overlay.opaque", b"y"))),
    }),
)  # fmt: skip
TABLE.add(
    "a file that says what it should be, in Lamella's own words",
    members(
        xattr(file(b"empty", mode=0o600), user__lamella__stat=b"0:0:4755:3:1:3"),
        xattr(file(b"base/file", b"x"), user__lamella__stat=b"0:0:4755:0:0:0"),
        xattr(directory(b"d"), user__lamella__stat=b"1:1:7777:5:0:0", user__lamella__image__stat=b"x"),
    ),
    Holds(
        {
            b"empty": a_file(mode=0o600, xattrs=(("user.lamella.stat", b"0:0:4755:3:1:3"),)),
            b"base": a_directory(mtime=0),
            b"base/file": a_file(b"x", xattrs=(("user.lamella.stat", b"0:0:4755:0:0:0"),)),
            b"d": a_directory(xattrs=(("user.lamella.image.stat", b"x"), ("user.lamella.stat", b"1:1:7777:5:0:0"))),
        },
        over={
            b"": a_directory(mtime=0), b"base": a_directory(), b"base/other": a_file(b"other"), b"etc": a_directory(),
            b"etc/passwd": a_file(b"root:image\n"),
            b"empty": a_file(mode=0o600, xattrs=(("user.lamella.stat", b"0:0:4755:3:1:3"),)),
            b"base/file": a_file(b"x", xattrs=(("user.lamella.stat", b"0:0:4755:0:0:0"),)),
            b"d": a_directory(xattrs=(("user.lamella.image.stat", b"x"), ("user.lamella.stat", b"1:1:7777:5:0:0"))),
        },
    ),
)  # fmt: skip

# -- other xattrs

_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
TABLE.add(
    "a file capability",
    members(named(file(b"ping", b"x", mode=0o755), (b"security.capability", _CAPABILITY))),
    Holds({b"ping": a_file(b"x", 0o755, xattrs=(("security.capability", _CAPABILITY),))}),
)
TABLE.add(
    "a file capability on a file that is given away, with setuid",
    members(named(file(b"ping", b"x", mode=0o6755, uid=7, gid=8), (b"security.capability", _CAPABILITY))),
    Holds({b"ping": a_file(b"x", 0o6755, uid=7, gid=8, xattrs=(("security.capability", _CAPABILITY),))}),
)
for _title, _pair in {
    "a file capability that is none": (b"security.capability", b"garbage"),
    "an xattr of no namespace": (b"nothing", b"1"),
    "an xattr with a name of 300 bytes": (b"user." + b"n" * 295, b"1"),
    "an access list that is none": (b"system.posix_acl_access", b"garbage"),
}.items():
    TABLE.add(
        _title,
        members(named(file(b"f", b"x"), _pair)),
        Holds(
            {b"f": a_file(b"x", xattrs=((_pair[0].decode(), _pair[1]),))},
            shown={b"f": a_file(b"x")},
            notes=("cannot be",),
        ),
    )
TABLE.add(
    "an xattr on a link, a device and a pipe",
    members(
        xattr(symlink(b"l", b"/etc/passwd"), trusted__t=b"1"), xattr(device(b"d", b"3", 1, 3), trusted__t=b"2"),
        xattr(fifo(b"p"), trusted__t=b"3"),
    ),
    Holds({
        b"l": a_link(b"/etc/passwd", xattrs=(("trusted.t", b"1"),)),
        b"d": a_special("char", 1, 3, xattrs=(("trusted.t", b"2"),)),
        b"p": a_special("fifo", xattrs=(("trusted.t", b"3"),)),
    }),
)  # fmt: skip
TABLE.add(
    "a user xattr on a link is noted",
    members(xattr(symlink(b"l", b"/etc/passwd"), user__u=b"1")),
    Holds(
        {b"l": a_link(b"/etc/passwd", xattrs=(("user.u", b"1"),))},
        shown={b"l": a_link(b"/etc/passwd")},
        notes=("cannot be",),
    ),
)
TABLE.add(
    "an xattr without a name",
    members(pax((b"SCHILY.xattr.", b"1")), file(b"f")),
    Refused(Integrity, "tar-header", b"f"),
)
TABLE.add(
    "an xattr with a NUL in its name",
    members(pax((b"SCHILY.xattr.user.a\0b", b"1")), file(b"f")),
    Refused(Integrity, "tar-header", b"PaxHeaders/x"),
)
TABLE.add(
    "an xattr with a NUL in its name, percent-encoded",
    members(pax((b"LIBARCHIVE.xattr.user.a%00b", b"MQ")), file(b"f")),
    Refused(Integrity, "tar-header", b"f"),
)
TABLE.add(
    "xattrs of more than a mebibyte",
    members(pax(*((b"SCHILY.xattr.user.%d" % i, b"v" * 60_000) for i in range(20))), file(b"f")),
    Refused(ResourceExhausted, "xattr-size", b"f"),
)
TABLE.add(
    "xattrs over the limit given",
    members(xattr(file(b"f"), user__a=b"v" * 2_000), limits=Limits(xattr_bytes=1_000)),
    Refused(ResourceExhausted, "xattr-size", b"f"),
)
TABLE.add(
    "an xattr of 100,000 bytes is noted where the file system cannot hold it",
    members(xattr(file(b"f", b"x"), user__big=b"v" * 100_000)),
    Holds(
        {b"f": a_file(b"x", xattrs=(("user.big", b"v" * 100_000),))},
        shown={b"f": a_file(b"x")},
        notes=("cannot be",),
    ),
)
TABLE.add(
    "an xattr for everybody, in a global header",
    members(pax_raw(record(b"SCHILY.xattr.user.all", b"1"), flag=b"g"), file(b"f")),
    Refused(Unsupported, "tar-global", b"PaxHeaders/x"),
)
