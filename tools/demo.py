"""The whole life of an image, by real ``lamella`` commands: ``make demo``.

The base image is this machine's Python, thousands of files. Everything happens in a temporary directory, as root or
not, with whatever driver works here. Exits with 1 if anything comes out other than it should; ``--keep`` keeps the
directory.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 150 << 20
LARGEST_FILE = 16 << 20
LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages"})
LINES = 12
"""Lines of a command's output that are shown at most."""
PYTHON = f"opt/python{sys.version_info.major}.{sys.version_info.minor}"
COLOUR = not os.environ.get("NO_COLOR") and (sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR")))


def paint(text: str, code: str) -> str:
    """``text`` in a colour, where there are any."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def say(text: str = "") -> None:
    """A line, at once."""
    print(text, flush=True)


def chapter(title: str) -> None:
    """A heading."""
    say(f"\n{paint('━━ ' + title, '1;35')}")


def check(holds: bool, claim: str) -> None:
    """Say that ``claim`` holds, or end the demonstration."""
    if not holds:
        fail(f"this should hold, and does not: {claim}")
    say(f"  {paint('✓', '1;32')} {paint(claim, '32')}")


def fail(reason: str) -> NoReturn:
    """End with what went wrong."""
    raise SystemExit(paint(f"demo: {reason}", "1;31"))


class Shell:
    """Runs ``lamella`` as a user would, showing each command and what it prints."""

    def __init__(self, place: Path) -> None:
        self.work = place / "work"
        self.work.mkdir()
        self._environment = {**os.environ, "LAMELLA_ROOT": str(place / "store"), "PYTHONUNBUFFERED": "1"}
        self._environment.pop("SOURCE_DATE_EPOCH", None)

    def __call__(self, line: str, *, code: int = 0, lines: int = LINES, store: Path | None = None) -> str:
        """Run one command; its standard output is shown, up to ``lines``, and returned whole."""
        prefix = "" if store is None else f"LAMELLA_ROOT={store.name} "
        say(f"\n{paint('$', '1;36')} {prefix}{paint(f'lamella {line}', '1')}")
        out = self.quietly(line, code=code, store=store)
        self._show(out, lines)
        return out

    def quietly(self, line: str, *, code: int = 0, store: Path | None = None) -> str:
        """Run one command without showing it."""
        environment = self._environment if store is None else {**self._environment, "LAMELLA_ROOT": str(store)}
        command = [sys.executable, "-m", "lamella", *shlex.split(line)]
        done = subprocess.run(command, cwd=self.work, env=environment, stdout=subprocess.PIPE, check=False)
        if done.returncode != code:
            fail(f"'lamella {line}' ended with exit code {done.returncode} and not {code}")
        return done.stdout.decode("utf-8", "backslashreplace")

    def json(self, line: str, *, store: Path | None = None) -> Any:
        """What a command says as JSON."""
        return json.loads(self.quietly(line, store=store))

    @staticmethod
    def _show(out: str, most: int) -> None:
        found = out.splitlines()
        for text in found[:most]:
            say(f"  {text}")
        if len(found) > most:
            say(paint(f"  ... and {len(found) - most} more lines", "2"))


# -- what it is shown on


def pack_python(target: Path) -> int:
    """Write this machine's Python, with a little around it, as the tar of a root file system; count its files."""
    count = total = 0
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("etc", "opt", PYTHON, "tmp", "usr", "usr/bin"):
            _add_directory(tar, name, 0o1777 if name == "tmp" else 0o755)
        _add_text(tar, "etc/os-release", 'NAME="A root file system made of Python"\nID=demo\n')
        _add_text(tar, "etc/motd", "welcome\n")
        _add_link(tar, "usr/bin/pydoc", f"/{PYTHON}/pydoc.py")
        library = Path(sysconfig.get_path("stdlib"))
        for directory, below, files in os.walk(library):
            below[:] = sorted(name for name in below if name not in LEFT_OUT)
            for name in sorted([*below, *files]):
                path = Path(directory, name)
                size = path.lstat().st_size
                if size > LARGEST_FILE or total + size > MOST_BYTES or not os.access(path, os.R_OK):
                    continue
                tar.add(path, f"{PYTHON}/{path.relative_to(library)}", recursive=False, filter=_owned_by_root)
                count, total = count + 1, total + size
    return count


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= stat.S_IRUSR
    return member


def _add_directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = tarfile.DIRTYPE, mode, int(time.time())
    tar.addfile(member)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(member)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(text.encode()), int(time.time())
    tar.addfile(member, io.BytesIO(text.encode()))


# -- the life


def import_base(shell: Shell) -> None:
    """A root file system becomes an image."""
    chapter("What works on this machine")
    shell("info", lines=40)
    chapter("A root file system becomes an image")
    begun = time.monotonic()
    count = pack_python(shell.work / "rootfs.tar")
    size = (shell.work / "rootfs.tar").stat().st_size / 1e6
    say(f"  {count} files of this Python packed into rootfs.tar: {size:.0f} MB, {time.monotonic() - begun:.1f} s")
    begun = time.monotonic()
    id = shell("""import rootfs.tar base:1 -m "Python as a root file system" -c 'CMD ["/usr/bin/pydoc"]'""").strip()
    say(paint(f"  stored, verified and indexed in one pass: {time.monotonic() - begun:.1f} s", "2"))
    shell("images")
    [found] = shell.json("inspect base:1")
    check(found["id"] == id, f"the image's id is the digest of its configuration, {id[7:19]}...")
    layer = found["layers"][0]
    check(layer["digest"] == layer["diff_id"], "the tar was kept byte for byte: blob and diff_id are one digest")


def read_without_mounting(shell: Shell) -> None:
    """Files are read out of the layer, with no mount and no extraction."""
    chapter("Looking inside, with nothing mounted and nothing extracted")
    shell("ls -l base:1")
    listed = shell(f"ls base:1 /{PYTHON}/json")
    check("decoder.py" in listed, "the files of Python's json package are there")
    text = shell("cat base:1 /etc/os-release")
    check("ID=demo" in text, "a file was read straight out of the layer's tar")
    shell(f"cp base:1:/{PYTHON}/this.py this.py")
    check(
        (shell.work / "this.py").read_bytes() == Path(sysconfig.get_path("stdlib"), "this.py").read_bytes(),
        "a file that was copied out is the one that went in",
    )


def change_a_snapshot(shell: Shell) -> None:
    """A writable fork is mounted and changed."""
    chapter("A writable file system on top of the image")
    begun = time.monotonic()
    shell("create base:1 --name dev")
    say(paint(f"  {time.monotonic() - begun:.2f} s, the start of the command included", "2"))
    root = Path(shell("mount dev").strip())
    step("echo 'changed in a snapshot' > etc/motd", lambda: (root / "etc/motd").write_text("changed in a snapshot\n"))
    step("mkdir srv; echo data > srv/data", lambda: _make(root / "srv"))
    step(f"rm -r {PYTHON}/json", lambda: shutil.rmtree(root / PYTHON / "json"))
    step(f"chmod 700 {PYTHON}/this.py", lambda: (root / PYTHON / "this.py").chmod(0o700))
    shell("ps")
    shell("umount dev")
    (shell.work / "notes").mkdir()
    (shell.work / "notes/today").write_text("copied in\n")
    shell("cp notes dev:/srv")
    lines = shell("diff dev").splitlines()
    wanted = {"C /etc/motd", "A /srv", "A /srv/data", "A /srv/notes/today", f"D /{PYTHON}/json", f"C /{PYTHON}/this.py"}
    check(wanted <= set(lines), "every change is told, whichever driver it was made with")
    check(all(line[2:].startswith(("/etc", "/srv", "/opt")) for line in lines), "and nothing else is")


def _make(directory: Path) -> None:
    directory.mkdir()
    (directory / "data").write_text("data\n")


def step(shown: str, act: Callable[[], object]) -> None:
    """Something that the user does in the mounted tree."""
    say(f"  {paint('#', '33')} {paint(shown, '33')}")
    act()


def commit_and_walk(shell: Shell) -> None:
    """The changes become a child image."""
    chapter("The changes become an image")
    shell("""commit dev base:2 -a "a. person" -m "greet, and lose json" -c "ENV GREETING=hello" """.strip())
    shell("history base:2")
    shell("inspect base:2")
    tree = shell("images --tree")
    check("  └─" in tree, "the graph knows which image was made from which")
    shell(f"layer base:2 --which /{PYTHON}/json")
    changes = shell("diff base:1 base:2")
    check(changes == shell.quietly("diff dev"), "between the images there is what was in the snapshot")
    shell(f"exists base:2 /{PYTHON}/json", code=1)
    check(True, "and the exit code says that json is gone")


def fork_and_roll_back(shell: Shell) -> None:
    """Snapshots fork and roll back."""
    chapter("Forking, and going back")
    shell("fork dev spare")
    shell("rollback dev")
    check(shell("diff dev") == "", "dev is the image again")
    check("A /srv/data" in shell("diff spare"), "its fork kept everything")


def save_and_load(shell: Shell, place: Path) -> None:
    """Images leave as files and come back as the same images."""
    chapter("Out to files that docker, podman, skopeo and umoci read, and back")
    shell("save base:1 base:2 -o layout/")
    shell("save base:2 --format docker-archive -o docker.tar")
    other = place / "other-store"
    shell("load layout", store=other)
    shell("load -i docker.tar --name from-docker:2", store=other)
    shell("images", store=other)
    [here] = shell.json("inspect base:2")
    there = shell.json("inspect base:2 from-docker:2", store=other)
    check({item["id"] for item in there} == {here["id"]}, "after two formats and another store, the id is the same")
    shell("export base:2 -o files.tar.zst --compression zstd")
    shell("import files.tar.zst flat")
    check(shell("diff base:2 flat") == "", "exported, compressed and imported as one layer, no file differs")


def clean_up(shell: Shell) -> None:
    """What is needed is refused, what is not goes."""
    chapter("Tidying up")
    shell("rmi base:1", code=13)
    check(True, "an image that is needed is not removed, and the message says by what")
    shell("rm dev spare")
    shell("rmi flat base:2")
    shell("gc --dry-run")
    shell("gc")
    shell("rmi base:1")
    shell("df")
    check(shell("images -aq") == "", "the store is empty again")
    used = sum(row["size"] for row in shell.json("df --json")["usage"])
    check(used < 1 << 20, "and takes no space")


def remove(place: Path, shell: Shell) -> None:
    """Leave nothing, mounts included."""
    shell.quietly("umount --all")
    for directory, below, _ in os.walk(place):
        for name in below:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(place)


def main() -> int:
    """Go through it all."""
    begun = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="lamella-demo-"))
    shell = Shell(place)
    try:
        import_base(shell)
        read_without_mounting(shell)
        change_a_snapshot(shell)
        commit_and_walk(shell)
        fork_and_roll_back(shell)
        save_and_load(shell, place)
        clean_up(shell)
    finally:
        if "--keep" in sys.argv[1:]:
            say(f"kept: {place}")
        else:
            remove(place, shell)
    say(f"\n{paint(f'All of it as it should be, in {time.monotonic() - begun:.0f} s.', '1;32')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
