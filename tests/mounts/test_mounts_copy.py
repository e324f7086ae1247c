from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from _machine import needs_root, needs_tool, run_as_nobody
from lamella import errors
from lamella.mounts import mount as mounts
from lamella.mounts.copy import CopyDriver
from lamella.mounts.model import Form, Mount


@pytest.fixture
def tree(place):
    (place / "tree").mkdir()
    (place / "tree").chmod(0o777)
    (place / "tree" / "file").write_text("file")
    (place / "target").mkdir()
    return place / "tree"


@needs_root
def test_root_gets_the_tree_at_the_target(place, tree):
    mounted = mounts.perform(Mount("copy", (), tree), place / "target")
    assert mounted.root == place / "target"
    (mounted.root / "new").write_text("new")
    assert mounts.is_mounted(mounted)
    assert mounts.upper_in_use(tree) == place / "target"
    assert mounts.live_mount(tree) == mounted
    (place / "other").mkdir()
    with pytest.raises(errors.FailedPrecondition) as caught:
        mounts.perform(Mount("copy", (), tree), place / "other")
    assert caught.value.code == "snapshot-mounted"
    mounts.unmount(mounted)
    mounts.unmount(mounted)
    assert not mounts.is_mounted(mounted)
    assert os.listdir(place / "target") == []
    assert (tree / "new").read_text() == "new"


@needs_root
def test_read_only_for_root(place, tree):
    mounted = mounts.perform(Mount("copy", (tree,)), place / "target")
    assert (mounted.root / "file").read_text() == "file"
    with pytest.raises(OSError, match="Read-only file system"):
        (mounted.root / "new").write_text("new")
    assert mounts.upper_in_use(tree) is None
    mounts.unmount(mounted)
    assert not mounts.is_mounted(mounted)


@needs_root
def test_read_only_keeps_what_the_file_system_was_restricted_to(place, tree):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec,noatime", "tmpfs", tree], check=True)
    try:
        (tree / "sub").mkdir()
        mounted = mounts.perform(Mount("copy", (tree / "sub",)), place / "target")
        flags = os.statvfs(mounted.root).f_flag
        assert flags & os.ST_RDONLY
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOEXEC
        mounts.unmount(mounted)
    finally:
        subprocess.run(["umount", tree], check=True)


@needs_root
def test_a_target_that_is_the_tree_itself(tree):
    mounted = mounts.perform(Mount("copy", (), tree), tree)
    assert mounts.is_mounted(mounted)
    assert (mounted.root / "file").read_text() == "file"
    mounts.unmount(mounted)
    assert not mounts.is_mounted(mounted)
    assert (tree / "file").exists()


@needs_root
@needs_tool("strace")
def test_a_bind_that_cannot_be_made_read_only_is_undone(place, tree):
    code = "import sys; from pathlib import Path; from lamella.mounts.mount import *; p = Path(sys.argv[1]);"
    code += "perform(Mount('copy', (p / 'tree',)), p / 'target')"
    fault = "inject=mount:error=EIO:when=2"
    command = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=mount", "-e", fault, sys.executable, "-c", code, place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "lamella.errors.Unavailable: " in done.stderr
    assert os.listdir(place / "target") == []


def test_others_get_the_tree_where_it_is(place, tree):
    def scenario():
        mounted = mounts.perform(Mount("copy", (), tree), place / "target")
        assert mounted.root == tree
        (mounted.root / "new").write_text("new")
        assert mounts.is_mounted(mounted)
        assert not mounts.is_mounted(replace(mounted, boot_id="another"))
        assert mounts.upper_in_use(tree) is None
        mounts.unmount(mounted)
        view = mounts.perform(Mount("copy", (tree,)), place / "target")
        assert view.root == tree
        mounts.unmount(view)

    run_as_nobody(scenario)
    assert (tree / "new").read_text() == "new"


def test_it_stacks_nothing(place, tree):
    for lowers, upper in (((tree,), tree), ((tree, tree), None)):
        with pytest.raises(errors.InvalidInput) as caught:
            mounts.perform(Mount("copy", lowers, upper), place / "target")
        assert caught.value.code == "mount-copy-layers"
    with pytest.raises(errors.InvalidInput):
        mounts.perform(Mount("copy", ()), place / "target")


@needs_root
def test_probing(place, tree):
    assert CopyDriver().form is Form.PLAIN
    assert CopyDriver().probe(place).ok
    assert not CopyDriver().probe(place / "absent").ok
    (place / "closed").mkdir(mode=0o755)
    probe = run_as_nobody(CopyDriver().probe, place / "closed")
    assert not probe.ok
    assert str(place / "closed") in probe.reason
