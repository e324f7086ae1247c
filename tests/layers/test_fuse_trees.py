"""Images served over FUSE show what extracted ones show: to root, and to a user what that user would have extracted."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _machine import NOBODY, fuse_for_all, run_as_nobody
from support import needs, randomtree
from support.layers import Layers, member
from support.needs import needs_root, needs_tool
from support.trees import assert_same, read_directory

pytestmark = needs_root

ACL = bytes.fromhex("02000000 01000600ffffffff 02000600e8030000 04000500ffffffff 10000500ffffffff 20000400ffffffff")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture(params=["root", "user"])
def same(request, disk, public):
    """Takes tars as layers, mounts the image of them both ways, and compares; gives what both show."""
    return _as_user_in(public) if request.param == "user" else partial(_same, disk / "layers", driver="overlay")


@pytest.fixture
def public():
    """A directory on a real disk that everybody gets to."""
    with tempfile.TemporaryDirectory(prefix="lamella-test-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _as_user_in(place):

    def as_user(tars):
        mine = Path(tempfile.mkdtemp(dir=place))
        os.chown(mine, NOBODY, NOBODY)
        public = [shutil.copy(tar, place / f"{mine.name}-{number}") for number, tar in enumerate(tars)]
        for path in public:
            os.chmod(path, 0o644)
        return run_as_nobody(_same, mine / "layers", public, "userns", prepare=fuse_for_all)

    return as_user


# Some kernels let users set it, on what they extract.
HIDDEN = ["security.selinux"]


def _same(place, tars, driver):
    place.mkdir(exist_ok=True)
    for name in ("fuse", driver):
        needs.driver(name, place)
    layers = Layers(Path(tempfile.mkdtemp(dir=place)))
    diff_ids = [layers.of_tar(Path(tar)) for tar in tars]
    with layers.stacked(diff_ids, driver=driver) as root:
        extracted = read_directory(root, hidden=HIDDEN)
    with layers.mounted(diff_ids, driver="fuse", writable=True) as root:
        served = read_directory(root, hidden=HIDDEN)
        # The root of a writable one is the upper's, which whoever makes it dresses.
        served[b""] = extracted[b""]
        assert_same(served, extracted)
    with layers.mounted(diff_ids, driver="fuse") as root:
        assert _attributes(os.fsencode(root)) == _attributes_of(extracted[b""])
        counts = {path: os.lstat(os.path.join(os.fsencode(root), path)).st_nlink for path in served}
        _check_holes(root, served)
    groups = [leaf.group for leaf in served.values() if leaf.group is not None]
    for path, leaf in served.items():
        if leaf.kind != "directory":
            assert counts[path] == (groups.count(leaf.group) if leaf.group is not None else 1), path
    return served


def _attributes(path):
    info = os.lstat(path)
    return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns


def _attributes_of(leaf):
    return leaf.mode, leaf.uid, leaf.gid, leaf.mtime


def _check_holes(root, tree):
    """What seeking calls data reads as what it is, and the rest is zero."""
    for path, leaf in tree.items():
        if leaf.kind != "file" or leaf.size < 1 << 20:
            continue
        fd = os.open(os.path.join(os.fsencode(root), path), os.O_RDONLY)
        at = 0
        while at < leaf.size:
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            try:
                data = os.lseek(fd, hole, os.SEEK_DATA) if hole < leaf.size else leaf.size
            except OSError:
                data = leaf.size
            assert os.pread(fd, 4096, hole) == bytes(min(4096, leaf.size - hole))
            at = data
        os.close(fd)


def tar_of(place, *members):
    """A tar of members, some with content, at a new place."""
    import io

    path = Path(tempfile.mkstemp(dir=place)[1])
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@needs_tool("tar")
def test_random_trees(same, disk):
    @settings(max_examples=8)
    @given(layers=st.lists(randomtree.trees(), min_size=1, max_size=3))
    def check(layers):
        tars = []
        for files in layers:
            tree = Path(tempfile.mkdtemp(dir=disk))
            randomtree.make(files, tree)
            tars.append(_tarred(tree, disk))
        same(tars)

    check()


def _tarred(tree, place):
    tar = Path(tempfile.mkstemp(dir=place)[1])
    command = ["tar", "--create", "--numeric-owner", "--sort=name", "--format=posix", "--sparse", "--xattrs"]
    subprocess.run([*command, "--xattrs-include=*", "-f", tar, "-C", tree, "."], check=True, capture_output=True)
    return tar


def test_every_kind_of_file(same, disk):
    base = tar_of(
        disk,
        member(".", tarfile.DIRTYPE, mode=0o755, mtime=5.25),
        member("d", tarfile.DIRTYPE, mode=0o2750, uid=70_000, gid=4_294_967_294, mtime=-1.5),
        (member("d/file", mode=0o4755, mtime=1_600_000_000.1234567), b"x" * 513),
        member("d/empty", mode=0),
        (member("d/closed", mode=0o040, uid=3, xattrs={"user.a": b"1", "user.lamella.stat": b"0:0"}), b"closed"),
        member("d/none", tarfile.DIRTYPE, mode=0, uid=1),
        member("d/none/below", mode=0),
        member("d/fifo", tarfile.FIFOTYPE, mode=0o600),
        member("d/fifo7", tarfile.FIFOTYPE, mode=0o007, uid=7, gid=8),
        member("d/char", tarfile.CHRTYPE, devmajor=4095, devminor=1_048_575, mode=0o666),
        member("d/block", tarfile.BLKTYPE, devmajor=8, devminor=257, uid=5, mode=0),
        member("d/link", tarfile.SYMTYPE, linkname="../" * 700 + "x", mtime=-(2.0**31)),
        member("d/short", tarfile.SYMTYPE, linkname="x", uid=9),
        member("d/hard", tarfile.LNKTYPE, linkname="d/file"),
        member("d/hard-char", tarfile.LNKTYPE, linkname="d/char"),
        member("n" * 255, tarfile.DIRTYPE, mode=0o1777),
        member("n" * 255 + "/" + "m" * 255),
    )
    top = tar_of(
        disk,
        member("d/.wh.empty"),
        member("d/also", tarfile.LNKTYPE, linkname="d/file"),
        member("lib", tarfile.SYMTYPE, linkname="d"),
        (member("lib/through"), b"a link"),
        member("later", mtime=(1 << 33) + 0.5),
    )
    shown = same([base, top])
    assert {"directory", "file", "fifo", "link"} <= {leaf.kind for leaf in shown.values()}
    assert shown[b"d/file"].group == shown[b"d/hard"].group == shown[b"d/also"].group
    assert b"d/empty" not in shown
    assert shown[b"d/through"].size == 6
    assert shown[b"d/file"].mtime % 10**9 == 123_456_700


def test_xattrs(same, disk):
    xattrs = {
        "user.a": b"1",
        "user.empty": b"",
        "user." + "n" * 250: b"name",
        "user.overlay.opaque": b"y",
        "user.fuseoverlayfs.x": b"z",
        "user.lamella.stat": b"9:9:644:0:0:0",
        "user.lamella.image.x": b"x",
        "trusted.t": b"x" * 2000,
        "trusted.overlay.opaque": b"y",
        "trusted.overlay.overlay.x": b"z",
        "security.capability": CAPABILITY,
    }
    selinux = {"security.selinux": b"system_u:object_r:bin_t:s0"}
    tar = tar_of(
        disk,
        member(".", tarfile.DIRTYPE, xattrs={"user.root": b"r" * 700}),
        (member("f", uid=1, xattrs=xattrs | selinux), b"content"),
        member("d", tarfile.DIRTYPE, mode=0o1777, xattrs={"user.d": b"d"} | selinux),
        *(member(f"d/{n}", xattrs={**selinux, "user.n": b"%d" % (n // 2)}) for n in range(50)),
        member("many", xattrs={f"user.{number}": b"%d" % number for number in range(100)}),
        member("c", tarfile.CHRTYPE, devmajor=1, devminor=3, xattrs={"user.on-a-device": b"1", "trusted.c": b"1"}),
        member("s", tarfile.SYMTYPE, linkname="x" * 300, xattrs={"trusted.s": b"s"}),
    )
    shown = same([tar])
    assert len(shown[b"many"].xattrs) == 100


@needs_tool("setfacl", "tar")
def test_access_control_lists(same, disk):
    tree = Path(tempfile.mkdtemp(dir=disk))
    for name, mode in (("f", 0o640), ("closed", 0o040)):
        (tree / name).write_bytes(b"content")
        (tree / name).chmod(mode)
    (tree / "d").mkdir(mode=0o750)
    subprocess.run(["setfacl", "-m", "u:1000:rw,g:50:r", tree / "f", tree / "closed", tree / "d"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", tree / "d"], check=True)
    shown = same([_tarred(tree, disk)])
    assert "system.posix_acl_access" in dict(shown[b"closed"].xattrs)
    assert "system.posix_acl_default" in dict(shown[b"d"].xattrs)


def test_a_directory_of_20_000_entries(same, disk):
    names = [f"{number * 7919 % 20_000:05}{'x' * (number % 200)}" for number in range(20_000)]
    shown = same([tar_of(disk, *(member(f"d/{name}") for name in names))])
    assert len(shown) == 20_002


@needs_tool("tar")
def test_sparse_and_large_files(same, disk):
    tree = Path(tempfile.mkdtemp(dir=disk))
    for name, size in (("ends", 3 << 20), ("hole", 4 << 20), ("only-hole", 2 << 20)):
        with open(tree / name, "wb") as file:
            file.truncate(size)
            pieces = {0: b"start", 4096 * 33: b"a" * 70_000, size - 4096: b"z" * 4096 if name == "ends" else b""}
            for offset, data in pieces.items() if name != "only-hole" else ():
                os.pwrite(file.fileno(), data, offset)
    (tree / "large").write_bytes(os.urandom((5 << 20) + 77))
    shown = same([_tarred(tree, disk)])
    assert shown[b"large"].size == (5 << 20) + 77
