from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading

import pytest

from _machine import needs_tool
from lamella._sys.beneath import RootDir, has_openat2

WAYS = [pytest.param(False, id="walk"), pytest.param(True, id="openat2")]


@pytest.fixture(params=WAYS)
def kernel(request):
    if request.param and not has_openat2():
        pytest.skip("the kernel has no openat2")
    return request.param


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "etc" / "deep").mkdir(parents=True)
    (root / "etc" / "file").write_bytes(b"inside")
    (root / "secret").write_bytes(b"the image's own")
    (tmp_path / "secret").write_bytes(b"the host's")
    links = {
        "absolute": "/etc/file",
        "up": "../../../../secret",
        "etc/relative": "deep/../file",
        "chain": "absolute",
        "loop": "loop2",
        "loop2": "loop",
        "dir": "etc",
        "dir-slash": "etc/",
        "dangling": "nothing",
        "new": "etc/new",
        "escape": "../secret",
        "etc/deep/back": "../../etc/file",
    }
    for name, text in links.items():
        (root / name).symlink_to(text)
    return root


def outcome(root, path, flags, links, kernel):
    with RootDir(root, kernel=kernel) as directory:
        try:
            fd = directory.open(path, flags, 0o600, links=links)
        except OSError as error:
            return errno.errorcode[error.errno]
        try:
            return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), root)
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    ("path", "in_root", "beneath", "refuse"),
    [
        (b"", ".", ".", "."),
        (b"/", ".", ".", "."),
        (b".", ".", ".", "."),
        (b"etc/file", "etc/file", "etc/file", "etc/file"),
        (b"/etc/file", "etc/file", "etc/file", "etc/file"),
        (b"//etc///file", "etc/file", "etc/file", "etc/file"),
        (b"etc/deep/../file", "etc/file", "etc/file", "etc/file"),
        (b"..", ".", "EXDEV", "EXDEV"),
        (b"../secret", "secret", "EXDEV", "EXDEV"),
        (b"etc/../../../secret", "secret", "EXDEV", "EXDEV"),
        (b"absolute", "etc/file", "EXDEV", "ELOOP"),
        (b"chain", "etc/file", "EXDEV", "ELOOP"),
        (b"up", "secret", "EXDEV", "ELOOP"),
        (b"escape", "secret", "EXDEV", "ELOOP"),
        (b"etc/relative", "etc/file", "etc/file", "ELOOP"),
        (b"etc/deep/back", "etc/file", "etc/file", "ELOOP"),
        (b"dir/file", "etc/file", "etc/file", "ELOOP"),
        (b"dir-slash/file", "etc/file", "etc/file", "ELOOP"),
        (b"loop", "ELOOP", "ELOOP", "ELOOP"),
        (b"dangling", "ENOENT", "ENOENT", "ELOOP"),
        (b"nothing", "ENOENT", "ENOENT", "ENOENT"),
        (b"etc/file/", "ENOTDIR", "ENOTDIR", "ENOTDIR"),
        (b"etc/file/.", "ENOTDIR", "ENOTDIR", "ENOTDIR"),
        (b"etc/file/..", "ENOTDIR", "ENOTDIR", "ENOTDIR"),
        (b"etc/file/x", "ENOTDIR", "ENOTDIR", "ENOTDIR"),
        (b"nul\0byte", "EINVAL", "EINVAL", "EINVAL"),
        (b"x" * 300, "ENAMETOOLONG", "ENAMETOOLONG", "ENAMETOOLONG"),
    ],
)
def test_where_paths_lead(root, kernel, path, in_root, beneath, refuse):
    found = [outcome(root, path, os.O_RDONLY, links, kernel) for links in ("in_root", "beneath", "refuse")]
    assert found == [in_root, beneath, refuse]


def test_a_final_link_is_not_followed_when_asked_so(root, kernel):
    assert outcome(root, b"chain", os.O_RDONLY | os.O_NOFOLLOW, "in_root", kernel) == "ELOOP"
    for links in ("in_root", "beneath", "refuse"):
        assert outcome(root, b"chain", os.O_PATH | os.O_NOFOLLOW, links, kernel) == "chain"


def test_creating_through_a_link_creates_inside(root, kernel):
    exclusive = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    assert outcome(root, b"new", exclusive, "in_root", kernel) == "EEXIST"
    assert outcome(root, b"new", os.O_WRONLY | os.O_CREAT, "refuse", kernel) == "ELOOP"
    assert outcome(root, b"new", os.O_WRONLY | os.O_CREAT, "in_root", kernel) == "etc/new"
    assert outcome(root, b"etc/other", exclusive, "refuse", kernel) == "etc/other"
    assert (root / "etc" / "other").stat().st_mode & 0o777 == 0o600


def test_status_and_text_of_links(root, kernel):
    with RootDir(root, kernel=kernel) as directory:
        assert directory.stat(b"absolute", follow=True).st_size == len(b"inside")
        assert directory.stat(b"absolute", follow=False).st_size == len("/etc/file")
        assert directory.readlink(b"up") == b"../../../../secret"
        assert directory.readlink(b"dir/relative") == b"deep/../file"
        with pytest.raises(OSError, match="Invalid argument"):
            directory.readlink(b"etc/file")


def test_a_descriptor_given_stays_the_callers(root, kernel):
    fd = os.open(root, os.O_RDONLY)
    try:
        with RootDir(fd, kernel=kernel) as directory:
            os.close(directory.open(b"etc/file", os.O_RDONLY, links="refuse"))
        assert os.fstat(fd)
        directory.close()
    finally:
        os.close(fd)


def test_the_walk_does_exactly_what_the_kernel_does(tmp_path):
    if not has_openat2():
        pytest.skip("the kernel has no openat2")
    rnd = random.Random(2013)
    names = ["a", "b", "c", "d"]
    for round_number in range(6):
        root = tmp_path / f"root{round_number}"
        root.mkdir()
        directories = [root]
        for _ in range(80):
            path = rnd.choice(directories) / rnd.choice(names)
            if os.path.lexists(path):
                continue
            kind = rnd.random()
            if kind < 0.4:
                path.mkdir()
                directories.append(path)
            elif kind < 0.5:
                path.write_bytes(b"")
            else:
                start = rnd.choice(["", "/", "../", "../../", "./", "//"])
                middle = "/".join(rnd.choice([*names, ".."]) for _ in range(rnd.randint(1, 3)))
                path.symlink_to(start + middle + rnd.choice(["", "/", "/."]))
        for _ in range(2500):
            path = b"/".join(rnd.choice([*names, "..", "."]).encode() for _ in range(rnd.randint(1, 5)))
            path = rnd.choice([b"", b"/"]) + path + rnd.choice([b"", b"", b"/", b"/."])
            flags = rnd.choice([os.O_PATH, os.O_RDONLY]) | rnd.choice([0, os.O_NOFOLLOW, os.O_DIRECTORY])
            links = rnd.choice(["in_root", "beneath", "refuse"])
            walked = outcome(root, path, flags, links, False)
            assert walked == outcome(root, path, flags, links, True), (path, flags, links)


@needs_tool("strace")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_a_kernel_or_a_filter_without_openat2_gives_the_same(root, error):
    code = "import os, sys; from pathlib import Path; from lamella._sys.beneath import RootDir; "
    code += "r = RootDir(Path(sys.argv[1])); fd = r.open(b'up', os.O_RDONLY, links='in_root'); print(os.read(fd, 99))"
    command = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=openat2", "-e", f"inject=openat2:error={error}"]
    done = subprocess.run([*command, sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout == 'b"the image\'s own"\n'


def test_nobody_gets_out_by_swapping_a_directory_for_a_link(tmp_path, kernel):
    """Somebody renames directories and links over each other all the time: the walk ends inside, or in an error."""
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"inside")
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b" / "file").write_bytes(b"outside")
    (root / "link").symlink_to("../outside")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            os.rename(root / "a", root / "kept")
            os.rename(root / "link", root / "a")
            os.rename(root / "a", root / "link")
            os.rename(root / "kept", root / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    read = set()
    try:
        with RootDir(root, kernel=kernel) as directory:
            for attempt in range(4000):
                links = ("in_root", "beneath", "refuse")[attempt % 3]
                try:
                    fd = directory.open(b"a/b/../b/file", os.O_RDONLY, links=links)
                except OSError:
                    continue
                read.add(os.read(fd, 100))
                os.close(fd)
    finally:
        stop.set()
        swapper.join()
    assert read <= {b"inside"}
