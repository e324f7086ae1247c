"""System calls, mountinfo, processes and probes: the thin parts, against the running kernel."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from _machine import file_system, needs_root, run_as_nobody
from lamella._sys import mountinfo, probes, processes, syscalls

ODD = b"o,d:d \t\n\\name \xff\xc3\xa9"


def test_renaming_without_replacing(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        syscalls.renameat2(bytes(tmp_path / "a"), bytes(tmp_path / "b"), syscalls.RENAME_NOREPLACE)
    assert (tmp_path / "b").read_bytes() == b"b"
    syscalls.renameat2(bytes(tmp_path / "a"), bytes(tmp_path / "c"), syscalls.RENAME_NOREPLACE)
    assert (tmp_path / "c").read_bytes() == b"a"


def test_exchanging_two_names_relative_to_directories(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "d").mkdir()
    fd = os.open(tmp_path, os.O_PATH)
    try:
        syscalls.renameat2(b"a", b"d", syscalls.RENAME_EXCHANGE, old_dir_fd=fd, new_dir_fd=fd)
    finally:
        os.close(fd)
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "d").read_bytes() == b"a"


@pytest.mark.parametrize("call", ["openat2", "renameat2"])
def test_a_nul_byte_does_not_cut_a_path_short(tmp_path, call):
    (tmp_path / "a").write_bytes(b"a")
    path = bytes(tmp_path / "a") + b"\0b"
    with pytest.raises(OSError) as caught:
        if call == "openat2":
            syscalls.openat2(syscalls.AT_FDCWD, path, os.O_RDONLY)
        else:
            syscalls.renameat2(path, bytes(tmp_path / "b"), 0)
    assert caught.value.errno == errno.EINVAL
    assert os.listdir(tmp_path) == ["a"]


def test_descriptors_close_on_exec(tmp_path):
    fd = syscalls.openat2(syscalls.AT_FDCWD, bytes(tmp_path), os.O_RDONLY)
    try:
        assert not os.get_inheritable(fd)
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
    with pytest.raises(OSError) as caught:
        syscalls.syncfs(-1)
    assert caught.value.errno == errno.EBADF


@needs_root
def test_the_kernels_own_words_are_in_the_error():
    context = syscalls.fsopen("tmpfs")
    try:
        with pytest.raises(OSError, match="Invalid argument: tmpfs: Unknown parameter 'nonsense'"):
            syscalls.fsconfig_set_flag(context, "nonsense")
        assert syscalls.fs_messages(context) == []
    finally:
        os.close(context)


@needs_root
def test_mounting_is_refused_to_those_who_may_not(place):
    def attempt():
        try:
            syscalls.mount(b"none", os.fsencode(place), b"tmpfs", 0, None)
        except OSError as error:
            return error.errno, error.filename
        return None

    assert run_as_nobody(attempt) == (errno.EPERM, str(place))


@needs_root
def test_mountinfo_tells_odd_names_apart(tmp_path):
    source = os.path.join(bytes(tmp_path), b"s" + ODD)
    target = os.path.join(bytes(tmp_path), b"t" + ODD)
    os.mkdir(source)
    os.mkdir(target)
    syscalls.mount(ODD, target, b"tmpfs", syscalls.MS_NODEV, b"size=64k,mode=0700")
    try:
        point = mountinfo.mount_at(Path(os.fsdecode(target)))
        assert point is not None
        assert os.fsencode(point.target) == target
        assert os.fsencode(point.source) == ODD
        assert point.fs_type == "tmpfs"
        assert point.root == Path("/")
        assert point.device == os.stat(target).st_dev
        assert b"nodev" in point.options
        assert point.super_option(b"size") == b"64k"
        assert point.super_option(b"absent") is None
        assert point in mountinfo.mount_points()
        syscalls.mount(source, target, None, syscalls.MS_BIND, None)
        over = mountinfo.mount_at(Path(os.fsdecode(target)))
        assert over is not None
        assert os.fsencode(over.root).endswith(b"s" + ODD)
        syscalls.umount2(target)
        assert mountinfo.mount_at(Path(os.fsdecode(target))) == point
    finally:
        syscalls.umount2(target)
    assert mountinfo.mount_at(Path(os.fsdecode(target))) is None


def test_a_line_that_is_none():
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        mountinfo.parse_line(b"36 35 98:0 /mnt1 /mnt2 rw,noatime")
    line = rb"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 unbindable - ext3 /dev/root rw,errors=continue"
    point = mountinfo.parse_line(line)
    assert (point.id, point.parent, point.target, point.fs_type) == (36, 35, Path("/mnt 2"), "ext3")
    assert point.super_options == (b"rw", b"errors=continue")


def test_mount_namespaces_begin_with_our_own():
    assert next(mountinfo.namespaces()) == os.getpid()
    # Others may mount something between the two readings.
    assert any(mountinfo.mount_points(os.getpid()) == mountinfo.mount_points() for _ in range(100))


def sleeper(*, deaf: bool = False):
    code = "import signal, sys, time\n"
    code += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else ""
    code += "print(flush=True)\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_ending_exactly_the_process_that_is_meant():
    with sleeper() as process:
        started = processes.start_time(process.pid)
        assert processes.is_running(process.pid, started)
        assert processes.terminate(process.pid, started + 1) is False  # the number belongs to another by now
        assert process.poll() is None
        assert processes.terminate(process.pid, started) is True
        assert process.wait() == -signal.SIGTERM
    assert not processes.is_running(process.pid, started)
    assert processes.terminate(process.pid, started) is False


def test_a_process_that_will_not_end_is_killed():
    with sleeper(deaf=True) as process:
        assert processes.terminate(process.pid, processes.start_time(process.pid), patience=0.2) is True
        assert process.wait() == -signal.SIGKILL


def test_a_zombie_does_not_run():
    with sleeper() as process:
        started = processes.start_time(process.pid)
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.start_time(process.pid) == 0
        assert not processes.is_running(process.pid, started)


def test_naming_the_boot_and_the_namespace():
    assert len(processes.boot_id()) == 36
    assert processes.mount_namespace() == processes.mount_namespace(os.getpid())


@needs_root
def test_probing_who_may_mount():
    assert probes.is_root()
    assert run_as_nobody(probes.is_root) is False
    assert run_as_nobody(probes.can_mount) is False


@needs_root
@pytest.mark.parametrize(("kind", "answer"), [("xfs", True), ("btrfs", True), ("tmpfs", False), ("ext4", False)])
def test_probing_for_shared_blocks(tmp_path, kind, answer):
    with file_system(kind, tmp_path) as directory:
        before = set(os.listdir(directory))
        assert probes.can_reflink(directory) is answer
        assert set(os.listdir(directory)) == before
