from __future__ import annotations

import os
import random
import socket
import stat
import subprocess
import threading

import pytest

from _machine import file_system, needs_root, run_as_nobody, snapshot_of
from lamella import errors
from lamella._sys import syscalls
from lamella._sys.copytree import clone_or_copy, copy_tree

TIME = 1_371_700_000_123_456_789


def make_tree(root, *, privileged):
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "file").write_bytes(b"content" * 1000)
    (root / "dir" / "setuid").write_bytes(b"#!")
    os.setxattr(root / "file", "user.note", b"a value\0with a NUL")
    os.setxattr(root / "dir", "user.on-a-directory", b"")
    os.link(root / "file", root / "dir" / "sub" / "linked")
    os.symlink("../file", root / "dir" / "link")
    os.symlink("/etc/passwd", root / "absolute")
    os.link(root / "absolute", root / "dir" / "linked-link", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "dir" / "whiteout", stat.S_IFCHR, 0)
    with open(root / "sparse", "wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"data", 10 << 20)
        os.pwrite(file.fileno(), b"more", (40 << 20) + 5)
    for name in (b"non-utf8 \xff", b"new\nline", b" ", b"back\\slash", b"x" * 255):
        (root / os.fsdecode(name)).write_bytes(name)
    with socket.socket(socket.AF_UNIX) as server:
        fd = os.open(root, os.O_PATH)
        server.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    if privileged:
        make_privileged(root)
    os.chmod(root / "dir" / "setuid", 0o6755)
    os.chmod(root / "dir" / "sub", 0o1777)
    os.chmod(root / "dir", 0o2750)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(TIME - number, TIME + number), follow_symlinks=False)
    os.utime(root, ns=(TIME, 1))


def make_privileged(root):
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.setxattr(root / "dir", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "absolute", "trusted.on-a-link", b"value", follow_symlinks=False)
    os.chown(root / "file", 1000, 4_000_000_000)
    os.chown(root / "absolute", 7, 8, follow_symlinks=False)
    os.chown(root / "dir", 12, 13)
    os.chown(root / "dir" / "setuid", 65533, 5)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, version 2
    os.setxattr(root / "dir" / "setuid", "security.capability", capability)


def access_times(root):
    names = ["", "dir", "dir/sub", "empty", "file", "dir/setuid", "fifo", "sparse", "socket"]
    return {name: os.lstat(root / name).st_atime_ns for name in names}


@needs_root
@pytest.mark.parametrize("reflink", ["auto", "never"])
def test_everything_is_kept(tmp_path, reflink):
    (tmp_path / "source").mkdir()
    make_tree(tmp_path / "source", privileged=True)
    atimes = access_times(tmp_path / "source")
    copy_tree(tmp_path / "source", tmp_path / "target", reflink=reflink)
    assert access_times(tmp_path / "source") == atimes
    assert access_times(tmp_path / "target") == atimes
    assert snapshot_of(tmp_path / "target") == snapshot_of(tmp_path / "source")


def test_everything_that_a_user_may_have_is_kept(place):
    def make_and_copy():
        (place / "source").mkdir()
        make_tree(place / "source", privileged=False)
        (place / "source" / "shadow").write_bytes(b"secret")
        (place / "source" / "shadow").chmod(0)
        (place / "source" / "closed").mkdir()
        (place / "source" / "closed" / "in").write_bytes(b"")
        (place / "source" / "closed").chmod(0o300)
        copy_tree(place / "source", place / "target")
        (place / "source" / "closed").chmod(0o700)
        assert (place / "target" / "closed").stat().st_mode & 0o777 == 0o300
        (place / "target" / "closed").chmod(0o700)
        assert snapshot_of(place / "target") == snapshot_of(place / "source")
        (place / "target" / "shadow").chmod(0o400)
        return (place / "target" / "shadow").read_bytes()

    assert run_as_nobody(make_and_copy) == b"secret"


def test_holes_stay_holes(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), b"data", 512 << 20)
    with open(source / "only-a-hole", "wb") as file:
        file.truncate(1 << 30)
    copy_tree(source, tmp_path / "target", reflink="never")
    for name in ("sparse", "only-a-hole"):
        info = (tmp_path / "target" / name).stat()
        assert info.st_size == 1 << 30
        assert info.st_blocks * 512 <= 1 << 20
    with open(tmp_path / "target" / "sparse", "rb") as file:
        assert os.pread(file.fileno(), 4, 512 << 20) == b"data"


@needs_root
def test_the_upper_of_an_overlay_means_the_same_after_the_copy(tmp_path):
    for name in ("lower", "upper", "work", "root", "work2"):
        (tmp_path / name).mkdir()
    lower = tmp_path / "lower"
    for name in ("gone", "kept", "changed", "moved"):
        (lower / name).write_bytes(name.encode())
        (lower / f"{name}.d").mkdir()
        (lower / f"{name}.d" / "file").write_bytes(name.encode())
    options = f"lowerdir={lower},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    root = tmp_path / "root"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    (root / "gone").unlink()
    subprocess.run(["rm", "-r", root / "gone.d", root / "changed.d"], check=True)
    (root / "changed.d").mkdir()
    (root / "changed.d" / "new").write_bytes(b"new")
    (root / "changed").chmod(0o600)
    (root / "moved").rename(root / "kept.d" / "moved")
    os.link(root / "changed", root / "linked")
    expected = snapshot_of(root)
    subprocess.run(["umount", root], check=True)
    copy_tree(tmp_path / "upper", tmp_path / "copy")
    assert snapshot_of(tmp_path / "copy") == snapshot_of(tmp_path / "upper")
    options = f"lowerdir={lower},upperdir={tmp_path / 'copy'},workdir={tmp_path / 'work2'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    found = snapshot_of(root)
    subprocess.run(["umount", root], check=True)
    assert found == expected


@pytest.mark.parametrize("depth", [99, 100, 101, 1500])
def test_trees_deeper_than_descriptors_and_paths(tmp_path, depth):
    name = b"d" * 10
    here = os.getcwd()
    (tmp_path / "source").mkdir()
    os.chdir(tmp_path / "source")
    try:
        open("first", "wb").close()
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
            open("file", "wb").close()
        os.link("file", "last")
        os.utime(".", ns=(1, 2))
        copy_tree(tmp_path / "source", tmp_path / "target")
        os.chdir(tmp_path / "target")
        for _ in range(depth):
            assert set(os.listdir(b".")) - {b"file", b"first"} == {name}
            os.chdir(name)
        assert os.path.samefile("file", "last")
        assert os.stat(".").st_mtime_ns == 2
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", tmp_path / "source", tmp_path / "target"], check=True)


def test_a_target_must_be_free(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "empty").mkdir()
    for name in ("full", "file", "link"):
        with pytest.raises(errors.AlreadyExists):
            copy_tree(tmp_path / "source", tmp_path / name)
    copy_tree(tmp_path / "source", tmp_path / "empty")
    assert os.listdir(tmp_path / "empty") == ["file"]
    assert os.listdir(tmp_path / "full") == ["mine"]


def test_a_missing_source(tmp_path):
    with pytest.raises(errors.NotFound) as caught:
        copy_tree(tmp_path / "absent", tmp_path / "target")
    assert caught.value.subject == str(tmp_path / "absent")
    assert os.listdir(tmp_path) == []


@needs_root
def test_a_failure_leaves_nothing_and_names_the_entry(tmp_path):
    source = tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "big").write_bytes(bytes(1 << 20))
    with file_system("tmpfs", tmp_path, size=256 << 10) as directory:
        with pytest.raises(errors.ResourceExhausted) as caught:
            copy_tree(source, directory / "target")
        assert caught.value.code == "disk-full"
        assert caught.value.entry == b"dir/big"
        assert os.listdir(directory) == []
        (directory / "empty").mkdir()
        with pytest.raises(errors.ResourceExhausted):
            copy_tree(source, directory / "empty")
        assert os.listdir(directory / "empty") == []


def test_being_cancelled_leaves_nothing(tmp_path):
    (tmp_path / "source").mkdir()
    for number in range(10):
        (tmp_path / "source" / f"{number}").write_bytes(b"12345")
    seen = []

    def advanced(size):
        seen.append(size)
        if len(seen) == 5:
            raise errors.Aborted("enough")

    with pytest.raises(errors.Aborted):
        copy_tree(tmp_path / "source", tmp_path / "target", advanced=advanced)
    assert seen == [5] * 5
    assert os.listdir(tmp_path) == ["source"]


@needs_root
def test_devices_are_refused_to_users_with_the_entry_named(place):
    (place / "source").mkdir(mode=0o755)
    (place / "source").chmod(0o755)
    os.mknod(place / "source" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(errors.AccessDenied) as caught:
        run_as_nobody(copy_tree, place / "source", place / "target")
    assert caught.value.entry == b"null"
    assert not (place / "target").exists()


@needs_root
def test_nothing_mounted_in_the_tree_is_copied(tmp_path):
    (tmp_path / "source" / "point").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "source" / "point"], check=True)
    try:
        with pytest.raises(errors.FailedPrecondition) as caught:
            copy_tree(tmp_path / "source", tmp_path / "target")
    finally:
        subprocess.run(["umount", tmp_path / "source" / "point"], check=True)
    assert caught.value.code == "tree-has-mount"
    assert caught.value.entry == b"point"
    assert not (tmp_path / "target").exists()


def test_links_swapped_in_meanwhile_are_never_followed(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (source / "a" / "secret").write_bytes(b"mine")
    (source / "link").symlink_to(tmp_path / "outside")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            syscalls.renameat2(bytes(source / "a"), bytes(source / "link"), syscalls.RENAME_EXCHANGE)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(150):
            try:
                copy_tree(source, tmp_path / f"target{number}")
            except (errors.FailedPrecondition, errors.NotFound, errors.InvalidInput):
                assert not (tmp_path / f"target{number}").exists()
                continue
            for path in (tmp_path / f"target{number}").glob("*/secret"):
                assert path.is_symlink() or path.parent.is_symlink() or path.read_bytes() == b"mine"
    finally:
        stop.set()
        swapper.join()


def test_sharing_blocks_makes_copies_that_cost_nothing(reflinking):
    data = random.Random(1).randbytes(48 << 20)
    (reflinking / "source").mkdir()
    (reflinking / "source" / "big").write_bytes(data)
    for number in range(10):
        copy_tree(reflinking / "source", reflinking / f"auto{number}")
        copy_tree(reflinking / "source", reflinking / f"always{number}", reflink="always")
    assert (reflinking / "always9" / "big").read_bytes() == data
    (reflinking / "always8" / "big").write_bytes(b"changed")
    assert (reflinking / "source" / "big").read_bytes() == data


def test_real_copies_where_they_are_asked_for(reflinking):
    (reflinking / "source").mkdir()
    (reflinking / "source" / "big").write_bytes(random.Random(1).randbytes(48 << 20))
    with pytest.raises(errors.ResourceExhausted):
        for number in range(10):
            copy_tree(reflinking / "source", reflinking / f"never{number}", reflink="never")


@needs_root
def test_everything_is_kept_while_blocks_are_shared(reflinking):
    (reflinking / "source").mkdir()
    make_tree(reflinking / "source", privileged=True)
    before = snapshot_of(reflinking / "source")
    copy_tree(reflinking / "source", reflinking / "target", reflink="always")
    assert snapshot_of(reflinking / "target") == before


@needs_root
def test_sharing_where_it_cannot_be(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"data")
    with file_system("tmpfs", tmp_path) as directory:
        with pytest.raises(errors.Unsupported) as caught:
            copy_tree(tmp_path / "source", directory / "target", reflink="always")
        assert caught.value.code == "reflink-unsupported"
        copy_tree(tmp_path / "source", directory / "target")
        assert (directory / "target" / "file").read_bytes() == b"data"


def test_copying_a_range(tmp_path):
    (tmp_path / "source").write_bytes(bytes(range(256)) * 64)
    with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb") as target:
        clone_or_copy(source.fileno(), target.fileno(), 4096, 100)
        clone_or_copy(source.fileno(), target.fileno(), 5, 10, target_offset=0)
        with pytest.raises(errors.FailedPrecondition) as caught:
            clone_or_copy(source.fileno(), target.fileno(), 16000, 1000)
        assert caught.value.code == "file-changed"
    data = (tmp_path / "target").read_bytes()
    assert data[:10] == bytes(range(5, 15))
    assert data[4096:4196] == bytes(range(100))
