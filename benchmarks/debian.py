"""A real image to measure with: Debian with scientific Python, in three gzip layers; and the same in zstd.

mmdebstrap makes it from a mirror, so its bytes are those of the day. About 1 GB and 72,000 files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from benchmarks.image import LayerFile, write_layout

MIRROR = os.environ.get("LAMELLA_TEST_DEBIAN", "http://deb.debian.org/debian")
_PACKAGES = (
    "python3,python3-numpy,python3-pandas,python3-sympy,python3-django,python3-twisted,"
    "python3-sqlalchemy,python3-networkx,python3-babel,ansible-core,python3-nltk,python3-botocore,python3-plotly"
)
_SPLIT = (
    ("usr/lib/python3/", "usr/share/", "usr/lib/python3."),
    ("usr/lib/x86_64-linux-gnu/", "usr/lib/aarch64-linux-gnu/"),
)


def available() -> bool:
    """Whether this machine can make it."""
    return os.geteuid() == 0 and shutil.which("mmdebstrap") is not None


def make_layouts(directory: Path) -> dict[str, Path]:
    """Write the OCI layouts ``gzip`` and ``zstd`` below ``directory``, kept for the next run, and return them."""
    layouts = {name: directory / f"debian-{name}" for name in ("gzip", "zstd")}
    if all((layout / "index.json").exists() for layout in layouts.values()):
        return layouts
    for layout in layouts.values():
        shutil.rmtree(layout, ignore_errors=True)
    root = directory / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root), MIRROR]
    subprocess.run(command, check=True)
    for name, layout in layouts.items():
        layers = [LayerFile(layout, name) for _ in range(3)]
        with tarfile.open(root) as archive:
            for member in archive:
                layer = layers[_layer_of(member.linkname if member.islnk() else member.name)]
                layer.tar.addfile(member, archive.extractfile(member) if member.isreg() else None)
        write_layout(layout, layers)
    root.unlink()
    return layouts


def _layer_of(name: str) -> int:
    """The layer of a path; all of one inode's names are in one, since a link follows its target."""
    path = name.removeprefix("./")
    return next((number for number, prefixes in enumerate(_SPLIT, start=1) if path.startswith(prefixes)), 0)
