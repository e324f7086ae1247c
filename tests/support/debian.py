"""An image of Debian with layers that do everything that layers can do, made by other tools than Lamella.

mmdebstrap makes the base, the kernel makes the changes, GNU tar writes them. Every layer is a directory that holds what
changed, with whiteouts as files called ``.wh.NAME``; nothing here knows how Lamella writes or reads a layer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support import needs

MIRROR = os.environ.get("LAMELLA_TEST_DEBIAN", "http://deb.debian.org/debian")
_PACKAGES = "base-files,base-passwd,bash,bzip2,coreutils,libc6,libc-bin,login,passwd,perl-base,tar"
_OPAQUE = ".wh..wh..opq"
_TIMES = {"ns": 1_600_000_000_123_456_789, "before": -31_536_000_000_000_001, "late": 4_102_444_800_999_999_999}
_TAR = ("--format=posix", "--numeric-owner", "--sort=name", "--xattrs", "--xattrs-include=*", "--sparse")


@dataclass(frozen=True, slots=True)
class Debian:
    """The image: an OCI layout that has it as ``debian:it``, and its uncompressed layers, bottom first."""

    layout: Path
    layers: tuple[Path, ...]
    reference: str = "debian:it"


def build(place: Path) -> Debian:
    """Build the image below the directory ``place``. Takes some ten seconds, most of it the mirror's."""
    needs.root()
    base = place / "0.tar"
    _bootstrap(base)
    layers = [base]
    for number, make in enumerate((_adds, _replaces, _adds_again, _touches), start=1):
        work = place / f"layer-{number}"
        work.mkdir(mode=0o755)
        layers.append(place / f"{number}.tar")
        make(work, layers[-1])
        shutil.rmtree(work)
    layout = place / "layout"
    _write_layout(layout, layers)
    return Debian(layout, tuple(layers))


def _bootstrap(target: Path) -> None:
    command = [needs.tool("mmdebstrap"), "--quiet", "--variant=extract", f"--include={_PACKAGES}"]
    command += ["bookworm", str(target), MIRROR]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode != 0:
        needs.missing(f"a Debian mirror at {MIRROR}: {done.stderr.strip()[-300:]}")


def _pack(work: Path, tar: Path, *, leave_out: Sequence[str] = (), then: Sequence[str] = ()) -> None:
    """Tar all that is in ``work``, take some members out again, and add these paths, which may lead through links."""
    subprocess.run(["tar", "--create", *_TAR, f"--file={tar}", f"--directory={work}", "."], check=True)
    for name in leave_out:
        subprocess.run(["tar", "--delete", f"--file={tar}", f"./{name}"], check=True)
    for name in then:
        subprocess.run(["tar", "--append", *_TAR, f"--file={tar}", f"--directory={work}", f"./{name}"], check=True)


def _directory(path: Path, mode: int = 0o755) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


def _file(path: Path, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.chown(path, *owner)
    path.chmod(mode)
    return path


def _gone(work: Path, *names: str) -> None:
    for name in names:
        path = work / name
        _file(path.with_name(f".wh.{path.name}"), b"")


def _adds(work: Path, tar: Path) -> None:
    app = work / "srv/app"
    _file(app / "data/one", b"one\n", 0o640, (1234, 5678))
    _file(app / "data/two", b"two\n")
    (app / "data").chmod(0o2775)
    _directory(app / "drop", 0o1777)
    os.chown(_directory(app / "empty", 0o000), 4_000_000_000, 100_000)
    _file(app / "setuid", b"#!/bin/sh\n", 0o4755)
    _file(app / "setgid", b"#!/bin/sh\n", 0o2711, (0, 42))
    _file(app / "capable", Path(shutil.which("true") or "/bin/true").read_bytes(), 0o755)
    subprocess.run([needs.tool("setcap"), "cap_net_raw,cap_sys_ptrace=ep", app / "capable"], check=True)
    _sparse(app / "sparse.img")
    for name in ("first", "second", "third"):
        if name == "first":
            _file(app / "links" / name, b"three names\n")
        else:
            os.link(app / "links/first", app / "links" / name)
    os.mkfifo(app / "fifo", 0o620)
    os.mknod(app / "null", 0o020666, os.makedev(1, 3))
    os.mknod(app / "disk", 0o060640, os.makedev(259, 1_000_000))
    os.symlink("data", app / "current")
    os.symlink("../../../../../../etc/passwd", app / "outwards")
    os.symlink(b"/nowhere/\xff\xfe", os.fsencode(app / "dangling"))
    os.chown(app / "dangling", 7, 8, follow_symlinks=False)
    for name in (b"caf\xc3\xa9", b"latin-\xe9", b"new\nline", b" spaces ", b"-dash", b"n" * 255, b"a.wh.b"):
        _file(app / "names" / os.fsdecode(name), name)
    deep = app.joinpath("names", *["deep" * 20] * 6)
    _file(deep / "bottom", b"deep\n")
    os.setxattr(app / "data/one", "user.comment", "ä\0ö".encode())
    os.setxattr(app / "data", "user.on.directory", b"")
    os.setxattr(app / "dangling", "trusted.on.link", b"link", follow_symlinks=False)
    os.setxattr(app / "fifo", "trusted.on.fifo", b"\n\n=")
    for name, time in _TIMES.items():
        os.utime(_file(app / "times" / name, b""), ns=(time, time))
    os.utime(app / "empty", ns=(1, 1_234_567_890_000_000_001))
    os.utime(app / "dangling", ns=(1, 987_654_321_012_345_678), follow_symlinks=False)
    _pack(work, tar)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        for offset in (0, 5 << 20, (16 << 20) - 3):
            file.seek(offset)
            file.write(b"end")
        file.truncate((16 << 20) + 4096)


def _replaces(work: Path, tar: Path) -> None:
    _file(work / "etc/debian_version/now", b"a directory in place of a file\n")
    _file(work / "usr/share/doc", b"a file in place of a directory\n")
    os.symlink("/srv/app/data", _parent(work / "var/cache"))
    _file(work / "var/run/here", b"a directory in place of a link\n")
    _file(work / "srv/app/outwards", b"a file in place of a link\n")
    os.symlink("one", _parent(work / "srv/app/data/two"))
    _gone(work, "usr/share/common-licenses", "srv/app/links/first", "srv/app/fifo", "srv/app/null", "etc/issue")
    _gone(work, "usr/bin/perl", "srv/app/names/a.wh.b", "not/there/at/all", "srv/app/names/" + "deep" * 20)
    _file(work / "etc/default" / _OPAQUE, b"")
    _file(work / "etc/default/only", b"what an opaque directory has\n")
    # New names for files of layers below: a tar that has both, with the one that is there already taken out again.
    for there, new in (("srv/app/links/third", "srv/app/new-third"), ("usr/bin/env", "usr/bin/env-new")):
        os.link(_file(work / there, b""), work / new)
    _pack(work, tar, leave_out=["srv/app/links/third", "usr/bin/env"])


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _adds_again(work: Path, tar: Path) -> None:
    _file(work / "usr/share/common-licenses/MIT", b"a directory that is back, with other things in it\n")
    _file(work / "etc/issue", b"back\n", 0o600)
    _file(work / "usr/share/doc/README", b"and a directory again\n")
    _file(work / "etc/debian_version", b"13\n")
    _file(work / "srv/app/links/first", b"one name\n")
    _gone(work, "srv/app/links/second", "var/run/here", "etc/default/only")
    os.mkfifo(work / "srv/app/null", 0o600)
    os.symlink("data", work / "srv/app/current")
    _file(work / "srv/app/data/below", b"written below a link\n")
    _pack(work, tar, leave_out=["srv/app/data"], then=["srv/app/current/below"])


def _touches(work: Path, tar: Path) -> None:
    """Only metadata: of directories that are there already, and of one file."""
    for name, mode in (("srv/app/drop", 0o755), ("srv/app", 0o3755), ("srv", 0o700)):
        os.utime(_directory(work / name, mode), ns=(7, 777_777_777_777_777_777))
    _file(work / "srv/app/setuid", b"#!/bin/sh\n", 0o755, (99, 99))
    os.utime(work / "srv/app", ns=(7, 777_777_777_777_777_777))
    _pack(work, tar)


def _write_layout(layout: Path, layers: Sequence[Path]) -> None:
    (layout / "blobs/sha256").mkdir(parents=True)
    diff_ids, descriptors = [], []
    for number, tar in enumerate(layers):
        raw = tar.read_bytes()
        diff_ids.append(_digest(raw))
        plain = number == 3
        kind = "application/vnd.oci.image.layer.v1.tar" + ("" if plain else "+gzip")
        descriptors.append(_put(layout, kind, raw if plain else gzip.compress(raw, 1, mtime=0)))
    config = {
        "created": "2024-05-06T07:08:09.123456789Z",
        "author": "somebody",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/bash"], "Env": ["PATH=/usr/bin:/bin"], "Labels": {"made.by": "hand"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"layer {n}", "created": f"2024-05-0{n + 1}T00:00:00Z"} for n in range(len(layers))]
        + [{"created_by": "CMD", "empty_layer": True}],
        "x-unknown": {"kept": True},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(layout, "application/vnd.oci.image.config.v1+json", json.dumps(config, indent=1).encode()),
        "layers": descriptors,
        "annotations": {"org.example.note": "kept as well"},
    }
    descriptor = _put(layout, manifest["mediaType"], json.dumps(manifest, indent=2).encode())
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "debian:it"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _put(layout: Path, media_type: str, raw: bytes) -> dict[str, object]:
    digest = _digest(raw)
    (layout / "blobs" / digest.replace(":", "/")).write_bytes(raw)
    return {"mediaType": media_type, "digest": digest, "size": len(raw)}


def _digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"
