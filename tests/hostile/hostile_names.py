"""Names of entries: those that climb out, those that are too long, those that are merely odd, and the root itself."""

from __future__ import annotations

from build import device, directory, fifo, file, gnu_long, hardlink, header, pax, symlink, tar, xattrs
from hostile_case import (
    BASE_TREE,
    IMPLIED,
    Holds,
    Refused,
    Table,
    a_directory,
    a_file,
    a_link,
    implied,
    layers,
    members,
)

from lamella.errors import Integrity, InvalidInput, ResourceExhausted

TABLE = Table()

# -- out of the image

for _title, _name in {
    "leading": b"../evil",
    "leading, after a dot": b"./../evil",
    "leading, after a slash": b"/../evil",
    "in the middle": b"base/../../evil",
    "in the middle, staying inside": b"base/../evil",
    "trailing": b"base/..",
    "alone": b"..",
    "twenty times": b"../" * 20 + b"etc/evil",
    "behind a long component": b"x" * 200 + b"/../evil",
}.items():
    TABLE.add(
        f"a file whose name has '..', {_title}",
        members(file(_name, b"x")),
        Refused(InvalidInput, "entry-name-escapes", _name),
    )
TABLE.add(
    "a directory whose name has '..'",
    members(directory(b"base/../../evil/")),
    Refused(InvalidInput, "entry-name-escapes", b"base/../../evil/"),
)
TABLE.add(
    "a pax path with '..' over an honest name",
    members(pax((b"path", b"../evil")), file(b"honest", b"x")),
    Refused(InvalidInput, "entry-name-escapes", b"../evil"),
)
TABLE.add(
    "a GNU long name with '..' over an honest name",
    members(gnu_long(b"a/../../evil"), header(b"honest")),
    Refused(InvalidInput, "entry-name-escapes", b"a/../../evil"),
)
TABLE.add(
    "a ustar prefix with '..' before an honest name",
    members(header(b"evil", tail=b"../..")),
    Refused(InvalidInput, "entry-name-escapes", b"../../evil"),
)
TABLE.add(
    "absolute names lie inside the image",
    members(directory(b"/srv"), file(b"/srv/abs", b"1"), file(b"//srv//double", b"2")),
    Holds({b"srv": a_directory(), b"srv/abs": a_file(b"1"), b"srv/double": a_file(b"2")}),
)


@TABLE.case("an absolute name of a file of the host lies inside the image")
def _(world):
    name = bytes(world.canary / "passwd")
    tree = {**implied(name), name.strip(b"/"): a_file(b"inside")}
    return members(file(name, b"inside")), Holds(tree)


# -- malformed

TABLE.add("an empty name", members(file(b"")), Refused(InvalidInput, "entry-name-empty", b""))
TABLE.add("an empty name of a directory", members(directory(b"")), Refused(InvalidInput, "entry-name-empty", b""))
TABLE.add(
    "a NUL in the name ends it",
    members(header(b"cut\0/../../evil")),
    Holds({b"cut": a_file()}),
)
TABLE.add(
    "a NUL in a GNU long name ends it",
    members(gnu_long(b"cut\0/../../evil"), header(b"honest")),
    Holds({b"cut": a_file()}),
)
TABLE.add(
    "a NUL in a pax path",
    members(pax((b"path", b"cut\0/../evil")), file(b"honest")),
    Refused(Integrity, "tar-header", b"PaxHeaders/x"),
)
TABLE.add(
    "a NUL in the pax target of a link",
    members(pax((b"linkpath", b"cut\0/../evil")), symlink(b"link", b"honest")),
    Refused(Integrity, "tar-header", b"PaxHeaders/x"),
)

# -- long and deep

_FULL = b"n" * 255
TABLE.add("a component of 255 bytes", members(file(_FULL, b"x")), Holds({_FULL: a_file(b"x")}))
TABLE.add(
    "a component of 256 bytes",
    members(file(b"n" * 256)),
    Refused(InvalidInput, "entry-name-long", b"n" * 256),
)
TABLE.add(
    "a component of 256 bytes in the middle",
    members(file(b"base/" + b"n" * 256 + b"/x")),
    Refused(InvalidInput, "entry-name-long", (b"base/" + b"n" * 256 + b"/x")),
)
TABLE.add(
    "a path of 5,000 bytes",
    members(file(b"/".join([b"p" * 99] * 50))),
    Refused(ResourceExhausted, "path-length", (b"p" * 99)[:80]),
)
TABLE.add(
    "a path of 5,000 bytes in a pax header",
    members(pax((b"path", b"/".join([b"p" * 99] * 50))), file(b"honest")),
    Refused(ResourceExhausted, "path-length", (b"p" * 99)[:80]),
)
TABLE.add(
    "a link target of 5,000 bytes",
    members(symlink(b"link", b"/".join([b"p" * 99] * 50))),
    Refused(ResourceExhausted, "path-length", b"link"),
)
TABLE.add(
    "directories 3,000 deep",
    members(directory(b"d/" * 3000)),
    Refused(ResourceExhausted, "path-length", (b"d/" * 40)),
)


def _doubled(depth: int) -> bytes:
    """A link to a directory ``depth`` deep, and a name of the same depth through it."""
    deep = b"/".join([b"d"] * depth)
    return tar(directory(deep), symlink(b"link", deep), file(b"link/" + deep, b"x"))


TABLE.add(
    "directories 3,000 deep by way of a link",
    layers(_doubled(1500)),
    Refused(ResourceExhausted, "entry-path-long", b"link/" + b"/".join([b"d"] * 1500)),
)
TABLE.add(
    "a name of a thousand slashes",
    members(pax((b"path", b"base" + b"/" * 1000 + b"odd")), file(b"x", b"1")),
    Holds({b"base": IMPLIED, b"base/odd": a_file(b"1")}, over={**BASE_TREE, b"base/odd": a_file(b"1")}),
)

# -- merely odd

for _title, _name in {
    "a newline": b"new\nline",
    "an escape sequence": b"\x1b[31mred\x07",
    "bytes that are no UTF-8": b"\xff\xfe\x80",
    "a backslash": b"..\\evil",
    "three dots": b"...",
    "a leading dash": b"-rf",
    "two dots and a letter": b"..a",
    "a blank": b" ",
    "a device's name": b"CON",
    "text that runs right to left": "\u202egpj.exe".encode(),
}.items():
    TABLE.add(f"a name that is {_title}", members(file(_name, b"odd")), Holds({_name: a_file(b"odd")}))
TABLE.add(
    "a name with an escape sequence in an error shows as text",
    members(file(b"\x1b[2J/../evil")),
    Refused(InvalidInput, "entry-name-escapes", b"\x1b[2J/../evil", says="\\x1b[2J"),
)
TABLE.add(
    "a file whose name ends in a slash is a directory",
    members(file(b"was-a-file/")),
    Holds({b"was-a-file": a_directory(0o644)}),
)
TABLE.add(
    "a link whose name ends in a slash is a link",
    members(symlink(b"link/", b"base")),
    Holds({b"link": a_link(b"base")}),
)
TABLE.add(
    "names that differ in their case or their normal form only",
    members(file(b"Same", b"1"), file(b"same", b"2"), file("é".encode(), b"3"), file("é".encode(), b"4")),
    Holds({
        b"Same": a_file(b"1"), b"same": a_file(b"2"), "é".encode(): a_file(b"3"), "é".encode(): a_file(b"4"),
    }),
)  # fmt: skip

# -- the root

TABLE.add(
    "the root with an owner and a mode",
    members(directory(b"./", mode=0o700, uid=12, gid=34)),
    Holds({b"": a_directory(0o700, uid=12, gid=34)}),
)
TABLE.add("the root as '/'", members(directory(b"/", mode=0o711)), Holds({b"": a_directory(0o711)}))
TABLE.add(
    "the root twice",
    members(directory(b".", mode=0o700), file(b"f"), directory(b"./", mode=0o555)),
    Holds({b"": a_directory(0o555), b"f": a_file()}),
)
TABLE.add(
    "the root with xattrs",
    members(xattrs(user__root=b"yes"), directory(b"./")),
    Holds({b"": a_directory(xattrs=(("user.root", b"yes"),))}),
)
for _title, _member in {
    "a file": file(b".", b"x"),
    "a link": symlink(b"./", b"/etc"),
    "a hard link": hardlink(b"./", b"base/file"),
    "a device": device(b"./", b"3", 1, 3),
    "a fifo": fifo(b"."),
}.items():
    _entry = b"" if _title == "a hard link" else b"." if _title in ("a file", "a fifo") else b"./"
    TABLE.add(
        f"the root as {_title}",
        members(_member),
        Refused(InvalidInput, "root-not-directory", b"/" if _title == "a hard link" else _entry),
    )
