"""What a name in a tar becomes does not depend on the names before it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from lamella.archive.tar import Member, MemberType
from lamella.errors import LamellaError
from lamella.layers.ingest import Translator
from lamella.spec.limits import DEFAULT_LIMITS

PARTS = ["a", "b", "x" * 250, "y" * 256, ".", "..", ".hidden", ".wh.a", ".wh..wh..opq", ".wh.", "", "n\0l"]
NAMES = st.builds(
    lambda start, parts, end: (start + "/".join(parts) + end).encode(),
    st.sampled_from(["", "", "/", "./", "//"]),
    st.lists(st.sampled_from(PARTS), max_size=4),
    st.sampled_from(["", "", "/"]),
)
KINDS = st.sampled_from([MemberType.REGULAR, MemberType.DIRECTORY])


def rows(translator, members):
    """The rows, and at the end what was refused."""
    found = []
    try:
        for entry in translator.entries(iter(members)):
            found.append(entry)
    except LamellaError as error:
        found.append((type(error), error.code, error.entry))
    return found


@given(st.lists(st.tuples(NAMES, KINDS), max_size=12))
@example([(b"usr/bin/a", MemberType.REGULAR), (b"usr/bin/..", MemberType.REGULAR)])
@example([(b"a//b", MemberType.REGULAR), (b"a//c", MemberType.REGULAR), (b"a/d", MemberType.REGULAR)])
@example([(b"/a", MemberType.REGULAR), (b"b", MemberType.REGULAR), (b"./c", MemberType.REGULAR)])
@example([(b".wh.d/a", MemberType.REGULAR), (b".wh.d/b", MemberType.REGULAR)])
@example([(b"d/a", MemberType.REGULAR), (b"d/.wh.b", MemberType.REGULAR), (b"d/c", MemberType.REGULAR)])
def test_names_beside_each_other_are_read_as_each_alone(given_members):
    members = [Member(name, kind) for name, kind in given_members]
    together = rows(Translator(DEFAULT_LIMITS), members)
    alone = []
    for member in members:
        alone += rows(Translator(DEFAULT_LIMITS), [member])
        if alone and isinstance(alone[-1], tuple):
            break
    assert together == alone
