"""Pull and push on loopback: a docker-registry, a wire that is slow to answer, and the peers' commands for the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import LAMELLA, Sample, run

HERE = Path(__file__).resolve().parent
_CHUNK = 256 << 10


@contextmanager
def registry(place: Path) -> Iterator[str]:
    """Debian's docker-registry with an empty storage below ``place``: its address."""
    place.mkdir(parents=True, exist_ok=True)
    config = place / "config.yml"
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "info", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(place / "storage")}},
                "http": {"addr": "127.0.0.1:0", "secret": "of the benchmark"},
            }
        )
    )
    command = ["docker-registry", "serve", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        found = re.search(r"listening on ([0-9.]+:[0-9]+)", line)
        if found:
            address = found[1]
            break
    reader = threading.Thread(target=lambda: deque(process.stdout or (), 0), daemon=True)
    reader.start()
    try:
        if not address:
            raise SystemExit("docker-registry does not start")
        yield address
    finally:
        process.kill()
        process.wait()


@contextmanager
def far_away(address: str, seconds: float) -> Iterator[str]:
    """The same server with a round trip of so many seconds: half of it each way, at any bandwidth."""
    command = [sys.executable, str(HERE / "distance.py"), address, str(seconds / 2)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def lamella_pull_mounted(name: str, fs: Path, driver: str) -> Sample:
    """Pull an image and mount a snapshot of it, in one process."""
    sample = run([sys.executable, str(HERE / "mounted.py"), str(fs / "store"), name, driver])
    run([*LAMELLA, "--root", str(fs / "store"), "umount", "work"])
    return sample


def lamella_pulls_at_once(name: str, fs: Path, count: int) -> Sample:
    """Several processes that pull the same image into one store."""
    command = " ".join([*LAMELLA, "--root", str(fs / "store"), "--progress", "none", "pull", "-q", name])
    return run(["sh", "-ec", f"for n in $(seq {count}); do {command} & done; wait"])


def podman_pull_mounted(name: str, fs: Path) -> Sample:
    """Pull an image into an overlay store and mount it."""
    storage = ["--root", str(fs / "storage"), "--runroot", str(fs / "run"), "--storage-driver", "overlay"]
    podman = " ".join(["podman", *storage])
    script = f"{podman} pull -q --tls-verify=false {name}; {podman} image mount {name}; {podman} image umount {name}"
    return run(["unshare", "-m", "--propagation", "private", "sh", "-ec", script])


def skopeo(source: str, target: str, side: str) -> Sample:
    """Copy an image; ``side`` is the end that is a registry without TLS."""
    return run(["skopeo", "copy", "-q", f"--{side}-tls-verify=false", source, target])


def podman_push(layout: Path, fs: Path, target: str) -> Sample:
    """Push an image of an overlay store."""
    storage = ["--root", str(fs / "storage"), "--runroot", str(fs / "run"), "--storage-driver", "overlay"]
    podman = ["unshare", "-m", "--propagation", "private", "podman", *storage]
    run([*podman, "pull", "-q", f"oci:{layout}:bench"])
    loaded = subprocess.run([*podman, "images", "-q"], check=True, capture_output=True, text=True).stdout.split()[0]
    return run([*podman, "push", "-q", "--tls-verify=false", loaded, target])
