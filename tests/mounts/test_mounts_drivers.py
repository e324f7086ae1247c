"""What every driver that stacks layers must do, as root and as a user: one suite, run for each way to mount."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from _machine import NOBODY, fuse_for_all, run_as_nobody
from lamella import errors
from lamella.mounts import mount as mounts
from lamella.mounts.erofs import ErofsDriver
from lamella.mounts.fuse import FuseDriver
from lamella.mounts.fuse_overlayfs import FuseOverlayfsDriver
from lamella.mounts.model import Form, Mount, Mounted
from lamella.mounts.overlay import OverlayDriver
from lamella.mounts.userns import UserNamespaceDriver


class Way:
    """A driver, and the user it runs as."""

    def __init__(self, name, make, *, user=False, prepare=None):
        self.name = name
        self.make = make
        self.user = user
        self.prepare = prepare

    def run(self, scenario, place):
        """Run a scenario with the driver, as the user; skip where the driver does not work."""

        def body():
            os.chdir(place)
            driver = self.make()
            probe = driver.probe(place)
            return probe if not probe.ok else scenario(driver, place)

        if not self.user and os.geteuid() != 0 and self.name.startswith("overlay"):
            pytest.skip("needs root")
        here = os.getcwd()
        try:
            answer = run_as_nobody(body, prepare=self.prepare) if self.user else body()
        finally:
            os.chdir(here)
        if answer is not None:
            pytest.skip(f"{self.name}: {answer.reason}")


WAYS = [
    Way("overlay", OverlayDriver),
    Way("overlay-string", lambda: OverlayDriver(interface="string")),
    Way("overlay-classic", lambda: OverlayDriver(interface="classic")),
    Way("erofs", ErofsDriver),
    Way("userns", UserNamespaceDriver),
    Way("userns-of-a-user", UserNamespaceDriver, user=True),
    Way("fuse-overlayfs", FuseOverlayfsDriver),
    Way("fuse-overlayfs-of-a-user", FuseOverlayfsDriver, user=True, prepare=fuse_for_all),
    Way("fuse", FuseDriver),
    Way("fuse-of-a-user", FuseDriver, user=True, prepare=fuse_for_all),
]


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request):
    return request.param


OPAQUE = {Form.OVERLAY: "trusted.overlay.opaque", Form.OVERLAY_USER: "user.overlay.opaque"}


def layers(place, form, *names):
    """The layers of the tests, topmost first: ``top`` deletes, hides and replaces what the others have."""
    for name in names or ("top", "middle", "bottom"):
        (place / name).mkdir()
    if names:
        return tuple(place / name for name in names)
    top, middle, bottom = (place / name for name in ("top", "middle", "bottom"))
    for layer in (middle, bottom):
        for path in ("shared/file", "opaque/hidden", "gone.d/file"):
            (layer / path).parent.mkdir(exist_ok=True)
            (layer / path).write_text(layer.name)
    (bottom / "only-bottom").write_text("bottom")
    (bottom / "gone").write_text("bottom")
    (bottom / "becomes-dir").write_text("bottom")
    (middle / "shared" / "middle").write_text("middle")
    (top / "shared").mkdir(mode=0o750)
    (top / "shared" / "file").write_text("top")
    (top / "opaque").mkdir()
    (top / "opaque" / "shown").write_text("top")
    os.setxattr(top / "opaque", OPAQUE[form], b"y")
    os.mknod(top / "gone", stat.S_IFCHR, 0)
    os.mknod(top / "gone.d", stat.S_IFCHR, 0)
    (top / "becomes-dir").mkdir()
    return top, middle, bottom


def branch(place, number=""):
    upper, work, target = (place / f"{name}{number}" for name in ("upper", "work", "target"))
    for directory in (upper, work, target):
        directory.mkdir()
    return upper, work, target


def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


MERGED = [
    "becomes-dir",
    "only-bottom",
    "opaque",
    "opaque/shown",
    "shared",
    "shared/file",
    "shared/middle",
]


def test_layers_are_stacked(way, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        mount = Mount(driver.name, layers(place, driver.form), upper, work)
        mounted = driver.mount(mount, target)
        try:
            assert listing(mounted.root) == MERGED
            assert (mounted.root / "shared" / "file").read_text() == "top"
            assert (mounted.root / "shared").stat().st_mode & 0o777 == 0o750
            (mounted.root / "only-bottom").write_text("changed")
            (mounted.root / "shared" / "middle").unlink()
            (mounted.root / "new").write_text("new")
        finally:
            driver.unmount(mounted)
        assert listing(target) == []
        assert listing(upper) == ["new", "only-bottom", "shared", "shared/middle"]
        whiteout = (upper / "shared" / "middle").lstat()
        assert stat.S_ISCHR(whiteout.st_mode)
        assert whiteout.st_rdev == 0
        assert (place / "bottom" / "only-bottom").read_text() == "bottom"
        again = driver.mount(mount, target)
        try:
            assert (again.root / "only-bottom").read_text() == "changed"
            assert not (again.root / "shared" / "middle").exists()
        finally:
            driver.unmount(again)

    way.run(scenario, place)


def test_without_an_upper_it_is_read_only(way, place):
    def scenario(driver, place):
        target = branch(place)[2]
        lowers = layers(place, driver.form)
        for count, expected in ((3, MERGED), (1, ["becomes-dir", "opaque", "opaque/shown", "shared", "shared/file"])):
            mounted = driver.mount(Mount(driver.name, lowers[:count]), target)
            try:
                assert listing(mounted.root) == expected
                with pytest.raises(OSError, match="Read-only file system"):
                    (mounted.root / "new").write_text("new")
            finally:
                driver.unmount(mounted)

    way.run(scenario, place)


def test_an_upper_without_lowers(way, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        mounted = driver.mount(Mount(driver.name, (), upper, work), target)
        try:
            assert listing(mounted.root) == []
            (mounted.root / "new").write_text("new")
        finally:
            driver.unmount(mounted)
        assert listing(upper) == ["new"]

    way.run(scenario, place)


def test_the_same_layer_twice(way, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        top, middle, bottom = layers(place, driver.form)
        mounted = driver.mount(Mount(driver.name, (top, middle, top, bottom, middle), upper, work), target)
        try:
            assert listing(mounted.root) == MERGED
        finally:
            driver.unmount(mounted)

    way.run(scenario, place)


@pytest.mark.parametrize(
    "name", [b"a,b", b"a:b", b"a b", b"a\\b", b"a\nb", b"a\xff\xfe", b"=\"'$()", b"lowerdir=,upperdir=", b"l" * 250]
)
def test_names_need_not_be_nice(way, place, name):
    name = os.fsdecode(name)

    def scenario(driver, place):
        base = place / name
        base.mkdir()
        upper, work, target = branch(place if driver.name == "fuse-overlayfs" and ":" in name else base)
        lowers = layers(base, driver.form, name, "plain")
        (lowers[0] / "file").write_text("odd")
        (lowers[1] / "file").write_text("plain")
        mounted = driver.mount(Mount(driver.name, lowers, upper, work), target)
        try:
            assert (mounted.root / "file").read_text() == "odd"
            (mounted.root / "file").write_text("changed")
            if driver.name != "overlay" or driver._interface is None:
                assert mounts.upper_in_use(upper) == target
            assert driver.is_mounted(Mounted.from_json(mounted.to_json()))
        finally:
            driver.unmount(Mounted.from_json(mounted.to_json()))
        assert not driver.is_mounted(mounted)
        assert (upper / "file").read_text() == "changed"

    way.run(scenario, place)


def test_a_mount_is_taken_up_and_ended_by_another_process(way, place):
    code = "import sys; from lamella.mounts import mount as m; r = m.Mounted.from_json(sys.argv[1]); "
    code += "assert m.is_mounted(r); m.unmount(r); assert not m.is_mounted(r); m.unmount(r)"

    def scenario(driver, place):
        upper, work, target = branch(place)
        mounted = driver.mount(Mount(driver.name, layers(place, driver.form), upper, work), target)
        try:
            assert driver.is_mounted(mounted)
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            subprocess.run([sys.executable, "-c", code, mounted.to_json()], check=True, env=environment)
            assert not driver.is_mounted(mounted)
            driver.unmount(mounted)
        finally:
            driver.unmount(mounted)

    way.run(scenario, place)


def test_what_is_in_use_is_not_unmounted(way, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        mounted = driver.mount(Mount(driver.name, layers(place, driver.form), upper, work), target)
        try:
            with open(mounted.root / "file", "w") as file:
                file.write("half")
                with pytest.raises(errors.Conflict) as caught:
                    driver.unmount(mounted)
                assert caught.value.code == "mount-busy"
                assert driver.is_mounted(mounted)
                file.write(" and half")
        finally:
            driver.unmount(mounted)
        assert (upper / "file").read_text() == "half and half"

    way.run(scenario, place)


def test_an_upper_is_mounted_once_by_whatever_driver(way, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        _, other_work, other_target = branch(place, 2)
        lowers = layers(place, driver.form)
        assert mounts.upper_in_use(upper) is None
        assert mounts.live_mount(upper) is None
        mounted = driver.mount(Mount(driver.name, lowers, upper, work), target)
        try:
            assert mounts.upper_in_use(upper) == target
            assert mounts.live_mount(upper) == mounted
            assert mounts.upper_in_use(upper / ".." / "upper") == target
            assert mounts.upper_in_use(place / "upper2") is None
            assert mounts.upper_in_use(place / "top") is None
            for other in mounts.ladder():
                if other.name == "fuse-overlayfs" and shutil.which("fuse-overlayfs") is None:
                    continue
                stack = () if other.form in (Form.PLAIN, Form.AUFS) else lowers
                with pytest.raises(errors.FailedPrecondition) as caught:
                    other.mount(Mount(other.name, stack, upper, other_work), other_target)
                assert caught.value.code == "snapshot-mounted"
                assert str(target) in str(caught.value)
        finally:
            driver.unmount(mounts.live_mount(upper) or mounted)
        assert mounts.upper_in_use(upper) is None

    way.run(scenario, place)


def test_of_many_who_mount_an_upper_at_once_one_does(way, place):
    def scenario(driver, place):
        upper = branch(place)[0]
        lowers = layers(place, driver.form)
        places = [branch(place, number) for number in range(1, 6)]
        results = []

        def attempt(work, target):
            try:
                results.append(driver.mount(Mount(driver.name, lowers, upper, work), target))
            except errors.FailedPrecondition as error:
                results.append(error.code)

        threads = [threading.Thread(target=attempt, args=place[1:]) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = [result for result in results if isinstance(result, Mounted)]
        for mounted in done:
            driver.unmount(mounted)
        assert len(done) == 1
        assert results.count("snapshot-mounted") == 4

    way.run(scenario, place)


def test_a_record_of_an_earlier_boot_means_nothing(way, place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        mounted = driver.mount(Mount(driver.name, layers(place, driver.form), upper, work), target)
        try:
            old = replace(mounted, boot_id="00000000-0000-0000-0000-000000000000")
            assert not driver.is_mounted(old)
            driver.unmount(old)
            assert driver.is_mounted(mounted)
        finally:
            driver.unmount(mounted)

    way.run(scenario, place)


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"lowers": (Path("absent"),)}, errors.NotFound, "mount-directory"),
        ({"lowers": (Path("file"),)}, errors.InvalidInput, "mount-not-directory"),
        ({"lowers": (Path("loop"),)}, errors.InvalidInput, "mount-path"),
        ({"lowers": (Path("nul\0"),)}, errors.InvalidInput, "mount-path"),
        ({"lowers": (), "upper": None}, errors.InvalidInput, "mount-empty"),
        ({"work": None}, errors.InvalidInput, "mount-work"),
        ({"work": Path("upper/inside")}, errors.InvalidInput, "mount-work"),
        ({"work": Path("upper")}, errors.InvalidInput, "mount-work"),
        ({"work": Path("/proc")}, errors.InvalidInput, "mount-work"),
        ({"upper": Path("absent")}, errors.NotFound, "mount-directory"),
    ],
)
def test_what_does_not_fit_is_refused(way, place, change, kind, code):
    def scenario(driver, place):
        upper, work, target = branch(place)
        (upper / "inside").mkdir()
        (place / "file").write_text("")
        (place / "loop").symlink_to("loop")
        mount = Mount(driver.name, layers(place, driver.form), upper, work)
        with pytest.raises(kind) as caught:
            driver.mount(replace(mount, **change), target)
        assert caught.value.code == code
        with pytest.raises(errors.NotFound):
            driver.mount(mount, place / "no-target")
        assert mounts.upper_in_use(upper) is None

    way.run(scenario, place)


def mount_and_write(driver, place, number):
    upper, work, target = branch(place, number)
    lowers = tuple(place / name for name in ("top", "middle", "bottom"))
    mounted = driver.mount(Mount(driver.name, lowers, upper, work), target)
    try:
        (mounted.root / "new").write_text(str(number))
    finally:
        driver.unmount(mounted)
    return (upper / "new").read_text()


def test_threads_mount_different_uppers_at_once(way, place):
    def scenario(driver, place):
        layers(place, driver.form)
        results = []
        threads = [
            threading.Thread(target=lambda n=number: results.append(mount_and_write(driver, place, n)))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [str(number) for number in range(8)]

    way.run(scenario, place)


def test_a_user_cannot_end_the_mount_of_another(place):
    """Nor does the attempt do any harm."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    driver = UserNamespaceDriver()
    if not driver.probe(place).ok:
        pytest.skip(f"userns: {driver.probe(place).reason}")
    upper, work, target = branch(place)
    mounted = driver.mount(Mount("userns", layers(place, driver.form), upper, work), target)
    try:
        with pytest.raises(errors.AccessDenied):
            run_as_nobody(driver.unmount, mounted)
        assert run_as_nobody(mounts.upper_in_use, upper) == target
        assert driver.is_mounted(mounted)
    finally:
        driver.unmount(mounted)


def test_a_mount_in_another_namespace_is_seen_and_left_alone(place):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    upper, work, target = branch(place)
    lowers = layers(place, Form.OVERLAY)
    ours, theirs = multiprocessing.Pipe()

    def elsewhere():
        from lamella._sys import syscalls

        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        theirs.send(mounts.perform(Mount("overlay", lowers, upper, work), target).to_json())
        theirs.recv()

    process = multiprocessing.get_context("fork").Process(target=elsewhere)
    process.start()
    try:
        mounted = Mounted.from_json(ours.recv())
        assert listing(target) == []
        assert mounts.is_mounted(mounted)
        assert mounts.upper_in_use(upper) == target
        assert mounts.live_mount(upper) == mounted
        with pytest.raises(errors.Conflict) as caught:
            mounts.unmount(mounted)
        assert caught.value.code == "mount-elsewhere"
        with pytest.raises(errors.FailedPrecondition):
            mounts.perform(Mount("overlay", lowers, upper, work), target)
    finally:
        ours.send(None)
        process.join()
        process.close()
        ours.close()
        theirs.close()
    assert not mounts.is_mounted(mounted)
    mounts.unmount(mounted)
    assert mounts.upper_in_use(upper) is None


def test_the_record_of_a_mount_survives_json_and_nothing_else_passes_for_one():
    record = Mounted("overlay", Path(os.fsdecode(b"/t\xff\n")), Path("/r"), 7, "boot", 8, 9)
    assert Mounted.from_json(record.to_json()) == record
    assert "\n" not in record.to_json()
    for text in ("", "{}", "[]", "null", '{"driver": 1}', record.to_json()[:-5]):
        with pytest.raises(errors.InvalidInput) as caught:
            Mounted.from_json(text)
        assert caught.value.code == "mount-record"


def test_files_of_a_user_belong_to_the_user(place):
    def scenario(driver, place):
        upper, work, target = branch(place)
        (lower := place / "lower").mkdir()
        (lower / "shadow").write_text("secret")
        (lower / "shadow").chmod(0)
        mounted = driver.mount(Mount("userns", (lower,), upper, work), target)
        try:
            (mounted.root / "new").write_text("")
            (mounted.root / "shadow").chmod(0o600)
            assert (mounted.root / "shadow").read_text() == "secret"
        finally:
            driver.unmount(mounted)
        assert {path.name: path.stat().st_uid for path in upper.iterdir()} == {
            "new": os.geteuid(),
            "shadow": os.geteuid(),
        }

    if os.geteuid() == 0:
        assert NOBODY != 0
    Way("userns", UserNamespaceDriver, user=True).run(scenario, place)
