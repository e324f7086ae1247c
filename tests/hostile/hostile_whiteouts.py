"""Whiteouts: of places outside, of nothing, by the hundred thousand, through links, and beside what they delete."""

from __future__ import annotations

from build import device, directory, file, hardlink, many, symlink, tar
from hostile_case import (
    IMPLIED,
    Holds,
    Layers,
    Refused,
    Table,
    a_directory,
    a_file,
    a_link,
    implied,
    layers,
    members,
)

from lamella.errors import InvalidInput

TABLE = Table()
OPAQUE = b".wh..wh..opq"

for _name in (b".wh...", b".wh..", b".wh.", b"base/.wh...", b"base/.wh..", b"base/.wh."):
    TABLE.add(
        f"a whiteout called {_name.decode()}",
        members(file(_name)),
        Refused(InvalidInput, "whiteout-name", _name),
    )
TABLE.add(
    "a whiteout that climbs out",
    members(file(b"../.wh.passwd")),
    Refused(InvalidInput, "entry-name-escapes", b"../.wh.passwd"),
)
TABLE.add(
    "a whiteout with a slash hidden in it is in a directory of that name",
    members(file(b".wh.base/../../etc")),
    Refused(InvalidInput, "entry-name-escapes", b".wh.base/../../etc"),
)
TABLE.add("whiteouts of nothing", members(file(b".wh.nothing"), file(b"no/such/.wh.place")), Holds({}))
TABLE.add(
    "200,000 whiteouts of nothing",
    Layers((tar(directory(b"d")), many(b"d/.wh.%06d", 200_000))),
    Holds({b"d": a_directory()}, mounts=False),
)
TABLE.add(
    "whiteouts of nothing, 20,000 directories of them",
    Layers((tar(directory(b"d")), many(b"%06d/.wh.x", 20_000))),
    Holds({b"d": a_directory()}, mounts=False),
)
TABLE.add(
    "the same whiteout a thousand times",
    layers(tar(file(b"f"), file(b"g")), tar(*[file(b".wh.f")] * 1000)),
    Holds({b"g": a_file()}),
)
TABLE.add(
    "a whiteout and what it deletes in one layer",
    layers(tar(file(b"f", b"old"), directory(b"d"), file(b"d/old")),
           tar(file(b"f", b"new"), file(b".wh.f"), directory(b"d"), file(b"d/new"), file(b".wh.d"))),
    Holds({b"f": a_file(b"new"), b"d": a_directory(), b"d/new": a_file()}),
)  # fmt: skip
TABLE.add(
    "a whiteout of what only its own layer has",
    members(file(b"f", b"new"), file(b".wh.f")),
    Holds({b"f": a_file(b"new")}),
)
TABLE.add(
    "a whiteout of a directory deletes all of it, and what comes back is new",
    layers(
        tar(directory(b"d", mode=0o700), file(b"d/a"), directory(b"d/b"), file(b"d/b/c")), tar(file(b".wh.d")),
        tar(file(b"d/new", b"1")),
    ),
    Holds({b"d": IMPLIED, b"d/new": a_file(b"1")}),
)  # fmt: skip
TABLE.add(
    "a whiteout of the directory that the next whiteout is in",
    layers(tar(directory(b"d"), file(b"d/f")), tar(file(b".wh.d"), file(b"d/.wh.f"))),
    Holds({}),
)
TABLE.add(
    "a file below the whiteout of its directory",
    layers(tar(directory(b"d"), file(b"d/old")), tar(file(b".wh.d"), file(b"d/new", b"1"))),
    Holds({b"d": IMPLIED, b"d/new": a_file(b"1")}),
)

# -- opaque

TABLE.add(
    "opaque at the root",
    members(file(b"f", b"1"), file(OPAQUE)),
    Holds({b"f": a_file(b"1")}, over={b"": IMPLIED, b"f": a_file(b"1")}),
)
TABLE.add(
    "opaque of a directory that is not there",
    members(file(b"no/such/" + OPAQUE)),
    Holds({}),
)
TABLE.add(
    "opaque of a file",
    layers(tar(file(b"f", b"1")), tar(file(b"f/" + OPAQUE))),
    Holds({b"f": a_file(b"1")}),
)
TABLE.add(
    "opaque at the end of the stream",
    layers(tar(directory(b"d"), file(b"d/old")), tar(directory(b"d"), file(b"d/new", b"1"), file(b"d/" + OPAQUE))),
    Holds({b"d": a_directory(), b"d/new": a_file(b"1")}),
)
TABLE.add(
    "opaque and a whiteout in it and the file itself",
    layers(tar(directory(b"d"), file(b"d/f", b"1")), tar(file(b"d/" + OPAQUE), file(b"d/.wh.f"), file(b"d/f", b"2"))),
    Holds({b"d": a_directory(), b"d/f": a_file(b"2")}),
)
TABLE.add(
    "an opaque directory over a file",
    layers(tar(file(b"d", b"1")), tar(directory(b"d"), file(b"d/" + OPAQUE), file(b"d/f", b"2"))),
    Holds({b"d": a_directory(), b"d/f": a_file(b"2")}),
)

# -- through links


@TABLE.case("a whiteout through a link out deletes inside the image only")
def _(world):
    out = bytes(world.canary)
    lower = tar(symlink(b"d", out), file(out[1:] + b"/passwd", b"inside"), file(out[1:] + b"/kept", b"1"))
    tree = {b"d": a_link(out), **implied(out), out[1:] + b"/kept": a_file(b"1")}
    return layers(lower, tar(file(b"d/.wh.passwd"))), Holds(tree)


@TABLE.case("a whiteout through a link to nothing but the host")
def _(world):
    out = bytes(world.canary)
    return layers(tar(symlink(b"d", out)), tar(file(b"d/.wh.passwd"))), Holds({b"d": a_link(out)})


@TABLE.case("opaque through a link out")
def _(world):
    out = bytes(world.canary)
    lower = tar(symlink(b"d", out), file(out[1:] + b"/passwd", b"inside"))
    return layers(lower, tar(file(b"d/" + OPAQUE))), Holds({b"d": a_link(out), **implied(out)})


@TABLE.case("a whiteout of a link out deletes the link")
def _(world):
    return layers(tar(symlink(b"d", bytes(world.canary)), file(b"f")), tar(file(b".wh.d"))), Holds({b"f": a_file()})


TABLE.add(
    "a whiteout below a circle of links",
    layers(tar(symlink(b"a", b"b"), symlink(b"b", b"a")), tar(file(b"a/.wh.x"))),
    Refused(InvalidInput, "link-loop", b"a"),
)
TABLE.add(
    "a whiteout below a link that its own layer replaces with a directory",
    layers(tar(directory(b"e"), file(b"e/f"), symlink(b"d", b"e")), tar(directory(b"d"), file(b"d/.wh.f"))),
    Holds({b"e": a_directory(), b"e/f": a_file(), b"d": a_directory()}),
)

# -- whiteouts that are no plain files

TABLE.add(
    "whiteouts that are a directory, a link, a device, a hard link",
    layers(
        tar(*(file(name) for name in (b"a", b"b", b"c", b"d", b"e"))),
        tar(
            directory(b".wh.a"), symlink(b".wh.b", b"/etc/passwd"), device(b".wh.c", b"3", 1, 3), file(b".wh..wh.aufs"),
            hardlink(b".wh.d", b".wh..wh.aufs"),
        ),
    ),
    Holds({b"e": a_file()}),
)  # fmt: skip
TABLE.add(
    "a whiteout that carries data",
    layers(tar(file(b"f"), file(b"g")), tar(file(b".wh.f", b"x" * 5000), file(b"h", b"1"))),
    Holds({b"g": a_file(), b"h": a_file(b"1")}),
)
TABLE.add(
    "files in a directory with the name of a whiteout are not shown",
    members(file(b".wh.d/inner", b"1"), file(b".wh..wh.orph/x"), file(b"f")),
    Holds({b"f": a_file()}),
)
TABLE.add(
    "unknown names of AUFS are not shown",
    members(file(b".wh..wh.foo"), file(b"base/.wh..wh.bar"), directory(b".wh..wh.baz"), file(b"f")),
    Holds({b"f": a_file()}),
)
TABLE.add(
    "names that only look like whiteouts",
    members(file(b"a.wh.b", b"1"), file(b".wh", b"2"), file(b".whx", b"3")),
    Holds({b"a.wh.b": a_file(b"1"), b".wh": a_file(b"2"), b".whx": a_file(b"3")}),
)
TABLE.add(
    "a hard link to a pseudo-link of AUFS that is not there",
    members(hardlink(b"h", b".wh..wh.plnk/12.34")),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)


@TABLE.case("a pseudo-link of AUFS that is a link out")
def _(world):
    out = bytes(world.canary / "secret")
    return members(symlink(b".wh..wh.plnk/12.34", out), hardlink(b"h", b".wh..wh.plnk/12.34")), Refused(
        InvalidInput, "hardlink-target-missing", b"h"
    )


TABLE.add(
    "a pseudo-link of AUFS that climbs out",
    members(hardlink(b".wh..wh.plnk/12.34", b"../../etc/passwd")),
    Refused(InvalidInput, "entry-name-escapes", b"12.34"),
)
TABLE.add(
    "1,000 pseudo-links of AUFS over 1,000 files",
    layers(
        tar(*(file(b"f%d" % i, b"old") for i in range(1_000))),
        tar(*(part for i in range(1_000) for part in (
            file(b"f%d" % i, b"new"), hardlink(b".wh..wh.plnk/%d.1" % i, b"f%d" % i),
        ))),
    ),
    Holds({b"f%d" % i: a_file(b"new") for i in range(1_000)}),
)  # fmt: skip
