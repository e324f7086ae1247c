"""The process that holds a mount for a user: when it lives, when it dies, and whom that concerns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from _machine import needs_root, needs_tool, processes_naming, run_as_nobody
from lamella import errors
from lamella._sys import processes, syscalls
from lamella.mounts import mount as mounts
from lamella.mounts.model import Mount, Mounted
from lamella.mounts.userns import _START, UserNamespaceDriver

SOURCE = str(Path(mounts.__file__).parents[2])


@pytest.fixture
def mount(place):
    driver = UserNamespaceDriver()
    if not driver.probe(place).ok:
        pytest.skip(f"userns: {driver.probe(place).reason}")
    for name in ("lower", "upper", "work", "target"):
        (place / name).mkdir()
    (place / "lower" / "file").write_text("lower")
    return Mount("userns", (place / "lower",), place / "upper", place / "work")


@pytest.fixture
def mounted(place, mount):
    record = mounts.perform(mount, place / "target")
    yield record
    mounts.unmount(record)


def test_the_mount_outlives_the_command_that_made_it(place, mount):
    code = "import os, sys; from pathlib import Path; from lamella.mounts.mount import *; p = Path(sys.argv[1])\n"
    code += "m = perform(Mount('userns', (p / 'lower',), p / 'upper', p / 'work'), p / 'target')\n"
    code += "print(m.to_json(), flush=True); os.kill(0, 9)"
    done = subprocess.run(
        [sys.executable, "-c", code, place], capture_output=True, text=True, start_new_session=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    mounted = Mounted.from_json(done.stdout)
    try:
        assert mounts.is_mounted(mounted)
        (mounted.root / "file").write_text("changed")
    finally:
        mounts.unmount(mounted)
    assert (place / "upper" / "file").read_text() == "changed"


def test_the_holder_is_small_and_holds_nothing_else(mounted):
    assert [os.readlink(f"/proc/{mounted.holder}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert sorted(os.listdir(f"/proc/{mounted.holder}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{mounted.holder}/cwd") == "/"
    assert os.getsid(mounted.holder) != os.getsid(0)
    status = Path(f"/proc/{mounted.holder}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 20_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_holder_ends_the_mount_and_loses_nothing(place, mount, number):
    mounted = mounts.perform(mount, place / "target")
    (mounted.root / "file").write_text("changed")
    os.kill(mounted.holder, number)
    assert processes.wait_until_gone(mounted.holder, mounted.holder_start, patience=30)
    assert not mounts.is_mounted(mounted)
    assert mounts.upper_in_use(mount.upper) is None
    mounts.unmount(mounted)
    assert (place / "upper" / "file").read_text() == "changed"
    mounts.unmount(mounts.perform(mount, place / "target"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminal_that_goes_away_does_not_end_the_mount(mounted, number):
    os.kill(mounted.holder, number)
    assert (mounted.root / "file").read_text() == "lower"
    assert mounts.is_mounted(mounted)


def test_a_process_that_has_the_number_now_is_never_touched(mounted):
    time.sleep(0.05)  # starts are told apart by the clock tick, and no number comes back within one
    with subprocess.Popen(["sleep", "1000"]) as other:
        try:
            taken = replace(mounted, holder=other.pid)
            assert not mounts.is_mounted(taken)
            mounts.unmount(taken)
            assert other.poll() is None
            earlier = replace(mounted, holder_start=mounted.holder_start - 1)
            assert not mounts.is_mounted(earlier)
            mounts.unmount(earlier)
            assert mounts.is_mounted(mounted)
            gone = replace(mounted, holder=2**22 + 1)
            assert not mounts.is_mounted(gone)
            mounts.unmount(gone)
        finally:
            other.kill()


def test_a_mount_whose_maker_died_before_it_knew_is_found(place, mount):
    mounted = mounts.perform(mount, place / "target")
    found = mounts.live_mount(mount.upper)
    assert found == mounted
    assert found is not None
    mounts.unmount(found)
    assert mounts.live_mount(mount.upper) is None


def test_without_a_listener_the_holder_ends(place, mount):
    """The caller was killed between the order and the answer: nobody would know of the mount."""
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _START, SOURCE, "mount", place / "target"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.DEVNULL, start_new_session=True
    )
    os.close(writing)
    os.close(reading)
    with process:
        orders = [b"", os.fsencode(mount.upper), os.fsencode(mount.work), os.fsencode(mount.lowers[0])]
        process.communicate(b"\0".join(orders))
    for pid in processes_naming(place):
        processes.wait_until_gone(pid, processes.start_time(pid), patience=30)
    assert mounts.upper_in_use(mount.upper) is None
    assert not processes_naming(place)


def test_the_kernels_words_come_back_from_the_namespace(place, mount):
    (place / "lower" / "inside").mkdir()
    with pytest.raises(errors.InvalidInput) as caught:
        mounts.perform(replace(mount, lowers=(place / "lower", place / "lower" / "inside")), place / "target")
    assert caught.value.code == "mount-overlap"
    layers = []
    for number in range(501):
        (place / f"l{number}").mkdir()
        layers.append(place / f"l{number}")
    with pytest.raises(errors.Unsupported, match="too many lower directories, limit is 500"):
        mounts.perform(replace(mount, lowers=tuple(layers)), place / "target")
    record = mounts.perform(replace(mount, lowers=tuple(layers[:500])), place / "target")
    mounts.unmount(record)


@needs_root
def test_where_user_namespaces_are_turned_off_the_user_is_told_how_to_turn_them_on(place, mount):
    def turn_off():
        """In a user namespace of its own, whose limit concerns only what is below it."""
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("65534 0 1")
        Path("/proc/self/gid_map").write_text("65534 0 1")
        Path("/proc/sys/user/max_user_namespaces").write_text("0")

    def attempt():
        try:
            mounts.perform(mount, place / "target")
        except errors.Unsupported as error:
            return error.code, error.hint, UserNamespaceDriver().probe(place / "lower").reason
        return None

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        turn_off()
        os.write(writing, repr(attempt()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    os.waitpid(child, 0)
    assert "'userns-refused'" in answer
    assert "user.max_user_namespaces" in answer
    assert "no user namespace for this user: No space left on device" in answer


@needs_tool("strace")
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("unshare:error=EPERM", "Unsupported"),
        ("fsmount:error=EPERM", "AccessDenied"),
        ("mount,fsopen:error=EPERM", "AccessDenied"),
        ("unshare:signal=SIGKILL", "Unavailable"),
    ],
)
def test_refusals_are_typed_and_leave_no_process(place, mount, fault, kind):
    code = "import sys; from pathlib import Path; from lamella.mounts.mount import *; p = Path(sys.argv[1])\n"
    code += "perform(Mount('userns', (p / 'lower',), p / 'upper', p / 'work'), p / 'target')"
    call = fault.partition(":")[0]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}"]
    done = subprocess.run([*command, sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
    assert f"lamella.errors.{kind}: " in done.stderr
    assert mounts.upper_in_use(mount.upper) is None
    assert not processes_naming(place)


@needs_root
def test_a_user_may_not_use_what_is_not_theirs(place, mount):
    (place / "upper").chmod(0o755)
    with pytest.raises(errors.LamellaError) as caught:
        run_as_nobody(mounts.perform, mount, place / "target")
    assert isinstance(caught.value, errors.AccessDenied | errors.Unsupported)
    assert mounts.upper_in_use(mount.upper) is None


def test_an_interpreter_that_cannot_be_run(place, mount, monkeypatch):
    for executable in ("", "/nonexistent/python"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(errors.Unsupported) as caught:
            mounts.perform(mount, place / "target")
        assert caught.value.code == "holder-interpreter"
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(errors.Unavailable) as ended:
        mounts.perform(mount, place / "target")
    assert ended.value.code == "holder-failed"
