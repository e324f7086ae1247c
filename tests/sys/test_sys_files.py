from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys

import pytest

from _machine import file_system, needs_root, needs_tool, run_as_nobody
from lamella import errors
from lamella._sys.files import fsync_dir, map_os_error, os_errors, remove_tree, write_atomic


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, errors.ResourceExhausted, "disk-full"),
        (errno.EDQUOT, errors.ResourceExhausted, "disk-full"),
        (errno.EMFILE, errors.ResourceExhausted, "os-limit"),
        (errno.EACCES, errors.AccessDenied, "access-denied"),
        (errno.EPERM, errors.AccessDenied, "access-denied"),
        (errno.EROFS, errors.AccessDenied, "access-denied"),
        (errno.ENOENT, errors.NotFound, "file-not-found"),
        (errno.EEXIST, errors.AlreadyExists, "file-exists"),
        (errno.ENAMETOOLONG, errors.InvalidInput, "path-invalid"),
        (errno.EINVAL, errors.InvalidInput, "path-invalid"),
        (errno.ENOTEMPTY, errors.FailedPrecondition, "directory-not-empty"),
        (errno.EBUSY, errors.Conflict, "file-busy"),
        (errno.EOPNOTSUPP, errors.Unsupported, "os-unsupported"),
        (errno.EIO, errors.Unavailable, "os-error"),
    ],
)
def test_an_os_error_becomes_the_kind_that_tells_what_to_do(number, kind, code):
    error = map_os_error(OSError(number, os.strerror(number)), "the thing")
    assert type(error) is kind
    assert error.code == code
    assert str(error) == f"the thing: {os.strerror(number)}"


def test_typed_errors_pass_through_as_they_are():
    inner = errors.Integrity("broken")
    with pytest.raises(errors.Integrity) as caught, os_errors("subject"):
        raise inner
    assert caught.value is inner


def test_write_atomic_replaces_and_sets_exactly_the_mode(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = os.umask(0o077)
    try:
        write_atomic(path, b"new", mode=0o664)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomic_does_not_write_through_a_link(tmp_path):
    (tmp_path / "victim").write_bytes(b"victim")
    (tmp_path / "file").symlink_to("victim")
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"victim"
    assert not (tmp_path / "file").is_symlink()


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(errors.InvalidInput):
        write_atomic(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(errors.NotFound):
        write_atomic(tmp_path / "absent" / "file", b"new")
    with pytest.raises(errors.NotFound):
        fsync_dir(tmp_path / "absent")


@needs_root
def test_a_full_disk_keeps_the_old_file(tmp_path):
    with file_system("tmpfs", tmp_path, size=64 << 10) as directory:
        write_atomic(directory / "file", b"old")
        with pytest.raises(errors.ResourceExhausted) as caught:
            write_atomic(directory / "file", bytes(1 << 20))
        assert caught.value.code == "disk-full"
        assert (directory / "file").read_bytes() == b"old"
        assert os.listdir(directory) == ["file"]


@needs_tool("strace")
def test_the_data_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path):
    code = "import sys; from pathlib import Path; from lamella._sys.files import write_atomic as w; "
    code += "w(Path(sys.argv[1]), b'data')"
    trace = tmp_path / "trace"
    command = ["strace", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o", trace]
    subprocess.run([*command, sys.executable, "-c", code, tmp_path / "file"], check=True)
    calls = [line for line in trace.read_text().splitlines() if str(tmp_path) in line]
    assert re.match(rf"fsync\(\d+<{tmp_path}/\.file\.", calls[0])
    assert calls[1].startswith("rename")
    assert re.match(rf"fsync\(\d+<{tmp_path}>\)", calls[2])
    assert len(calls) == 3


def test_remove_tree_takes_anything_and_nothing(tmp_path):
    remove_tree(tmp_path / "absent")
    remove_tree(tmp_path / "absent" / "below")
    (tmp_path / "file").write_bytes(b"")
    remove_tree(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path)
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == []


def test_remove_tree_never_follows_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"keep")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "to-dir").symlink_to(outside)
    (tree / "a" / "b" / "to-file").symlink_to(outside / "keep")
    (tree / "dangling").symlink_to("/nowhere")
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "keep").read_bytes() == b"keep"


@pytest.mark.parametrize("depth", [65, 130, 5000])
def test_remove_tree_takes_trees_deeper_than_paths_stacks_and_descriptors(tmp_path, depth):
    here = os.getcwd()
    (tmp_path / "tree").mkdir()
    os.chdir(tmp_path / "tree")
    try:
        for level in range(depth):
            os.mkdir("d")
            if level % 50 == 0:
                open("f", "wb").close()
                os.mkdir("e")
            os.chdir("d")
    finally:
        os.chdir(here)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_remove_tree_opens_up_what_keeps_its_owner_out(place):
    def make_and_remove():
        tree = place / "tree"
        for name, mode in ((b"none", 0), (b"x", 0o100), (b"r", 0o400), (b"odd \xff\n", 0o000)):
            directory = os.path.join(os.fsencode(tree), name)
            os.makedirs(os.path.join(directory, b"sub"))
            open(os.path.join(directory, b"file"), "wb").close()
            os.chmod(os.path.join(directory, b"sub"), 0)
            os.chmod(directory, mode)
        tree.chmod(0)
        remove_tree(tree)
        return tree.exists()

    assert run_as_nobody(make_and_remove) is False


@needs_root
def test_what_may_not_be_removed_is_a_typed_error(place):
    (place / "mine").mkdir(mode=0o755)
    (place / "mine" / "file").write_bytes(b"")
    with pytest.raises(errors.AccessDenied):
        run_as_nobody(remove_tree, place / "mine" / "file")
    assert (place / "mine" / "file").exists()


@needs_root
def test_remove_tree_stops_at_a_mount_point(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"keep")
    point = tmp_path / "tree" / "a" / "mounted"
    point.mkdir(parents=True)
    subprocess.run(["mount", "--bind", outside, point], check=True)
    try:
        with pytest.raises(errors.FailedPrecondition) as caught:
            remove_tree(tmp_path / "tree")
        assert caught.value.code == "tree-has-mount"
        assert (outside / "keep").exists()
        with pytest.raises(errors.FailedPrecondition):
            remove_tree(point)
        assert (outside / "keep").exists()
    finally:
        subprocess.run(["umount", point], check=True)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
