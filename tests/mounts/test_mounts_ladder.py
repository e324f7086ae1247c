from __future__ import annotations

import os
import subprocess
import sys

import pytest

from _machine import fuse_for_all, needs_root, needs_tool, run_as_nobody
from lamella import errors
from lamella.mounts import mount as mounts
from lamella.mounts import trial
from lamella.mounts.model import Form
from lamella.mounts.mount import DRIVERS
from lamella.testing import disks
from support import needs


@pytest.fixture(autouse=True)
def _asked_anew():
    trial.forget()


def test_the_order():
    assert DRIVERS == ("erofs", "overlay", "fuse", "userns", "fuse-overlayfs", "aufs", "copy")
    assert [driver.name for driver in mounts.ladder()] == list(DRIVERS)
    forms = {driver.name: driver.form for driver in mounts.ladder()}
    assert forms == {
        "overlay": Form.OVERLAY,
        "userns": Form.OVERLAY_USER,
        "fuse-overlayfs": Form.OVERLAY_USER,
        "aufs": Form.AUFS,
        "copy": Form.PLAIN,
        "erofs": Form.OVERLAY,
        "fuse": Form.OVERLAY if os.geteuid() == 0 else Form.OVERLAY_USER,
    }


@needs_root
def test_the_first_that_works_is_chosen(place):
    assert mounts.choose(place).name == "erofs"
    assert mounts.choose(place, in_place=False).name == "overlay"
    assert run_as_nobody(lambda: mounts.choose(place).name) in ("userns", "copy")
    assert run_as_nobody(lambda: mounts.choose(place).name, prepare=fuse_for_all) in ("fuse", "userns", "copy")


@needs_root
def test_where_overlay_cannot_be_another_is_chosen(place):
    """In an overlay, as in a container: its upper cannot lie on another."""
    for name in ("lower", "upper", "work", "target"):
        (place / name).mkdir()
    mount = mounts.Mount("overlay", (place / "lower",), place / "upper", place / "work")
    mounted = mounts.perform(mount, place / "target")
    try:
        for name in ("overlay", "userns"):
            probe = mounts.driver(name).probe(place / "target")
            assert not probe.ok
            assert "upperdir" in probe.reason
        assert mounts.choose(place / "target").name in ("fuse-overlayfs", "copy")
        assert os.listdir(place / "target") == []
    finally:
        trial.forget()
        mounts.unmount(mounted)


def test_a_forced_driver_is_taken_or_refused_with_the_reason(place):
    assert mounts.choose(place, "copy").name == "copy"
    with pytest.raises(errors.InvalidInput) as unknown:
        mounts.choose(place, "devicemapper")
    assert unknown.value.code == "driver-unknown"
    assert "erofs, overlay, fuse, userns, fuse-overlayfs, aufs, copy" in str(unknown.value)
    with pytest.raises(errors.Unsupported) as refused:
        mounts.choose(place / "absent", "copy")
    assert refused.value.code == "driver-unusable"
    assert refused.value.subject == "driver copy"


@needs_root
def test_where_nothing_works_everything_says_why(place):
    (place / "closed").mkdir(mode=0o755)

    def attempt():
        try:
            mounts.choose(place / "closed")
        except errors.Unsupported as error:
            return error.code, error.reason
        return None

    code, reason = run_as_nobody(attempt, prepare=fuse_for_all)
    assert code == "driver-none"
    for name in DRIVERS:
        assert f"{name}: " in reason
    assert reason.count("Permission denied") >= 3


@needs_root
def test_the_answer_is_remembered_for_the_directory_and_the_user(place):
    (place / "one").mkdir(mode=0o777)
    (place / "one").chmod(0o777)
    (place / "two").mkdir(mode=0o755)

    def ask():
        first = mounts.driver("userns").probe(place / "one")
        os.rename(place / "one", place / "moved")
        (place / "one").mkdir(mode=0o500)
        second = mounts.driver("userns").probe(place / "one")
        trial.forget()
        third = mounts.driver("userns").probe(place / "one")
        return first.ok, second.ok, third.ok, mounts.driver("userns").probe(place / "two").ok

    first, second, third, other = run_as_nobody(ask)
    if not first:
        pytest.skip("userns does not work here")
    assert (second, third, other) == (True, False, False)


@needs_root
@pytest.mark.parametrize("name", DRIVERS)
def test_probing_leaves_nothing(place, name):
    (place / "at").mkdir()
    probe = mounts.driver(name).probe(place / "at")
    assert probe.ok or probe.reason
    assert os.listdir(place / "at") == []
    with open("/proc/self/mountinfo") as file:
        assert [line for line in file if f"{place}/at" in line] == []


@needs_root
@needs_tool("strace")
@pytest.mark.parametrize(
    "fault", ["fsopen,mount:error=ENODEV", "move_mount:error=EINVAL", "unlink:error=EIO", "openat:error=EROFS:when=80+"]
)
def test_a_probe_that_fails_says_why_and_leaves_nothing(place, fault):
    code = "import sys; from pathlib import Path; from lamella.mounts import mount as m;"
    code += "p = m.driver('overlay').probe(Path(sys.argv[1])); print(p.ok, p.reason)"
    call = fault.partition(":")[0]
    command = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}", sys.executable]
    done = subprocess.run([*command, "-c", code, place], capture_output=True, text=True, check=False)
    if "when" not in fault:
        assert done.stdout.startswith("False "), done.stderr
        assert len(done.stdout) > len("False \n")
    if "EROFS" not in fault:  # with that one not even the clean-up can open a directory
        assert os.listdir(place) == []


@needs_root
def test_a_full_disk_says_nothing_about_drivers_and_is_not_remembered(tmp_path):
    if reason := disks.missing():
        needs.missing(reason.removeprefix("needs "))
    with disks.small_disk(tmp_path / "disk", kib=256) as disk:
        (disk / "ballast").write_bytes(bytes(256 << 10))
        for forced in (None, "overlay"):
            with pytest.raises(errors.ResourceExhausted) as caught:
                mounts.choose(disk, forced)
            assert caught.value.code == "driver-exhausted"
        (disk / "ballast").unlink()
        assert mounts.choose(disk, "overlay").name == "overlay"
        assert list(disk.iterdir()) == []
