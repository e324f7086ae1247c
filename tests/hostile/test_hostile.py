"""Every hostile input, through the real product: the right outcome, and nothing harmed, leaked or left behind.

Each case of the tables is given to the store in every way that fits it: imported, loaded, read without mounting,
extracted and mounted by each driver, committed on. The state of the host and of the store is compared before and after.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hostile_archives
import hostile_devices
import hostile_documents
import hostile_layouts
import hostile_links
import hostile_names
import hostile_tars
import hostile_whiteouts
import hostile_words
import pytest
from hostile_case import ANY, NAME, Attempt, Case, Holds, Outcome, Refused, Tree, Unmountable
from hostile_world import World, a_place

from lamella import LamellaError
from lamella.errors import printable
from lamella.mounts import mount as mounting
from support import trees
from support.noted import Noted

_TABLES = (
    hostile_names, hostile_links, hostile_whiteouts, hostile_devices, hostile_tars, hostile_documents, hostile_layouts,
    hostile_archives, hostile_words,
)  # fmt: skip
_CASES = [case for module in _TABLES for case in module.TABLE.cases]
_ROOT = os.geteuid() == 0
_LARGE = 1 << 30


@pytest.fixture(scope="module")
def world(real_disk: Path) -> Iterator[World]:
    with a_place(real_disk) as place:
        found = World(place)
        yield found
        found.close()


@pytest.mark.parametrize("case", _CASES, ids=[case.name for case in _CASES])
def test_a_hostile_input_has_its_one_right_outcome_and_harms_nothing(case: Case, world: World) -> None:
    what, outcome = case.build(world)
    with world.unharmed(), world.scratch() as scratch:
        for attempt in what.attempts(world, scratch, outcome):
            try:
                _judge(world, attempt, outcome)
            except BaseException:
                world.clear()
                raise


def test_the_tables_are_large_and_every_case_has_a_name_of_its_own() -> None:
    assert len(_CASES) >= 80
    assert len({case.name for case in _CASES}) == len(_CASES)


def _judge(world: World, attempt: Attempt, outcome: Outcome) -> None:
    notes = Noted()
    if isinstance(outcome, Refused):
        with pytest.raises(LamellaError) as caught, _no_large_file():
            attempt.run(notes)
        _check_error(caught.value, outcome, attempt)
        return
    with _no_large_file():
        attempt.run(notes)
    if isinstance(outcome, Unmountable):
        _check_unmountable(world, outcome)
    elif isinstance(outcome, Holds):
        _check_tree(world, attempt, outcome, notes)
    world.clear()


@contextmanager
def _no_large_file() -> Iterator[None]:
    """What would fill the disk, or the memory that stands in for one, fails with EFBIG and another error than expected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _check_error(error: LamellaError, outcome: Refused | Unmountable, attempt: Attempt) -> None:
    text = str(error)
    assert (type(error), error.code) == (outcome.kind, outcome.code), text
    assert outcome.entry in (ANY, error.entry), text
    if error.entry is not None:
        assert printable(error.entry) in text
    assert text.isprintable()
    if isinstance(outcome, Refused):
        assert outcome.says in text
        if attempt.layers:
            wanted = attempt.layers[-1 if outcome.layer is None else outcome.layer]
            assert error.layer in wanted, (error.layer, text)
            assert error.layer in text


def _check_unmountable(world: World, outcome: Unmountable) -> None:
    for driver in _drivers(world):
        with pytest.raises(LamellaError) as caught:
            world.store.prepare(NAME, "hostile", driver=driver)
        _check_error(caught.value, outcome, Attempt("prepare", lambda _notes: None))
        assert not world.store.snapshots()


def _drivers(world: World) -> list[str]:
    """Those that show every owner, as far as they work here; ``LAMELLA_TEST_DRIVERS`` names others."""
    wanted = os.environ.get("LAMELLA_TEST_DRIVERS", "overlay,copy,erofs" if _ROOT else "copy").split(",")
    return [name for name in wanted if mounting.driver(name).probe(world.place).ok]


def _check_tree(world: World, attempt: Attempt, outcome: Holds, notes: Noted) -> None:
    image = world.store.image(NAME)
    trees.assert_same(attempt.tree, trees.read_view(image))
    drivers = _drivers(world) if outcome.mounts else []
    # Alone or on top of something, a layer is written by the same code: what is imported is mounted in one way only.
    for driver in drivers[:1] if attempt.what == "import" else drivers:
        snapshot = world.store.prepare(image, f"hostile-{driver}", driver=driver, progress=notes)
        with snapshot.mount() as root:
            shown = _as_shown(attempt.tree, outcome, driver)
            trees.assert_same(*_comparable(shown, trees.read_directory(root)))
            lost = set(outcome.shown) if driver == "copy" else set()
            assert not {change.path for change in snapshot.changes()} - lost
            (root / "zz-new").write_bytes(b"new")
            with suppress(FileNotFoundError):
                (root / "base" / "file").chmod(0o600)
        _check_commit(world, attempt, outcome, driver)
        world.remove(snapshot)
    for text in outcome.notes:
        assert any(text in note for note in notes.notes), notes.notes
    assert all(note.isprintable() for note in notes.notes)


def _check_commit(world: World, attempt: Attempt, outcome: Holds, driver: str) -> None:
    """The child has the change, and everything else as it was."""
    child = world.store.snapshot(f"hostile-{driver}").commit(f"{NAME}-child:{driver}")
    changed = [str(change) for change in child.changes()]
    lost = [f"C /{path.decode()}" for path in sorted(outcome.shown)]
    changed = [text for text in changed if text not in lost]
    modified = ["C /base/file"] if attempt.tree.get(b"base/file", trees.Leaf("", 0, 0, 0, 0)).kind == "file" else []
    assert changed == [*modified, "A /zz-new"]
    assert child.open("zz-new").read() == b"new"
    found = trees.read_view(child)
    del found[b"zz-new"]
    paths = {b"", b"base", b"base/file", *outcome.shown}
    trees.assert_same(
        trees.without(attempt.tree, "mode", "mtime", "group", "xattrs", at=paths & attempt.tree.keys()),
        trees.without(found, "mode", "mtime", "group", "xattrs", at=paths & found.keys()),
    )


def _as_shown(tree: Tree, outcome: Holds, driver: str) -> Tree:
    hidden = frozenset() if driver == "copy" else outcome.hidden
    return {path: outcome.shown.get(path, leaf) for path, leaf in tree.items() if path not in hidden}


def _comparable(left: Tree, right: Tree) -> tuple[Tree, Tree]:
    """Without root nobody's owner can be kept, nor a device made: only what is left to compare."""
    if _ROOT:
        return left, right
    blank = ("mode", "uid", "gid", "device", "xattrs")
    both = []
    for tree in (left, right):
        kept = {path: leaf for path, leaf in tree.items() if leaf.kind not in ("char", "block")}
        both.append(trees.without(kept, *blank))
    return both[0], both[1]
