"""AUFS, which no kernel here has: the exact calls that are made, and what a kernel is told when it refuses.

strace lets the calls succeed without making them; everything else, modprobe included, is real, or a program in PATH.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from _machine import needs_root, needs_tool
from lamella import errors
from lamella.mounts import mount as mounts
from lamella.mounts.aufs import AufsDriver
from lamella.mounts.model import Form, Mount

pytestmark = [needs_root, needs_tool("strace")]

SCRIPT = """
import os, sys
from pathlib import Path
from lamella.mounts.mount import Mount, perform
place, count, writable = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "rw"
os.chdir(place)
layers = tuple(Path(f"L{number}") for number in range(1, count + 1))
print(perform(Mount("aufs", layers, Path("RW") if writable else None), Path("target")).to_json())
"""


@pytest.fixture
def trees(place):
    for name in ("RW", "target", "bin"):
        (place / name).mkdir()
    for number in range(1, 129):
        (place / f"L{number}").mkdir()
    return place


def program(place, name, body):
    path = place / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def run(place, *arguments, faults=("mount:retval=0",), script=SCRIPT, path=None):
    """Run the script under strace; its result, and the mount calls it made: source, target, type, flags, data."""
    trace = place / "trace"
    command = ["strace", "-f", "-qq", "-s", "9999", "-e", "trace=mount,umount2", "-e", "signal=none", "-o", trace]
    for fault in faults:
        command += ["-e", f"inject={fault}"]
    environment = os.environ | {"PATH": path or f"{place / 'bin'}:{os.environ['PATH']}"}
    command += [sys.executable, "-c", script, place, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    calls = []
    for line in trace.read_text().splitlines():
        call = line.partition(" ")[2].strip()
        if str(place / "target") in call:
            call = re.sub(r"\) += (-?\d+).*$", r") = \1", call.replace(f"{place}/", ""))
            # Of a remount strace shows the address of the type only, because the kernel does not look at it.
            calls.append(re.sub(r", 0x[0-9a-f]+, (MS_.*REMOUNT)", r", TYPE, \1", call))
    return done, calls


def branches(first, last):
    return "".join(f"L{number}=ro+wh:" for number in range(first, last + 1))


@pytest.mark.parametrize("count", [0, 1, 2, 42])
def test_the_call_of_2013(trees, count):
    done, calls = run(trees, count, "rw")
    assert done.returncode == 0, done.stderr
    assert calls == [f'mount("none", "target", "aufs", 0, "br:RW=rw:{branches(1, count)}") = 0']


@pytest.mark.parametrize("count", [43, 80, 126])
def test_layers_beyond_the_first_call_are_appended_one_at_a_time(trees, count):
    done, calls = run(trees, count, "rw")
    assert done.returncode == 0, done.stderr
    assert calls == [
        f'mount("none", "target", "aufs", 0, "br:RW=rw:{branches(1, 42)}") = 0',
        *(
            f'mount("none", "target", TYPE, MS_REMOUNT, "append:L{number}=ro+wh") = 0'
            for number in range(43, count + 1)
        ),
    ]


def test_read_only(trees):
    done, calls = run(trees, 127, "ro")
    assert done.returncode == 0, done.stderr
    assert calls[0] == f'mount("none", "target", "aufs", MS_RDONLY, "br:{branches(1, 43)}") = 0'
    assert calls[1] == 'mount("none", "target", TYPE, MS_RDONLY|MS_REMOUNT, "append:L44=ro+wh") = 0'
    assert calls[-1] == 'mount("none", "target", TYPE, MS_RDONLY|MS_REMOUNT, "append:L127=ro+wh") = 0'
    assert len(calls) == 1 + 127 - 43


@pytest.mark.parametrize(("count", "mode"), [(127, "rw"), (128, "ro"), (128, "rw")])
def test_more_branches_than_aufs_takes_are_refused_before_any_call(trees, count, mode):
    done, calls = run(trees, count, mode)
    branches_asked = count + (mode == "rw")
    assert f"lamella.errors.Unsupported: {trees}/target: {branches_asked} branches, and AUFS takes 127" in done.stderr
    assert calls == []


def test_the_first_call_never_overruns_the_page(trees):
    for number in range(1, 43):
        (trees / f"L{number}").rmdir()
        (trees / ("x" * 180 + str(number))).mkdir()
        (trees / f"L{number}").symlink_to("x" * 180 + str(number))
    done, calls = run(trees, 42, "rw")
    assert done.returncode == 0, done.stderr
    data = [re.search(r', "([^"]*)"\)', call)[1] for call in calls]
    named = re.findall(r"(x+\d+)=ro\+wh", " ".join(data))
    assert named == ["x" * 180 + str(number) for number in range(1, 43)]
    prefix = len(str(trees)) + 1
    assert len(data[0]) + data[0].count("=") * prefix <= 4095
    assert len(calls) > 10


@pytest.mark.parametrize(("size", "in_one_call"), [(4095, True), (4096, False)])
def test_the_page_holds_4095_bytes_and_the_nul_after_them(trees, size, in_one_call):
    left, around = size - len(f"br:{trees}/RW=rw:"), len(f"{trees}/=ro+wh:")
    count = -(-left // (around + 200))
    for number in range(1, count + 1):
        name = f"{number:02d}".ljust(left // count + (number <= left % count) - around, "x")
        (trees / name).mkdir()
        (trees / f"L{number}").rmdir()
        (trees / f"L{number}").symlink_to(name)
    done, calls = run(trees, count, "rw")
    assert done.returncode == 0, done.stderr
    assert (len(calls) == 1) is in_one_call


def test_paths_that_the_option_syntax_cannot_carry(trees):
    names = ("a:b", "a,b", "a=b", "a\\b")
    for number, name in enumerate(names, 1):
        (trees / name).mkdir()
        (trees / f"L{number}").rmdir()
        (trees / f"L{number}").symlink_to(name)
    done, calls = run(trees, 5, "rw")
    assert done.returncode == 0, done.stderr
    pattern = r'mount\("none", "target", "aufs", 0, "br:RW=rw:(/proc/self/fd/\d+=ro\+wh:){4}L5=ro\+wh:"\) = 0'
    assert re.fullmatch(pattern, calls[0])


def test_the_same_layer_twice_is_one_branch(trees):
    (trees / "L2").rmdir()
    (trees / "L2").symlink_to("L1")
    done, calls = run(trees, 3, "rw")
    assert done.returncode == 0, done.stderr
    assert calls == ['mount("none", "target", "aufs", 0, "br:RW=rw:L1=ro+wh:L3=ro+wh:") = 0']


def test_the_module_is_loaded_when_the_first_call_fails(trees):
    program(trees, "modprobe", f'echo "$@" > {trees}/modprobed')
    done, calls = run(trees, 2, "rw", faults=["mount:retval=0:when=2+"])
    assert done.returncode == 0, done.stderr
    assert (trees / "modprobed").read_text() == "aufs\n"
    call = 'mount("none", "target", "aufs", 0, "br:RW=rw:L1=ro+wh:L2=ro+wh:")'
    assert calls == [f"{call} = -1", f"{call} = 0"]


def test_a_module_that_cannot_be_loaded(trees):
    program(trees, "modprobe", "echo 'FATAL: Module aufs not found.' >&2; exit 1")
    done, calls = run(trees, 2, "rw", faults=[])
    assert "lamella.errors.Unsupported: " in done.stderr
    assert "the module cannot be loaded: FATAL: Module aufs not found." in done.stderr
    assert len(calls) == 1


def test_a_module_that_does_not_help(trees):
    program(trees, "modprobe", "true")
    done, calls = run(trees, 2, "rw", faults=[])
    assert "lamella.errors.Unsupported: " in done.stderr
    assert "cannot mount: No such device" in done.stderr
    assert len(calls) == 2


def test_a_caller_who_may_not_mount_loads_no_module(trees):
    program(trees, "modprobe", f"touch {trees}/modprobed")
    done, calls = run(trees, 2, "rw", faults=["mount:error=EPERM"])
    assert "lamella.errors.AccessDenied: " in done.stderr
    assert len(calls) == 1
    assert not (trees / "modprobed").exists()


def test_when_a_layer_cannot_be_appended_nothing_stays_mounted(trees):
    done, calls = run(trees, 60, "rw", faults=["mount:retval=0:when=1..10", "umount2:retval=0"])
    assert "lamella.errors.Unsupported: " in done.stderr
    assert len(calls) == 12
    assert calls[-2].endswith(" = -1")
    assert calls[-1] == 'umount2("target", MNT_DETACH) = 0'


PRETEND = """
import os, sys
from pathlib import Path
from lamella._sys import syscalls
place = Path(sys.argv[1])
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
lines = Path("/proc/self/mountinfo").read_text()
line = f"999 1 0:99 / {place}/target rw,relatime - aufs none rw,br:{place}/RW=rw:{place}/L1=ro+wh\\n"
(place / "mountinfo").write_text(lines + line)
syscalls.mount(os.fsencode(place / "mountinfo"), b"/proc/%d/mountinfo" % os.getpid(), None, syscalls.MS_BIND, None)
from lamella.mounts import mount as m
"""


def test_unmounting_flushes_the_pseudo_links_first(trees):
    program(trees, "auplink", f'echo "$@" >> {trees}/flushed; exit 1')
    script = PRETEND + "found = m.live_mount(place / 'RW'); print(found.driver, m.is_mounted(found)); m.unmount(found)"
    done, calls = run(trees, faults=["umount2:retval=0"], script=script)
    assert done.stdout == "aufs True\n", done.stderr
    assert (trees / "flushed").read_text() == f"{trees}/target flush\n"
    assert calls[-1] == 'umount2("target", UMOUNT_NOFOLLOW) = 0'


def test_a_branch_that_aufs_has_mounted_is_in_use(trees):
    script = PRETEND + "print(m.upper_in_use(place / 'RW'), m.upper_in_use(place / 'L1'))"
    done, _ = run(trees, faults=[], script=script)
    assert done.stdout == f"{trees}/target None\n", done.stderr


def test_a_branch_that_aufs_has_mounted_is_not_mounted_again(trees):
    script = PRETEND + "m.perform(m.Mount('aufs', (place / 'L2',), place / 'RW'), place / 'target')"
    done, calls = run(trees, faults=[], script=script)
    assert f"FailedPrecondition: {trees}/RW: mounted already, at {trees}/target" in done.stderr
    assert calls == []


def test_this_kernel_says_why_not(trees):
    if "aufs" in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has AUFS")
    driver = AufsDriver()
    assert driver.form is Form.AUFS
    probe = driver.probe(trees)
    assert not probe.ok
    assert "aufs" in probe.reason.lower() or "No such device" in probe.reason
    with pytest.raises(errors.Unsupported):
        driver.mount(Mount("aufs", (trees / "L1",), trees / "RW"), trees / "target")
    assert mounts.upper_in_use(trees / "RW") is None
