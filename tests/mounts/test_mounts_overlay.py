"""What only the kernel's overlayfs has: numbers of layers, the old interface, and what layers must not get it to do."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from _machine import file_system, needs_root, needs_tool
from lamella import errors
from lamella._sys import mountinfo
from lamella.mounts import _overlayfs
from lamella.mounts import mount as mounts
from lamella.mounts.model import Mount
from lamella.mounts.overlay import OverlayDriver

pytestmark = needs_root


@pytest.fixture
def dirs(place):
    for name in ("upper", "work", "target"):
        (place / name).mkdir()
    return place / "upper", place / "work", place / "target"


def many(place, count, length=4):
    layers = []
    for number in range(count):
        layer = place / f"{number:04}".ljust(length, "x")
        layer.mkdir()
        (layer / f"file{number}").write_text(str(number))
        (layer / "same").write_text(str(number))
        layers.append(layer)
    return tuple(layers)


@pytest.mark.parametrize("interface", ["fd", "string"])
def test_five_hundred_layers_and_no_more(place, dirs, interface):
    upper, work, target = dirs
    driver = OverlayDriver(interface=interface)
    layers = many(place, 501, length=200)
    mounted = driver.mount(Mount("overlay", layers[:500], upper, work), target)
    assert len(os.listdir(target)) == 501
    assert (target / "same").read_text() == "0"
    driver.unmount(mounted)
    with pytest.raises(errors.Unsupported, match="too many lower directories, limit is 500") as caught:
        driver.mount(Mount("overlay", layers, upper, work), target)
    assert caught.value.code == "mount-refused"
    mounted = driver.mount(Mount("overlay", (*layers[:500], *layers[:500]), upper, work), target)
    driver.unmount(mounted)


@pytest.mark.parametrize("count", [1, 2, 60, 200])
def test_the_old_interface_takes_what_a_page_takes(place, dirs, count):
    upper, work, target = dirs
    driver = OverlayDriver(interface="classic")
    mounted = driver.mount(Mount("overlay", many(place, count), upper, work), target)
    assert len(os.listdir(target)) == count + 1
    assert mounts.upper_in_use(upper) == target
    driver.unmount(mounted)


def test_the_old_interface_never_mounts_half_of_the_layers(place, dirs):
    """The kernel would cut the text off and mount what is left of it."""
    upper, work, target = dirs
    with pytest.raises(errors.Unsupported) as caught:
        OverlayDriver(interface="classic").mount(Mount("overlay", many(place, 400), upper, work), target)
    assert caught.value.code == "mount-options-long"
    assert "400 layers" in str(caught.value)


def test_layers_of_random_names(place, dirs):
    upper, work, target = dirs
    rnd = random.Random(6)
    for interface in ("fd", "string", "classic"):
        layers = []
        for number in range(20):
            letters = [c for c in range(1, 256) if c != ord("/")]
            name = bytes(rnd.choice(b",:\\ =\n" if rnd.random() < 0.5 else letters) for _ in range(rnd.randint(1, 40)))
            layer = place / interface / os.fsdecode(b"%d" % number + name)
            layer.mkdir(parents=True)
            (layer / str(number)).write_text("")
            layers.append(layer)
        driver = OverlayDriver(interface=interface)
        mounted = driver.mount(Mount("overlay", tuple(layers), upper, work), target)
        assert sorted(os.listdir(target)) == sorted(str(number) for number in range(20))
        driver.unmount(mounted)


@pytest.mark.parametrize("interface", ["fd", "string", "classic"])
def test_what_a_layer_says_about_overlays_is_not_followed(place, dirs, interface):
    """Redirects and metadata-only copies, put into a layer by whoever made it, point nowhere."""
    upper, work, target = dirs
    top, bottom = many(place, 2)
    (bottom / "secret").mkdir()
    (bottom / "secret" / "file").write_text("secret")
    (bottom / "data").write_text("data of the layer below")
    (top / "window").mkdir()
    os.setxattr(top / "window", "trusted.overlay.redirect", b"/secret")
    (top / "data").write_text("")
    os.setxattr(top / "data", "trusted.overlay.metacopy", b"")
    driver = OverlayDriver(interface=interface)
    mounted = driver.mount(Mount("overlay", (top, bottom), upper, work), target)
    try:
        try:
            shown = os.listdir(target / "window")
        except OSError:
            shown = []
        assert shown == []
        try:
            content = (target / "data").read_text()
        except OSError:
            content = ""
        assert content == ""
    finally:
        driver.unmount(mounted)


@pytest.mark.parametrize("interface", ["fd", "string", "classic"])
def test_what_a_mount_leaves_in_the_upper_depends_on_nothing_but_the_changes(place, dirs, interface):
    upper, work, target = dirs
    layers = many(place, 2)
    (layers[1] / "dir").mkdir()
    driver = OverlayDriver(interface=interface)
    mounted = driver.mount(Mount("overlay", layers, upper, work), target)
    point = mountinfo.mount_at(target)
    assert point is not None
    assert point.super_option(b"redirect_dir") in (b"nofollow", None)
    assert point.super_option(b"index") in (b"off", None)
    assert point.super_option(b"metacopy") in (b"off", None)
    assert point.source == "lamella"
    with pytest.raises(OSError, match="Invalid cross-device link"):
        (target / "dir").rename(target / "renamed")
    driver.unmount(mounted)
    assert set(os.listxattr(upper)) <= {"trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid"}
    if interface == "fd":
        assert "trusted.overlay.uuid" not in os.listxattr(upper)


def test_an_upper_where_overlayfs_cannot_have_one(place, dirs):
    upper, work, target = dirs
    layers = many(place, 2)
    driver = OverlayDriver()
    mounted = driver.mount(Mount("overlay", layers, upper, work), target)
    try:
        for name in ("u", "w", "t"):
            (target / name).mkdir()
        with pytest.raises(errors.Unsupported, match="upperdir") as caught:
            driver.mount(Mount("overlay", layers, target / "u", target / "w"), target / "t")
        assert caught.value.code == "mount-refused"
        assert caught.value.subject == str(target / "t")
    finally:
        driver.unmount(mounted)


def test_overlapping_layers(place, dirs):
    upper, work, target = dirs
    (layer,) = many(place, 1)
    (layer / "inside").mkdir()
    with pytest.raises(errors.InvalidInput) as caught:
        OverlayDriver().mount(Mount("overlay", (layer, layer / "inside"), upper, work), target)
    assert caught.value.code == "mount-overlap"


def test_an_overlay_can_be_a_layer(place, dirs):
    upper, work, target = dirs
    layers = many(place, 3)
    (place / "view").mkdir()
    driver = OverlayDriver()
    view = driver.mount(Mount("overlay", layers[:2]), place / "view")
    mounted = driver.mount(Mount("overlay", (place / "view", layers[2]), upper, work), target)
    assert sorted(os.listdir(target)) == ["file0", "file1", "file2", "same"]
    driver.unmount(mounted)
    driver.unmount(view)


SCRIPT = """
import sys
from pathlib import Path
from lamella.mounts import _overlayfs
from lamella.mounts.mount import Mount, perform, unmount
place = Path(sys.argv[1])
lowers = tuple(place / name for name in sys.argv[2:])
upper = place / "upper" if len(lowers) > 1 else None
mounted = perform(Mount("overlay", lowers, upper, place / "work"), place / "target")
print(_overlayfs.interface(), sorted(path.name for path in mounted.root.iterdir()))
unmount(mounted)
"""


@needs_tool("strace")
@pytest.mark.parametrize(
    ("lacking", "interface"),
    [
        ("fsopen", "classic"),  # before 5.2, or a filter
        ("fsconfig:error=EINVAL:when=2", "string"),  # before 6.13: layers, but not by descriptor
        ("fsconfig:error=EINVAL:when=2..3", "classic"),  # before 6.8: no layer at a time
        ("fsconfig:retval=0:when=1", "classic"),  # before 6.5: a context that believes everything
        ("statx", "fd"),
    ],
)
def test_kernels_that_lack_a_call(place, dirs, lacking, interface):
    many(place, 2)
    fault = lacking if ":" in lacking else f"{lacking}:error=ENOSYS"
    call = lacking.partition(":")[0]
    command = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}"]
    for layers in (["0000", "0001"], ["0000"]):
        done = subprocess.run(
            [*command, sys.executable, "-c", SCRIPT, place, *layers], capture_output=True, text=True, check=True
        )
        files = ["file0", "file1", "same"] if len(layers) == 2 else ["file0", "same"]
        assert done.stdout == f"{interface} {files}\n"


@needs_tool("strace")
@pytest.mark.parametrize("call", ["fsmount", "move_mount", "fsconfig:when=9"])
def test_a_mount_that_fails_on_the_way_leaves_nothing(place, dirs, call):
    many(place, 2)
    name, _, when = call.partition(":")
    fault = f"inject={name}:error=ENOMEM" + (f":{when}" if when else "")
    command = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", fault, sys.executable, "-c", SCRIPT]
    done = subprocess.run([*command, place, "0000", "0001"], capture_output=True, text=True, check=False)
    assert "lamella.errors.ResourceExhausted" in done.stderr
    assert mountinfo.mount_at(place / "target") is None
    assert mounts.upper_in_use(place / "upper") is None


def test_this_kernel_is_one_of_the_three(place):
    assert _overlayfs.interface() in ("fd", "string", "classic")


def test_a_full_disk_below_a_mount_is_the_writers_to_see(place):
    with file_system("xfs", place) as directory:
        for name in ("lower", "upper", "work", "target"):
            (directory / name).mkdir()
        driver = OverlayDriver()
        assert driver.probe(directory).ok
        mount = Mount("overlay", (directory / "lower",), directory / "upper", directory / "work")
        mounted = driver.mount(mount, directory / "target")
        with pytest.raises(OSError, match="No space left"):
            (mounted.root / "big").write_bytes(bytes(512 << 20))
        driver.unmount(mounted)


def test_relative_paths_are_of_this_moment(place, dirs):
    many(place, 2)
    here = Path.cwd()
    os.chdir(place)
    try:
        mount = Mount("overlay", (Path("0000"), Path("0001")), Path("upper"), Path("work"))
        mounted = OverlayDriver().mount(mount, Path("target"))
    finally:
        os.chdir(here)
    assert mounted.root == place / "target"
    OverlayDriver().unmount(mounted)
