"""The peers' own commands for the same work. They run in a mount namespace of their own, on the file system given."""

from __future__ import annotations

import json
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


def podman_load_second(first: Path, second: Path, fs: Path) -> Sample:
    """Load a layout into an overlay store that has another with most of its layers; the first does not count."""
    podman_load(first, fs)
    return podman_load(second, fs)


def skopeo_copy(layout: Path, fs: Path) -> Sample:
    """Copy a layout into an overlay store."""
    store = f"containers-storage:[overlay@{fs / 'storage'}+{fs / 'run'}]localhost/bench"
    return run([*_PRIVATE, "skopeo", "copy", "-q", f"oci:{layout}:bench", store])


def tar_extract(layout: Path, fs: Path) -> Sample:
    """Extract the layers one over the other; no whiteouts are applied, and nothing is verified."""
    root = fs / "root"
    root.mkdir()
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    layers = [_blob(layout, layer["digest"]) for layer in manifest["layers"]]
    script = " && ".join(f"tar --numeric-owner --xattrs -xpf {layer} -C {root}" for layer in layers)
    return run(["sh", "-ec", script])


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def buildah_commit(layout: Path, fs: Path, change: list[str]) -> Sample:
    """Commit a working container whose files ``change`` (a command that takes the mount point) changed."""
    storage = _storage("buildah", fs)
    run([*storage, "from", "--name", "work", f"oci:{layout}:bench"])
    tool = " ".join(storage[len(_PRIVATE) :])
    run([*_PRIVATE, "sh", "-ec", f'root=$({tool} mount work); {" ".join(change)} "$root"; {tool} umount work'])
    return run([*storage, "commit", "-q", "work", "changed"])
