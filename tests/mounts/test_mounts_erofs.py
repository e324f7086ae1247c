"""Images mounted in place: how they are shared, what becomes of them, and where the kernel will not take files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from _machine import file_system, needs_root
from lamella import errors
from lamella._sys import mountinfo
from lamella.mounts import _tiny_image, trial
from lamella.mounts import mount as mounts
from lamella.mounts.erofs import ErofsDriver
from lamella.mounts.image_mounts import drop, release
from lamella.mounts.model import ErofsImage, Mount, Mounted

pytestmark = needs_root


@pytest.fixture(params=["files", "loops"])
def driver(request, place):
    """The driver, as it is and through loop devices only."""
    found = ErofsDriver(loops=request.param == "loops")
    probe = found.probe(place)
    if not probe.ok:
        pytest.skip(f"the driver erofs, by {request.param}: {probe.reason}")
    return found


def image_in(place, *, devices=1):
    (place / "metadata").write_bytes(_tiny_image.metadata())
    (place / "device").write_bytes(_tiny_image.device())
    (place / "at").mkdir()
    return ErofsImage(place / "metadata", (place / "device",) * devices, place / "at")


def branch(place, number=0):
    made = [place / f"{name}{number}" for name in ("upper", "work", "target")]
    for directory in made:
        directory.mkdir()
    return made


def images_at(place):
    return [p.target for p in mountinfo.mount_points() if p.fs_type == "erofs" and p.target.is_relative_to(place)]


def loop_devices_of(place):
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # gone this moment
            found += [path] if str(place) in path.read_text() else []
    return found


def test_an_image_is_mounted_while_something_stands_on_it(driver, place):
    image = image_in(place)
    mounted = []
    for number in range(3):
        upper, work, target = branch(place, number)
        (tree := place / f"tree{number}").mkdir()
        (tree / "between").write_text(str(number))
        mounted.append(driver.mount(Mount("erofs", (tree,), upper, work, image), target))
        assert images_at(place) == [place / "at"]
        assert (target / "file").read_bytes() == _tiny_image.CONTENT
        assert (target / "between").read_text() == str(number)
        (target / "file").write_text(f"changed {number}")
        assert mounts.live_mount(upper) == mounted[-1]
        assert mounted[-1].driver == "erofs"
    for number, one in enumerate(mounted):
        assert (one.root / "file").read_text() == f"changed {number}"
        mounts.unmount(Mounted.from_json(one.to_json()))
        assert len(images_at(place)) == (number < 2)
    assert not loop_devices_of(place)


def test_without_an_upper(driver, place):
    image = image_in(place)
    target = branch(place)[2]
    mounted = driver.mount(Mount("erofs", (), image=image), target)
    try:
        assert os.listdir(target) == ["file"]
        with pytest.raises(OSError, match="Read-only file system"):
            (target / "new").write_text("new")
    finally:
        driver.unmount(mounted)
    assert not images_at(place)


def test_whoever_takes_the_mount_of_the_image_away_does_no_harm(driver, place):
    image = image_in(place)
    (upper, work, target), (upper2, work2, target2) = branch(place, 1), branch(place, 2)
    mounted = driver.mount(Mount("erofs", (), upper, work, image), target)
    assert not release(place / "at")
    drop(place / "at")
    assert not images_at(place)
    assert (target / "file").read_bytes() == _tiny_image.CONTENT
    again = driver.mount(Mount("erofs", (), upper2, work2, image), target2)
    assert (target2 / "file").read_bytes() == _tiny_image.CONTENT
    for one in (again, mounted):
        assert driver.is_mounted(one)
        driver.unmount(one)
        assert not driver.is_mounted(one)
    assert not images_at(place)


def test_what_is_left_by_others_is_taken_up(driver, place):
    image = image_in(place)
    upper, work, target = branch(place)
    mounted = driver.mount(Mount("erofs", (), upper, work, image), target)
    subprocess.run(["umount", target], check=True)
    driver.unmount(mounted)
    assert images_at(place) == [place / "at"]
    again = driver.mount(Mount("erofs", (), upper, work, image), target)
    driver.unmount(again)
    assert not images_at(place)
    assert release(place / "at")
    assert release(place / "nowhere" / "at")


def test_a_failed_mount_leaves_nothing(driver, place):
    image = image_in(place)
    upper, work, target = branch(place)
    with pytest.raises(errors.NotFound):
        driver.mount(Mount("erofs", (place / "absent",), upper, work, image), target)
    assert not images_at(place)
    (place / "metadata").write_bytes(bytes(4096))
    with pytest.raises(errors.Unsupported) as caught:
        driver.mount(Mount("erofs", (), upper, work, image), target)
    assert caught.value.code == "mount-refused"
    (place / "metadata").unlink()
    with pytest.raises(errors.NotFound):
        driver.mount(Mount("erofs", (), upper, work, image), target)
    assert not images_at(place)
    assert mounts.upper_in_use(upper) is None
    assert not loop_devices_of(place)


@pytest.mark.parametrize("name", [b"a,b", b"a:b", b"a b\\", b"a\nb", b"\xff\xfe=", b"l" * 250], ids=range(6))
def test_names_need_not_be_nice(driver, place, name):
    base = place / os.fsdecode(name) / ("d" * 120)
    base.mkdir(parents=True)
    image = image_in(base)
    upper, work, target = branch(base)
    mounted = driver.mount(Mount("erofs", (), upper, work, image), target)
    assert (target / "file").read_bytes() == _tiny_image.CONTENT
    assert mounts.live_mount(upper) == mounted
    driver.unmount(mounted)
    assert not images_at(place)


def test_many_mount_and_unmount_one_image_at_once(driver, place):
    image = image_in(place)
    places = [branch(place, number) for number in range(6)]
    failures = []

    def work_on(upper, work, target):
        try:
            for _ in range(15):
                mounted = driver.mount(Mount("erofs", (), upper, work, image), target)
                assert (target / "file").read_bytes() == _tiny_image.CONTENT
                driver.unmount(mounted)
        except (errors.LamellaError, OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work_on, args=each) for each in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not images_at(place)
    assert not loop_devices_of(place)


def test_another_process_ends_it(driver, place):
    image = image_in(place)
    upper, work, target = branch(place)
    mounted = driver.mount(Mount("erofs", (), upper, work, image), target)
    code = "import sys; from lamella.mounts import mount as m; r = m.Mounted.from_json(sys.argv[1]); "
    code += "assert m.is_mounted(r); m.unmount(r); assert not m.is_mounted(r)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, mounted.to_json()], check=True, env=environment)
    assert not images_at(place)


def test_a_file_system_whose_files_the_kernel_does_not_take(place):
    """On tmpfs the image goes through loop devices, by itself."""
    with file_system("tmpfs", place) as fs:
        trial.forget()
        driver = ErofsDriver()
        probe = driver.probe(fs)
        if not probe.ok:
            pytest.skip(f"the driver erofs: {probe.reason}")
        image = image_in(fs)
        upper, work, target = branch(fs)
        mounted = driver.mount(Mount("erofs", (), upper, work, image), target)
        assert (target / "file").read_bytes() == _tiny_image.CONTENT
        driver.unmount(mounted)
        assert not loop_devices_of(fs)


def test_a_mount_without_an_image_is_an_overlay(place):
    upper, work, target = branch(place)
    mounted = ErofsDriver().mount(Mount("erofs", (), upper, work), target)
    assert mounted.driver == "overlay"
    assert mounts.live_mount(upper) == mounted
    mounts.unmount(mounted)
