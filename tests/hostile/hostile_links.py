"""Links: out of the image, in circles, in chains, across layers; what is written, linked and changed through them."""

from __future__ import annotations

from build import directory, file, hardlink, pax, symlink, tar, xattrs
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
    together,
)

from lamella.errors import InvalidInput, ResourceExhausted

TABLE = Table()
UP = b"../" * 40


# -- symbolic links that lead out, and what is written through them


@TABLE.case("a file written through an absolute link out, in one layer")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_link(out), **implied(out), out[1:] + b"/passwd": a_file(b"evil")}
    return members(symlink(b"d", out), file(b"d/passwd", b"evil")), Holds(tree)


@TABLE.case("a file written through a relative link out, in one layer")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_link(UP + out), **implied(out), out[1:] + b"/new": a_file(b"evil")}
    return members(symlink(b"d", UP + out), file(b"d/new", b"evil")), Holds(tree)


@TABLE.case("a file written through a link that the layer below has put there")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_link(out), **implied(out), out[1:] + b"/passwd": a_file(b"evil")}
    return layers(tar(symlink(b"d", out)), tar(file(b"d/passwd", b"evil"))), Holds(tree)


@TABLE.case("a file written through a link two layers below, over a directory between")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_directory(), b"d/passwd": a_file(b"inside")}
    three = (tar(symlink(b"d", out)), tar(directory(b"d")), tar(file(b"d/passwd", b"inside")))
    return layers(*three), Holds(tree)


@TABLE.case("a file written through a chain of links out, one a layer")
def _(world):
    out = bytes(world.canary / "dir")
    tree = {
        b"a": a_link(b"b"), b"b": a_link(b"/c"), b"c": a_link(out + b"/.."), **implied(bytes(world.canary)),
        bytes(world.canary)[1:] + b"/inner/evil": a_file(b"1"), bytes(world.canary)[1:] + b"/inner": IMPLIED,
    }  # fmt: skip
    # A step that is not there is made: "dir" of "dir/.." too.
    tree |= {bytes(world.canary)[1:] + b"/dir": IMPLIED}
    chain = [tar(symlink(b"a", b"b")), tar(symlink(b"b", b"/c")), tar(symlink(b"c", out + b"/.."))]
    return layers(*chain, tar(file(b"a/inner/evil", b"1"))), Holds(tree)


@TABLE.case("a directory made and dressed through a link out")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_link(out), **implied(out), out[1:] + b"/dir": a_directory(0o777, uid=1000, gid=1000)}
    return members(symlink(b"d", out), directory(b"d/dir", mode=0o777, uid=1000, gid=1000)), Holds(tree)


@TABLE.case("a file whose parents lead out and back again")
def _(world):
    tree = {b"d": a_link(b"/.."), b"e": a_link(b"d/../../base"), b"base": IMPLIED, b"base/x": a_file(b"1")}
    over = {**BASE_TREE, **tree, b"base": BASE_TREE[b"base"]}
    return members(symlink(b"d", b"/.."), symlink(b"e", b"d/../../base"), file(b"e/x", b"1")), Holds(tree, over)


TABLE.add(
    "a link to /proc/self/root and a file through it",
    members(symlink(b"d", b"/proc/self/root"), file(b"d/tmp/evil", b"1")),
    Holds({
        b"d": a_link(b"/proc/self/root"), **implied(b"proc/self/root/tmp"), b"proc/self/root/tmp/evil": a_file(b"1"),
    }),
)  # fmt: skip
TABLE.add(
    "a link to a descriptor of the process and a file through it",
    members(symlink(b"d", b"/proc/self/fd/0"), file(b"d/evil", b"1")),
    Holds({b"d": a_link(b"/proc/self/fd/0"), **implied(b"proc/self/fd/0"), b"proc/self/fd/0/evil": a_file(b"1")}),
)
TABLE.add(
    "a dangling link as a parent makes its target inside",
    members(symlink(b"d", b"nowhere/at/all"), file(b"d/x", b"1")),
    Holds({b"d": a_link(b"nowhere/at/all"), **implied(b"nowhere/at/all"), b"nowhere/at/all/x": a_file(b"1")}),
)
TABLE.add(
    "a link to a file as a parent",
    members(file(b"plain"), symlink(b"d", b"plain"), file(b"d/x")),
    Refused(InvalidInput, "entry-parent-not-directory", b"d/x"),
)
TABLE.add(
    "a file as a parent",
    members(file(b"plain"), file(b"plain/x")),
    Refused(InvalidInput, "entry-parent-not-directory", b"plain/x"),
)
TABLE.add(
    "a file of a lower layer as a parent",
    layers(tar(file(b"plain")), tar(file(b"plain/x"))),
    Refused(InvalidInput, "entry-parent-not-directory", b"plain/x"),
)
TABLE.add(
    "a link to nothing (an empty target)",
    members(symlink(b"d", b""), file(b"x")),
    Refused(InvalidInput, "link-target-empty", b"d"),
)

# -- circles and chains

TABLE.add(
    "a circle of two links as a parent",
    members(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x")),
    Refused(InvalidInput, "link-loop", b"a/x"),
)
TABLE.add(
    "a link to itself as a parent",
    members(symlink(b"a", b"a"), file(b"a/x")),
    Refused(InvalidInput, "link-loop", b"a/x"),
)
TABLE.add(
    "a link that grows with each turn as a parent",
    members(symlink(b"a", b"a/a/a"), file(b"a/x")),
    Refused(InvalidInput, "link-loop", b"a/x"),
)
TABLE.add(
    "a circle that a higher layer closes",
    layers(tar(symlink(b"a", b"b"), directory(b"b")), tar(symlink(b"b", b"a"), file(b"a/x"))),
    Refused(InvalidInput, "link-loop", b"a/x"),
)
TABLE.add(
    "a circle that nothing goes through",
    members(symlink(b"a", b"b"), symlink(b"b", b"a")),
    Holds({b"a": a_link(b"b"), b"b": a_link(b"a")}),
)


def _chain(length: int) -> list[bytes]:
    return [symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(length)]


TABLE.add(
    "a chain of 40 links",
    members(*_chain(40), directory(b"l40"), file(b"l0/x", b"1")),
    Holds({
        **{b"l%d" % i: a_link(b"l%d" % (i + 1)) for i in range(40)}, b"l40": a_directory(), b"l40/x": a_file(b"1"),
    }),
)  # fmt: skip
TABLE.add(
    "a chain of 41 links",
    members(*_chain(41), directory(b"l41"), file(b"l0/x", b"1")),
    Refused(InvalidInput, "link-loop", b"l0/x"),
)
_TURNS = b"a/../" * 818
TABLE.add(
    "links of four kilobytes each, before each of a few hundred files",
    members(
        directory(b"a"),
        *(symlink(b"l%d" % i, _TURNS + b"l%d" % (i + 1)) for i in range(39)),
        symlink(b"l39", _TURNS + b"a"),
        *(part for i in range(300) for part in (file(b"l0/%d" % i), file(b"l1/y%d" % i))),
    ),
    Refused(ResourceExhausted, "link-steps", b"l0/1"),
)

# -- links replaced


@TABLE.case("a file in place of a link of the same name")
def _(world):
    out = bytes(world.canary / "passwd")
    return members(symlink(b"f", out), file(b"f", b"mine")), Holds({b"f": a_file(b"mine")})


@TABLE.case("a file in place of a link of a lower layer")
def _(world):
    out = bytes(world.canary / "passwd")
    return layers(tar(symlink(b"f", out)), tar(file(b"f", b"mine"))), Holds({b"f": a_file(b"mine")})


@TABLE.case("a file in place of a dangling link")
def _(world):
    out = bytes(world.canary / "new")
    return members(symlink(b"f", out), file(b"f", b"mine", mode=0o4755)), Holds({b"f": a_file(b"mine", 0o4755)})


@TABLE.case("a directory in place of a link")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_directory(0o700), b"d/passwd": a_file(b"mine")}
    return members(symlink(b"d", out), directory(b"d", mode=0o700), file(b"d/passwd", b"mine")), Holds(tree)


@TABLE.case("a directory in place of a link of a lower layer, written with a dot")
def _(world):
    out = bytes(world.canary)
    upper = tar(directory(b"d/.", mode=0o777), file(b"d/./passwd", b"mine"))
    return layers(tar(symlink(b"d", out)), upper), Holds({b"d": a_directory(0o777), b"d/passwd": a_file(b"mine")})


@TABLE.case("a link in place of a directory, and a file through it")
def _(world):
    out = bytes(world.canary)
    tree = {b"d": a_link(out), **implied(out), out[1:] + b"/passwd": a_file(b"mine")}
    lower = tar(directory(b"d"), file(b"d/gone", b"1"))
    return layers(lower, tar(symlink(b"d", out), file(b"d/passwd", b"mine"))), Holds(tree)


TABLE.add(
    "a link that is turned elsewhere between two files below it",
    members(
        directory(b"c/b"), directory(b"d/b"), symlink(b"a", b"c"), file(b"a/b/x", b"1"), symlink(b"a", b"d"),
        file(b"a/b/y", b"2"),
    ),
    Holds({
        b"c": IMPLIED, b"c/b": a_directory(), b"d": IMPLIED, b"d/b": a_directory(), b"a": a_link(b"d"),
        b"c/b/x": a_file(b"1"), b"d/b/y": a_file(b"2"),
    }),
)  # fmt: skip
TABLE.add(
    "a linked parent that becomes a file between two files below it",
    members(directory(b"c/b"), symlink(b"a", b"c"), file(b"a/b/x"), file(b"c/b"), file(b"a/b/y")),
    Refused(InvalidInput, "entry-parent-not-directory", b"a/b/y"),
)
TABLE.add(
    "a name that is everything in turn",
    members(
        file(b"n", b"1"), directory(b"n"), file(b"n/x"), symlink(b"n", b"base"), hardlink(b"m", b"n"), file(b"n", b"2"),
        directory(b"n", mode=0o711), file(b"n/y", b"3"),
    ),
    Holds({b"n": a_directory(0o711), b"n/y": a_file(b"3"), b"m": a_link(b"base")}),
)  # fmt: skip

# -- metadata through links


@TABLE.case("owner, mode, times and xattrs of a link to a file of the host stay the link's")
def _(world):
    out = bytes(world.canary / "secret")
    link = symlink(b"f", out, mode=0o4777, uid=1000, gid=1000, mtime=5)
    tree = {b"f": a_link(out, uid=1000, gid=1000, mtime=5, xattrs=(("trusted.mine", b"1"),))}
    return members(xattrs(trusted__mine=b"1"), link), Holds(tree)


@TABLE.case("metadata for what is reached through a link only")
def _(world):
    out = bytes(world.canary)
    inside = out[1:] + b"/dir"
    tree = {b"d": a_link(out), **implied(out), inside: a_directory(0o1777, xattrs=(("user.x", b"y"),))}
    parts = (symlink(b"d", out), xattrs(user__x=b"y"), directory(b"d/dir/", mode=0o1777))
    return members(*parts), Holds(tree)


@TABLE.case("a hard link with a mode and an owner, to a link out")
def _(world):
    out = bytes(world.canary / "secret")
    tree = together(b"h", b"s", leaf=a_link(out))
    return members(symlink(b"s", out), hardlink(b"h", b"s", mode=0o4777, uid=77)), Holds(tree)


# -- hard links


@TABLE.case("a hard link that climbs out")
def _(world):
    return members(hardlink(b"h", UP + bytes(world.canary)[1:] + b"/secret")), Refused(
        InvalidInput, "entry-name-escapes", b"h", says="hard link"
    )


@TABLE.case("a hard link to an absolute path of the host")
def _(world):
    return members(hardlink(b"h", bytes(world.canary / "secret"))), Refused(
        InvalidInput, "hardlink-target-missing", b"h", says="secret"
    )


@TABLE.case("a hard link through a link out")
def _(world):
    return members(symlink(b"d", bytes(world.canary)), hardlink(b"h", b"d/secret")), Refused(
        InvalidInput, "hardlink-target-missing", b"h"
    )


@TABLE.case("a hard link through a link of a lower layer out")
def _(world):
    return layers(tar(symlink(b"d", bytes(world.canary))), tar(hardlink(b"h", b"d/secret"))), Refused(
        InvalidInput, "hardlink-target-missing", b"h"
    )


@TABLE.case("a hard link to a file that was written through a link out, one layer up")
def _(world):
    out = bytes(world.canary)
    inside = out[1:] + b"/passwd"
    tree = {b"d": a_link(out), **implied(out), **together(b"h", inside, leaf=a_file(b"inside"))}
    return layers(tar(symlink(b"d", out), file(b"d/passwd", b"inside")), tar(hardlink(b"h", b"d/passwd"))), Holds(tree)


@TABLE.case("a hard link made through a link out")
def _(world):
    out = bytes(world.canary)
    inside = out[1:] + b"/secret"
    tree = {b"d": a_link(out), **implied(out), **together(b"f", inside, leaf=a_file(b"x"))}
    return members(symlink(b"d", out), file(b"f", b"x"), hardlink(b"d/secret", b"f")), Holds(tree)


TABLE.add(
    "an absolute hard link inside the image",
    members(file(b"f", b"x"), hardlink(b"h", b"/f")),
    Holds(together(b"f", b"h", leaf=a_file(b"x"))),
)
TABLE.add(
    "a hard link to nothing",
    members(hardlink(b"h", b"nothing")),
    Refused(InvalidInput, "hardlink-target-missing", b"h", says="nothing"),
)
TABLE.add(
    "a hard link without a target",
    members(hardlink(b"h", b"")),
    Refused(InvalidInput, "entry-name-empty", b"h"),
)
TABLE.add(
    "a hard link to what comes after it",
    members(hardlink(b"h", b"later"), file(b"later")),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)
TABLE.add("a hard link to itself", members(hardlink(b"h", b"./h")), Refused(InvalidInput, "hardlink-to-itself", b"h"))
TABLE.add(
    "a hard link to itself by way of a link",
    members(symlink(b"here", b"."), hardlink(b"h", b"here/h")),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)
TABLE.add(
    "a hard link to a file of its own name by way of a link",
    members(file(b"h", b"x"), symlink(b"here", b"."), hardlink(b"h", b"here/h")),
    Holds({b"h": a_file(b"x"), b"here": a_link(b".")}),
)
TABLE.add(
    "a hard link to a directory",
    members(directory(b"d"), hardlink(b"h", b"d")),
    Refused(InvalidInput, "hardlink-to-directory", b"h"),
)
TABLE.add(
    "a hard link to a directory of a lower layer",
    layers(tar(directory(b"d")), tar(hardlink(b"h", b"d/"))),
    Refused(InvalidInput, "hardlink-to-directory", b"h"),
)
TABLE.add(
    "a hard link to the root", members(hardlink(b"h", b"/")), Refused(InvalidInput, "hardlink-to-directory", b"h")
)
TABLE.add(
    "a hard link to a file as if it were a directory",
    members(file(b"f"), hardlink(b"h", b"f/x")),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)
TABLE.add(
    "hard links of hard links",
    members(file(b"f", b"x"), hardlink(b"g", b"f"), hardlink(b"h", b"g"), hardlink(b"f", b"h")),
    Holds(together(b"f", b"g", b"h", leaf=a_file(b"x"))),
)
TABLE.add(
    "a hard link in place of a directory",
    members(file(b"f", b"x"), directory(b"d"), file(b"d/inner"), hardlink(b"d", b"f")),
    Holds(together(b"d", b"f", leaf=a_file(b"x"))),
)
TABLE.add(
    "a hard link that pretends to carry data",
    members(file(b"f", b"x"), hardlink(b"h", b"f", size=4096), file(b"g", b"y")),
    Holds({**together(b"f", b"h", leaf=a_file(b"x")), b"g": a_file(b"y")}),
)
TABLE.add(
    "a hard link that pretends by pax to carry data",
    members(file(b"f", b"x"), pax((b"size", b"512")), hardlink(b"h", b"f"), file(b"g", b"y")),
    Holds({**together(b"f", b"h", leaf=a_file(b"x")), b"g": a_file(b"y")}),
)
TABLE.add(
    "a hard link to a name that its own layer replaced since",
    layers(
        tar(file(b"f", b"first"), hardlink(b"k", b"f"), file(b"f", b"second")), tar(hardlink(b"x", b"k")),
    ),
    Holds({**together(b"k", b"x", leaf=a_file(b"first")), b"f": a_file(b"second")}),
)  # fmt: skip
TABLE.add(
    "a hard link to a name that a layer between replaced",
    layers(tar(file(b"f", b"first"), hardlink(b"k", b"f")), tar(file(b"f", b"second")), tar(hardlink(b"x", b"k"))),
    Holds({**together(b"k", b"x", leaf=a_file(b"first")), b"f": a_file(b"second")}),
)
TABLE.add(
    "a hard link to a name that a layer between took away",
    layers(tar(file(b"f", b"x")), tar(file(b".wh.f")), tar(hardlink(b"h", b"f"))),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)
TABLE.add(
    "a hard link to a name that its own layer takes away",
    layers(tar(file(b"f", b"x")), tar(hardlink(b"h", b"f"), file(b".wh.f"))),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)
TABLE.add(
    "hard links across three layers, the first name taken away",
    layers(tar(file(b"f", b"x")), tar(hardlink(b"g", b"f")), tar(file(b".wh.f"), hardlink(b"h", b"g"))),
    Holds(together(b"g", b"h", leaf=a_file(b"x"))),
)
TABLE.add(
    "a hard link to a link of a lower layer that leads out",
    layers(tar(symlink(b"s", b"/etc/passwd")), tar(hardlink(b"h", b"s"))),
    Holds(together(b"h", b"s", leaf=a_link(b"/etc/passwd"))),
)
TABLE.add(
    "a hard link to a whiteout",
    layers(tar(file(b"f")), tar(file(b".wh.f"), hardlink(b"h", b".wh.f"))),
    Refused(InvalidInput, "hardlink-target-missing", b"h"),
)
