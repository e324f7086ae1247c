"""The other tools, run as a user would run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from support import needs


def run(*command: str | Path, **options: Any) -> str:
    """What a program prints; if it fails, so does the test, with what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr or done.stdout}"
    return done.stdout


def umoci_unpack(layout: Path, target: Path, tag: str = "it") -> Path:
    """The root file system that umoci makes of an image; ``raw``, since some real images name no operating system."""
    run(needs.tool("umoci"), "raw", "unpack", "--image", f"{layout}:{tag}", target)
    return target


def skopeo_inspect(reference: str, *options: str) -> Any:
    """What skopeo says of an image."""
    return json.loads(run(needs.tool("skopeo"), "inspect", *options, reference))


class Podman:
    """A podman with a storage of its own below ``place``. What it mounts is gone after each command."""

    def __init__(self, place: Path, driver: str) -> None:
        # Podman takes no run directory whose path has more than 50 characters.
        self._run = Path(tempfile.mkdtemp(prefix="lp-", dir="/tmp"))
        self._storage = ["--root", place / "podman", "--runroot", self._run, "--storage-driver", driver]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._run)

    def __call__(self, *command: str | Path) -> str:
        tool = needs.tool("podman")
        return run("unshare", "--mount", "--propagation", "private", tool, *self._storage, *command)
