"""The peers' own commands for the same work. They run in a mount namespace of their own, on the file system given."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Sample, run

_PRIVATE = ["unshare", "-m", "--propagation", "private"]


def umoci_unpack(layout: Path, fs: Path) -> Sample:
    """Unpack an image into a bundle."""
    return run(["umoci", "unpack", "--image", f"{layout}:bench", str(fs / "bundle")])


def umoci_repack(layout: Path, fs: Path) -> Sample:
    """Compute and write the layer of what changed in a bundle."""
    return run(["umoci", "repack", "--image", f"{layout}:changed", str(fs / "bundle")])


def _storage(tool: str, fs: Path) -> list[str]:
    where = ["--root", str(fs / "storage"), "--runroot", str(fs / "run"), "--storage-driver", "overlay"]
    return [*_PRIVATE, tool, *where]


def podman_load(layout: Path, fs: Path) -> Sample:
    """Load a layout into an overlay store."""
    return run([*_storage("podman", fs), "load", "-q", "-i", str(layout)])


def buildah_commit(layout: Path, fs: Path, change: list[str]) -> Sample:
    """Commit a working container whose files ``change`` (a command that takes the mount point) changed."""
    storage = _storage("buildah", fs)
    run([*storage, "from", "--name", "work", f"oci:{layout}:bench"])
    tool = " ".join(storage[len(_PRIVATE) :])
    run([*_PRIVATE, "sh", "-ec", f'root=$({tool} mount work); {" ".join(change)} "$root"; {tool} umount work'])
    return run([*storage, "commit", "-q", "work", "changed"])
