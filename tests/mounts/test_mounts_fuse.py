"""Images served over FUSE, below every driver that may lie above: shared, released, and when servers die."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from _machine import fuse_for_all, needs_root, needs_tool, run_as_nobody
from lamella import errors
from lamella._sys import mountinfo, processes
from lamella.mounts import _fuse, _tiny_image, image_mounts, trial
from lamella.mounts import mount as mounts
from lamella.mounts.fuse import FuseDriver
from lamella.mounts.image_mounts import dropped, release
from lamella.mounts.model import ErofsImage, Form, Mount, Mounted


class Above:
    """What lies above the image, and the user it is."""

    def __init__(self, name, *, user):
        self.name, self.user = name, user

    def run(self, scenario, place):
        """Run a scenario with the driver and a fresh image, as the user; afterwards nothing may be left."""

        def body():
            os.chdir(place)
            driver = FuseDriver(above=self.name)
            probe = driver.probe(place)
            if not probe.ok:
                return probe
            if scenario is not None:
                scenario(driver, place)
                assert images_at(place) == []
                assert servers_at(place) == []
            return None

        if not self.user and os.geteuid() != 0:
            pytest.skip("needs root")
        here = os.getcwd()
        try:
            answer = run_as_nobody(body, prepare=fuse_for_all) if self.user else body()
        finally:
            os.chdir(here)
        if answer is not None:
            pytest.skip(f"fuse below {self.name}: {answer.reason}")


ABOVE = [Above("overlay", user=False), Above("userns", user=True), Above("fuse-overlayfs", user=True)]


@pytest.fixture(params=ABOVE, ids=lambda above: above.name)
def above(request):
    return request.param


def image_in(place):
    (place / "metadata").write_bytes(_tiny_image.metadata())
    (place / "device").write_bytes(_tiny_image.device())
    (place / "at").mkdir()
    return ErofsImage(place / "metadata", (place / "device",), place / "at")


def branch(place, number=0):
    made = [place / f"{name}{number}" for name in ("upper", "work", "target")]
    for directory in made:
        directory.mkdir()
    return made


def images_at(place):
    return [p for p in mountinfo.mount_points() if p.fs_type == _fuse.FS_TYPE and p.target.is_relative_to(place)]


def servers_at(place):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if _fuse._MARK in line and os.fsencode(place) in line:
                found.append(int(name))
    return found


def kill_server(place):
    (server,) = servers_at(place)
    started = processes.start_time(server)
    os.kill(server, signal.SIGKILL)
    assert processes.wait_until_gone(server, started, patience=30)


def test_an_image_is_served_once_while_something_stands_on_it(above, place):
    def scenario(driver, place):
        image = image_in(place)
        mounted = []
        for number in range(3):
            upper, work, target = branch(place, number)
            (tree := place / f"tree{number}").mkdir()
            (tree / "between").write_text(str(number))
            mounted.append(driver.mount(Mount("fuse", (tree,), upper, work, image), target))
            assert [point.target for point in images_at(place)] == [place / "at-fuse"]
            assert len(servers_at(place)) == 1
            root = mounted[-1].root
            assert (root / "file").read_bytes() == _tiny_image.CONTENT
            assert (root / "between").read_text() == str(number)
            (root / "file").write_text(f"changed {number}")
            assert mounts.live_mount(upper) == mounted[-1]
            assert mounts.upper_in_use(upper) == target
            assert mounted[-1].driver == "fuse"
            with pytest.raises(errors.FailedPrecondition) as caught:
                driver.mount(Mount("fuse", (), upper, work, image), target)
            assert caught.value.code == "snapshot-mounted"
        for number, one in enumerate(mounted):
            assert (one.root / "file").read_text() == f"changed {number}"
            assert mounts.is_mounted(one)
            mounts.unmount(Mounted.from_json(one.to_json()))
            assert not mounts.is_mounted(one)
            mounts.unmount(one)
            assert len(images_at(place)) == (number < 2)

    above.run(scenario, place)


def test_what_is_deleted_stays_so(above, place):
    def scenario(driver, place):
        image = image_in(place)
        upper, work, target = branch(place)
        for expected in (["file"], []):
            mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
            assert os.listdir(mounted.root) == expected
            (mounted.root / "file").unlink(missing_ok=True)
            driver.unmount(mounted)
        whiteout = (upper / "file").lstat()
        assert stat.S_ISCHR(whiteout.st_mode)
        assert whiteout.st_rdev == 0

    above.run(scenario, place)


def test_without_an_upper(above, place):
    def scenario(driver, place):
        image = image_in(place)
        mounted = driver.mount(Mount("fuse", (), image=image), branch(place)[2])
        try:
            assert os.listdir(mounted.root) == ["file"]
            for name in ("new", "file"):
                with pytest.raises(OSError, match="Read-only file system"):
                    (mounted.root / name).write_text("new")
        finally:
            driver.unmount(mounted)

    above.run(scenario, place)


def test_whoever_takes_the_mount_of_the_image_away_does_no_harm(above, place):
    def scenario(driver, place):
        image = image_in(place)
        (upper, work, target), (upper2, work2, target2) = branch(place, 1), branch(place, 2)
        mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
        assert not release(place / "at")
        with dropped(place / "at"):
            assert not images_at(place)
        assert (mounted.root / "file").read_bytes() == _tiny_image.CONTENT
        again = driver.mount(Mount("fuse", (), upper2, work2, image), target2)
        assert len(servers_at(place)) == 2
        assert (again.root / "file").read_bytes() == _tiny_image.CONTENT
        for one in (again, mounted):
            server = servers_at(place)
            assert driver.is_mounted(one)
            driver.unmount(one)
            assert not driver.is_mounted(one)
            for pid in server[len(servers_at(place)) :]:
                processes.wait_until_gone(pid, processes.start_time(pid), patience=30)
        for pid in servers_at(place):  # the first one ends when the kernel is done with it
            processes.wait_until_gone(pid, processes.start_time(pid), patience=30)

    above.run(scenario, place)


def test_an_image_that_somebody_looks_into_stays_until_the_next_time(above, place):
    def scenario(driver, place):
        image = image_in(place)
        upper, work, target = branch(place)
        mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
        with open(place / "at-fuse" / "file", "rb") as file:
            driver.unmount(mounted)
            assert not release(place / "at")
            assert file.read() == _tiny_image.CONTENT
        again = driver.mount(Mount("fuse", (), upper, work, image), target)
        assert len(servers_at(place)) == 1
        driver.unmount(again)
        assert release(place / "at")
        assert release(place / "nowhere" / "at")

    above.run(scenario, place)


def test_a_server_that_was_killed(above, place):
    """What stands on it fails and says so, is unmounted as ever, and the next mount has a server of its own."""

    def scenario(driver, place):
        image = image_in(place)
        (upper, work, target), (upper2, work2, target2) = branch(place, 1), branch(place, 2)
        first = driver.mount(Mount("fuse", (), upper, work, image), target)
        (first.root / "new").write_text("new")
        kill_server(place)
        with pytest.raises(OSError) as caught:
            (first.root / "file").read_bytes()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        assert mounts.is_mounted(first)
        second = driver.mount(Mount("fuse", (), upper2, work2, image), target2)
        assert (second.root / "file").read_bytes() == _tiny_image.CONTENT
        mounts.unmount(first)
        assert (upper / "new").read_text() == "new"
        mounts.unmount(second)
        again = driver.mount(Mount("fuse", (), upper, work, image), target)
        assert (again.root / "file").read_bytes() == _tiny_image.CONTENT
        assert (again.root / "new").read_text() == "new"
        kill_server(place)
        mounts.unmount(again)

    above.run(scenario, place)


@needs_root
@needs_tool("strace")
@pytest.mark.parametrize("fault", ["write,writev:error=ENOSYS", "read:error=EIO", "pread64:error=EIO"])
def test_nobody_waits_for_a_server_that_fails(place, fault):
    driver = FuseDriver()
    image = image_in(place)
    mounted = driver.mount(Mount("fuse", (), image=image), branch(place)[2])
    (server,) = servers_at(place)
    call = fault.partition(":")[0]
    command = ["strace", "-f", "-o", place / "trace", "-e", f"trace={call}", "-e", f"inject={fault}", "-p", str(server)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            assert "attached" in tracer.stderr.readline()
            with pytest.raises(OSError) as caught:
                (mounted.root / "file").read_bytes()
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        finally:
            tracer.kill()  # asked to end, it would wait for threads of a server that is ending too
    driver.unmount(mounted)
    assert not images_at(place)
    assert not servers_at(place)


def test_an_image_whose_overlay_was_killed_is_released_with_the_next(above, place):
    def scenario(driver, place):
        if above.name != "userns":
            return
        image = image_in(place)
        (upper, work, target), (upper2, work2, target2) = branch(place, 1), branch(place, 2)
        for ended in (False, True):
            mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
            os.kill(mounted.holder, signal.SIGKILL)
            assert processes.wait_until_gone(mounted.holder, mounted.holder_start, patience=30)
            assert not mounts.is_mounted(mounted)
            if ended:
                mounts.unmount(mounted)
            else:
                mounts.unmount(driver.mount(Mount("fuse", (), upper2, work2, image), target2))
            assert not images_at(place)

    above.run(scenario, place)


def test_a_failed_mount_leaves_nothing(above, place):
    def scenario(driver, place):
        image = image_in(place)
        upper, work, target = branch(place)
        with pytest.raises(errors.NotFound):
            driver.mount(Mount("fuse", (place / "absent",), upper, work, image), target)
        with pytest.raises(errors.NotFound):
            driver.mount(Mount("fuse", (), upper, work, replace(image, at=place / "absent")), target)
        with pytest.raises(errors.NotFound):
            driver.mount(Mount("fuse", (), upper, work, replace(image, devices=(place / "absent",))), target)
        for damage in (bytes(4096), b"", _tiny_image.metadata()[:2000]):
            (place / "metadata").write_bytes(damage)
            with pytest.raises(errors.LamellaError, match="damaged metadata"):
                driver.mount(Mount("fuse", (), upper, work, image), target)
        (place / "metadata").unlink()
        with pytest.raises(errors.NotFound):
            driver.mount(Mount("fuse", (), upper, work, image), target)
        assert mounts.upper_in_use(upper) is None

    above.run(scenario, place)


@pytest.mark.parametrize("name", [b"a,b", b"a:b", b"a b\\", b"a\nb", b"\xff\xfe=", b"l" * 250], ids=range(6))
def test_names_need_not_be_nice(above, place, name):
    def scenario(driver, place):
        base = place / os.fsdecode(name) / ("d" * 120)
        base.mkdir(parents=True)
        image = image_in(base)
        plain = b":" in name and above.name == "fuse-overlayfs"
        upper, work, target = branch(place if plain else base)
        mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
        assert (mounted.root / "file").read_bytes() == _tiny_image.CONTENT
        assert mounts.live_mount(upper) == mounted
        driver.unmount(mounted)

    above.run(scenario, place)


def test_many_mount_and_unmount_one_image_at_once(above, place):
    def scenario(driver, place):
        image = image_in(place)
        places = [branch(place, number) for number in range(4)]
        failures = []

        def work_on(upper, work, target):
            try:
                for _ in range(3):
                    mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
                    assert (mounted.root / "file").read_bytes() == _tiny_image.CONTENT
                    driver.unmount(mounted)
            except (errors.LamellaError, OSError, AssertionError) as error:
                failures.append(error)

        threads = [threading.Thread(target=work_on, args=each) for each in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    above.run(scenario, place)


def test_another_process_mounts_it_too_and_ends_both(above, place):
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from lamella.mounts import mount as m
from lamella.mounts.fuse import FuseDriver
from lamella.mounts.model import ErofsImage, Mount
place, above, first = Path(sys.argv[1]), sys.argv[2], m.Mounted.from_json(sys.argv[3])
image = ErofsImage(place / "metadata", (place / "device",), place / "at")
mine = FuseDriver(above=above).mount(Mount("fuse", (), place / "upper2", place / "work2", image), place / "target2")
assert (mine.root / "file").read_bytes() == (first.root / "file").read_bytes() == b"in place"
assert m.is_mounted(first)
m.unmount(first)
assert (mine.root / "file").read_bytes() == b"in place"
m.unmount(mine)
"""

    def scenario(driver, place):
        image = image_in(place)
        upper, work, target = branch(place)
        branch(place, 2)
        mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, place, above.name, mounted.to_json()]
        subprocess.run(command, check=True, env=environment)

    above.run(scenario, place)


def test_the_server_is_small_and_holds_nothing_else(above, place):
    def scenario(driver, place):
        image = image_in(place)
        upper, work, target = branch(place)
        mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
        (server,) = servers_at(place)
        try:
            opened = {os.readlink(f"/proc/{server}/fd/{fd}") for fd in os.listdir(f"/proc/{server}/fd")}
            files = {"/dev/null", "/dev/fuse", str(image.metadata), str(image.devices[0])}
            assert {name.removesuffix(" (deleted)") for name in opened} == files
            assert os.readlink(f"/proc/{server}/cwd") == "/"
            assert os.getsid(server) != os.getsid(0)
            status = Path(f"/proc/{server}/status").read_text()
            assert int(status.split("VmRSS:")[1].split()[0]) < 20_000
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(server, number)
            assert (mounted.root / "file").read_bytes() == _tiny_image.CONTENT
        finally:
            driver.unmount(mounted)

    above.run(scenario, place)


def test_a_tar_that_is_cut_short_is_an_error_of_reading(above, place):
    def scenario(driver, place):
        image = image_in(place)
        os.truncate(image.devices[0], 100)
        mounted = driver.mount(Mount("fuse", (), image=image), branch(place)[2])
        try:
            with pytest.raises(OSError) as caught:
                (mounted.root / "file").read_bytes()
            assert caught.value.errno == errno.EIO
            assert os.listdir(mounted.root) == ["file"]
        finally:
            driver.unmount(mounted)

    above.run(scenario, place)


def test_what_a_killed_probe_left_is_cleared_away(above, place):
    def scenario(driver, place):
        left = place / f"{trial.PREFIX}left"
        left.mkdir()
        image = image_in(left)
        upper, work, target = [left / name for name in ("upper", "work", "target")]
        for directory in (upper, work, target):
            directory.mkdir()
        driver.mount(Mount("fuse", (), upper, work, image), target)
        mounts.clear_probes(place)
        assert not left.exists()
        for pid in servers_at(place):
            processes.wait_until_gone(pid, processes.start_time(pid), patience=30)

    above.run(scenario, place)


@needs_root
def test_what_the_machine_lacks_is_said_with_how_to_get_it(place, monkeypatch):
    (place / "mine").mkdir(mode=0o777)
    (place / "mine").chmod(0o777)

    def without_helper():
        os.environ["PATH"] = "/nonexistent"
        return FuseDriver().probe(place / "mine").reason, _mount_error(place / "mine")

    reason, error = run_as_nobody(without_helper, prepare=fuse_for_all)
    assert reason == "the program fusermount3 is not installed: install the package fuse3"
    assert (type(error), error.code) == (errors.Unsupported, "fuse-missing")
    assert "install the package fuse3" in str(error)
    monkeypatch.setattr(_fuse, "_DEVICE", "/nonexistent/fuse")
    trial.forget()
    assert FuseDriver().probe(place).reason.startswith("there is no /nonexistent/fuse: load the kernel's module fuse")


def _mount_error(place):
    image = image_in(place)
    upper, work, target = branch(place)
    try:
        FuseDriver().mount(Mount("fuse", (), upper, work, image), target)
    except errors.LamellaError as error:
        return error
    return None


@needs_root
@needs_tool("fusermount3")
def test_a_user_may_not_mount_where_others_own(place):
    image = image_in(place)
    (place / "at-fuse").mkdir(mode=0o755)

    def attempt():
        made = branch(place / "mine")
        try:
            FuseDriver().mount(Mount("fuse", (), *made[:2], image), made[2])
        except errors.LamellaError as error:
            return error
        return None

    (place / "mine").mkdir()
    (place / "mine").chmod(0o777)
    (place / "at.lock").touch()
    refused = run_as_nobody(attempt, prepare=fuse_for_all)
    assert isinstance(refused, errors.AccessDenied)
    assert not images_at(place)


@needs_root
@needs_tool("strace")
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("mount:error=EPERM", "AccessDenied"),
        ("mount:error=ENODEV", "Unsupported"),
        ("openat:error=ENOENT:when=1", ""),
    ],
)
def test_refusals_are_typed_and_leave_no_process(place, fault, kind):
    image_in(place)
    branch(place)
    code = """
import sys
from pathlib import Path
from lamella.mounts.mount import *
from lamella.mounts.model import ErofsImage
p = Path(sys.argv[1])
image = ErofsImage(p / "metadata", (p / "device",), p / "at")
unmount(perform(Mount("fuse", (), p / "upper0", p / "work0", image), p / "target0"))
"""
    call = fault.partition(":")[0]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}"]
    done = subprocess.run([*command, sys.executable, "-c", code, place], capture_output=True, text=True, check=False)
    if kind:
        assert f"lamella.errors.{kind}: " in done.stderr
    assert not images_at(place)
    assert not servers_at(place)


@needs_root
@pytest.mark.parametrize(("program", "kind"), [("/bin/false", "Unavailable"), ("/nonexistent", "Unsupported")])
def test_a_server_that_cannot_be_run(place, monkeypatch, program, kind):
    monkeypatch.setattr(sys, "executable", program)
    error = _mount_error(place)
    assert type(error).__name__ == kind
    assert not images_at(place)


def test_the_form_is_the_users(place):
    assert FuseDriver().form is (Form.OVERLAY if os.geteuid() == 0 else Form.OVERLAY_USER)
    assert run_as_nobody(lambda: FuseDriver().form) is Form.OVERLAY_USER


def test_a_mount_without_an_image_is_one_of_the_driver_above(above, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        mounted = driver.mount(Mount("fuse", (), upper, work), target)
        assert mounted.driver == above.name
        assert mounts.live_mount(upper) == mounted
        mounts.unmount(mounted)

    above.run(scenario, place)


def test_every_mounted_image_is_told_by_its_overlay(above, place):
    def scenario(driver, place):
        image = image_in(place)
        upper, work, target = branch(place)
        mounted = driver.mount(Mount("fuse", (), upper, work, image), target)
        (point,) = images_at(place)
        assert image_mounts.attached(place / "at-fuse") == point
        assert _fuse.server_of(point) == servers_at(place)[0]
        assert _fuse.server_of(replace(point, device=point.device + 1)) == 0
        mounts.unmount(mounted)

    above.run(scenario, place)
