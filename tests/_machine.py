"""What the tests of the parts near the kernel share: other users, file systems of their own, and a look for leaks."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamella._sys import mountinfo, syscalls
from lamella._sys.files import remove_tree

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs_tool(*names: str):
    """Skip unless all of these programs are installed."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def interpreter_for_all() -> str | None:
    """A Python 3.11 or later that every user of the machine may run; None when there is none."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [candidate, "-c", "import sys; raise SystemExit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], check=False).returncode == 0:
                return candidate
        except OSError:
            continue
    return None


def fuse_for_all() -> None:
    """Let every user open /dev/fuse, as on most machines, in a mount namespace of this process' own."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    with tempfile.TemporaryDirectory() as directory:
        node = os.path.join(directory, "fuse")
        os.mknod(node, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        syscalls.mount(os.fsencode(node), b"/dev/fuse", None, syscalls.MS_BIND, None)


def run_as_nobody(function, *arguments, prepare=None):
    """What ``function`` returns (or raises) in a process of the user nobody; as it is when we are not root anyway.

    ``prepare`` runs before, in that process, as root.
    """
    if os.geteuid() != 0:
        return function(*arguments)
    python = interpreter_for_all()
    if python is None:
        pytest.skip("no Python that the user nobody may run")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        data = b""
        try:
            if prepare is not None:
                prepare()
            _become_nobody(python)
            data = pickle.dumps(("returned", function(*arguments)))
        except BaseException as error:  # noqa: BLE001 - it is raised again on the other side
            data = _pickled(error)
        finally:  # whatever happens, nothing of the tests goes on in here
            with os.fdopen(writing, "wb") as file:
                file.write(data)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    outcome, value = pickle.loads(data)
    if outcome in ("skip", "fail"):
        getattr(pytest, outcome)(value)
    if outcome == "raised":
        raise value
    return value


def _pickled(error: BaseException) -> bytes:
    """How a function ended that raised ``error``; the outcomes of pytest cannot be pickled themselves."""
    for outcome in ("skip", "fail"):
        if isinstance(error, getattr(pytest, outcome).Exception):
            return pickle.dumps((outcome, str(error)))
    try:
        return pickle.dumps(("raised", error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return pickle.dumps(("raised", RuntimeError(repr(error))))


def _become_nobody(python: str) -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which the change of user took away with /proc/self
    os.umask(0o022)
    sys.executable = python


@contextmanager
def file_system(kind: str, place: Path, *, size: int = 320 << 20, options: str = ""):
    """A new file system of a kind, mounted at a directory below ``place``."""
    target = place / kind
    target.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", options or f"size={size}", "tmpfs", target]
    else:
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"needs mkfs.{kind}")
        image = place / f"{kind}.img"
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        command = ["mount", "-o", f"loop,{options}".rstrip(","), image, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {kind}: {done.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def snapshot_of(root: Path) -> dict[bytes, tuple]:
    """Everything that can be told of a tree from outside, by path: a second, simple opinion to compare copies with."""
    groups: dict[tuple[int, int], int] = {}
    result = {}
    paths = [os.fsencode(root)]
    for directory, subdirectories, files in os.walk(os.fsencode(root)):
        paths += [os.path.join(directory, name) for name in [*subdirectories, *files]]
    for path in sorted(paths):
        info = os.lstat(path)
        content = None
        if stat.S_ISREG(info.st_mode) and os.access(path, os.R_OK):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        group = None
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            group = groups.setdefault((info.st_dev, info.st_ino), len(groups))
        size = info.st_size if not stat.S_ISDIR(info.st_mode) else 0
        result[os.path.relpath(path, os.fsencode(root))] = (
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_mtime_ns,
            info.st_rdev,
            size,
            content,
            attributes,
            group,
        )
    return result


def processes_naming(place: Path) -> set[int]:
    """Processes, of anybody, whose command line names something below ``place``: those that the drivers start do."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(place) in line and int(name) != os.getpid():
                found.add(int(name))
    return found


def _state(place: Path) -> tuple[set[str], list[str]]:
    descriptors = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            descriptors.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    return {d for d in descriptors if str(place) in d}, [line for line in mounts if str(place) in line]


@contextmanager
def place_for_all():
    """A directory that every user can reach and write. pytest's own are closed to others, time and again."""
    place = Path(tempfile.mkdtemp(prefix="lamella-test-")).resolve()
    place.chmod(0o777)
    try:
        with no_leaks(place):
            yield place
    finally:
        remove_tree(place)


@contextmanager
def no_leaks(place: Path):
    """Assert that what runs inside leaves no descriptor, mount, process or temporary directory below ``place``."""
    count = len(os.listdir("/proc/self/fd"))
    yield
    descriptors, mounts = _state(place)
    for line in reversed(mounts):  # what leaked must not outlive the test
        subprocess.run(["umount", "-l", mountinfo.parse_line(os.fsencode(line)).target], check=False)
    assert not descriptors
    assert not mounts
    assert len(os.listdir("/proc/self/fd")) <= count
    assert not processes_naming(place)
    left = [path for path in place.rglob("*") if path.name.startswith((".probe-", ".lamella-")) or ".tmp" in path.name]
    assert not left
