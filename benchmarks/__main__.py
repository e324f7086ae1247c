"""``make bench``: prints a table, and with ``--write`` puts it into benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import debian, exchange, peers
from benchmarks.image import add_layer, make_layout
from benchmarks.measure import (
    LAMELLA,
    Sample,
    drop_caches,
    fresh_file_system,
    have,
    median,
    remove_disks,
    repeat,
    run,
    sync,
)

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One line of the table: Lamella and a peer on the same work."""

    what: str
    ours: Sample
    peer: str
    theirs: Sample | None

    def text(self) -> str:
        """The line in Markdown; the ratio is the peer's time over ours."""
        ours = _told(self.ours)
        if self.theirs is None:
            return f"| {self.what} | {ours} | {self.peer} | - |"
        ratio = self.theirs.seconds / self.ours.seconds
        return f"| {self.what} | {ours} | {self.peer}: {_told(self.theirs)} | {ratio:.2f} |"


def _same(sample: Sample) -> Sample:
    return sample


def _told(sample: Sample) -> str:
    time = f"{sample.seconds:.2f} s" if sample.seconds >= 0.1 else f"{sample.seconds * 1000:.1f} ms"
    return f"{time}, {sample.peak_mib:.0f} MiB" if sample.peak_mib else time


class Bench:
    """The benchmarks, in the order in which they are printed."""

    def __init__(self, work: Path, runs: int) -> None:
        self.work, self.runs = work, runs
        self.layouts = debian.make_layouts(work) if debian.available() else {"gzip": make_layout(work)}
        self.layout = self.layouts["gzip"]
        self.rows: list[Row] = []

    def add(self, what: str, ours: Sample, *others: tuple[str, Callable[[], Sample] | None]) -> None:
        """Measure the peers that are installed and keep the rows."""
        for name, measure in others:
            row = Row(what, ours, name, None if measure is None else measure())
            self.rows.append(row)
            print(row.text(), flush=True)

    def _on_fresh(self, act: Callable[[Path], Sample]) -> Sample:
        samples = []
        for _ in range(self.runs):
            with fresh_file_system(self.work) as fs:
                sync()
                samples.append(act(fs))
        return median(samples)

    def _lamella(self, fs: Path, *words: str) -> Sample:
        return run([*LAMELLA, "--root", str(fs / "store"), "--progress", "none", *words])

    # -- what is measured

    def load(self) -> None:
        """Blobs to an extracted tree, and blobs to an indexed store."""

        def extracted(fs: Path) -> Sample:
            first = self._lamella(fs, "load", "-i", str(self.layout))
            second = self._lamella(fs, "--driver", "overlay", "create", "bench", "--name", "work")
            return Sample(first.seconds + second.seconds, max(first.peak_mib, second.peak_mib))

        ours = self._on_fresh(extracted)
        self.add(
            "load, to an extracted tree",
            ours,
            ("umoci unpack", self._peer("umoci", partial(peers.umoci_unpack, self.layout))),
            ("podman load (overlay)", self._peer("podman", partial(peers.podman_load, self.layout))),
        )
        indexed = self._on_fresh(lambda fs: self._lamella(fs, "load", "-i", str(self.layout)))
        blobs = sorted((self.layout / "blobs/sha256").iterdir(), key=lambda path: -path.stat().st_size)[:3]
        listing = " ; ".join(f"gzip -dc {blob} | tar t >/dev/null" for blob in blobs)
        self.add(
            "load, verified and indexed only",
            indexed,
            ("gzip -dc, tar t", lambda: repeat(self.runs, lambda: run(["sh", "-ec", listing]))),
            ("umoci unpack", self._peer("umoci", partial(peers.umoci_unpack, self.layout))),
        )

    def mount(self) -> None:
        """Blobs to a mounted root that is not extracted; walking and reading it; more snapshots of it."""
        for compression, layout in self.layouts.items():
            ours = self._on_fresh(partial(self._mounted, layout))
            # umoci 0.4 knows no zstd.
            unpack = self._peer("umoci", partial(peers.umoci_unpack, layout))
            umoci = [("umoci unpack", unpack)] if compression == "gzip" else []
            self.add(
                f"load {compression}, to a mounted root",
                ours,
                ("inflate + sha256 + write, on all cores", lambda layout=layout: self._floor(layout)),
                *umoci,
                ("podman load (overlay)", self._peer("podman", partial(peers.podman_load, layout))),
                ("skopeo copy (overlay)", self._peer("skopeo", partial(peers.skopeo_copy, layout))),
                ("GNU tar", self._peer("tar", partial(peers.tar_extract, layout))),
            )
        with fresh_file_system(self.work) as fs:
            self._lamella(fs, "load", "-i", str(self.layout))
            self._walks(fs)
            self._forks(fs)
        self._second_image()

    def _mounted(self, layout: Path, fs: Path) -> Sample:
        """One process from the start of Python to a mounted root."""
        store = str(fs / "store")
        sample = run([sys.executable, str(HERE / "mounted.py"), store, str(layout), "erofs"])
        self._lamella(fs, "umount", "work")
        return sample

    def _floor(self, layout: Path) -> Sample:
        """The parts that no verified load can do without, perfectly parallel."""

        def once(fs: Path) -> Sample:
            command = [sys.executable, "-m", "benchmarks.floor", str(layout), str(fs / "scratch")]
            return Sample(float(run_text(command)), 0)

        return self._on_fresh(once)

    def _second_image(self) -> None:
        """An image that shares all layers but one small one with an image that is there already."""
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            second = add_layer(self.layout, Path(place))

            def both(fs: Path) -> Sample:
                self._mounted(self.layout, fs)
                sync()
                command = [sys.executable, str(HERE / "mounted.py"), str(fs / "store"), str(second), "erofs", "second"]
                sample = run(command)
                self._lamella(fs, "umount", "second")
                return sample

            def unpacked_again(fs: Path) -> Sample:
                return peers.umoci_unpack(second, fs)

            ours = self._on_fresh(both)
            self.add(
                "a second image, one small layer more",
                ours,
                ("umoci unpack", self._peer("umoci", unpacked_again)),
                ("podman load (overlay)", self._peer("podman", partial(peers.podman_load_second, self.layout, second))),
            )

    def _walks(self, fs: Path) -> None:
        """The same files mounted in place and extracted: walked and read, from the disk and from memory."""
        roots = {}
        for driver in ("erofs", "copy"):
            self._lamella(fs, "--driver", driver, "create", "bench", "--name", driver)
            roots[driver] = run_text([*LAMELLA, "--root", str(fs / "store"), "mount", driver]).strip()
        commands = {
            "find": "find . -newermt 2000-01-01",
            "grep -r": "grep -r --binary-files=without-match 'no such needle' . || true",
            "cat of all": "find . -type f -print0 | xargs -0 cat",
        }
        if (Path(roots["erofs"]) / "usr/bin/python3").exists():
            commands["import of pandas and sympy"] = "chroot . python3 -B -c 'import pandas, sympy; print(1)'"
        for cold in (True, False) if drop_caches() else (False,):
            for what, command in commands.items():
                ours, theirs = (self._walk(roots[driver], command, cold=cold) for driver in ("erofs", "copy"))
                name = f"{what}, {'cold' if cold else 'cached'}"
                self.add(name, ours, ("the extracted tree", partial(_same, theirs)))
        for driver in roots:
            self._lamella(fs, "umount", driver)

    def _walk(self, root: str, command: str, *, cold: bool) -> Sample:
        return repeat(self.runs, lambda: run(["sh", "-ec", f"cd {root}; {command} | wc -c"]), cold=cold)

    def _forks(self, fs: Path) -> None:
        """One more snapshot of an image, and its mount: the median, in one process."""

        def forked(driver: str) -> Sample:
            command = [sys.executable, str(HERE / "forks.py"), str(fs / "store"), driver]
            return Sample(float(run_text(command)), 0)

        self.add("prepare and mount a snapshot", forked("erofs"), ("overlay of trees", lambda: forked("overlay")))

    def commit(self) -> None:
        """5,000 changed files: what changed, and the commit of it."""
        change = [sys.executable, str(HERE / "change.py")]
        diffs: list[Sample] = []

        def committed(fs: Path) -> Sample:
            self._lamella(fs, "load", "-i", str(self.layout))
            self._lamella(fs, "--driver", "overlay", "create", "bench", "--name", "work")
            where = run_text([*LAMELLA, "--root", str(fs / "store"), "mount", "work"]).strip()
            run([*change, where])
            self._lamella(fs, "umount", "work")
            diffs.append(self._lamella(fs, "diff", "work"))
            return self._lamella(fs, "commit", "work", "changed")

        ours = self._on_fresh(committed)

        def repacked(fs: Path) -> Sample:
            copy = fs / "layout"
            run(["cp", "-r", str(self.layout), str(copy)])
            peers.umoci_unpack(copy, fs)
            run([*change, str(fs / "bundle" / "rootfs")])
            return peers.umoci_repack(copy, fs)

        buildah = self._peer("buildah", lambda fs: peers.buildah_commit(self.layout, fs, change))
        umoci = self._peer("umoci", repacked)
        self.add("commit of 5,000 changed files", ours, ("buildah commit", buildah), ("umoci repack", umoci))
        self.add("diff of 5,000 changed files", median(diffs), ("umoci repack", umoci))

    def open_one(self) -> None:
        """One file of the image, against unpacking it all."""
        with fresh_file_system(self.work) as fs:
            self._lamella(fs, "load", "-i", str(self.layout))
            ours = repeat(self.runs, lambda: self._lamella(fs, "cat", "bench", self._one_file()))
        self.add(
            "one file of the image",
            ours,
            ("umoci unpack", self._peer("umoci", partial(peers.umoci_unpack, self.layout))),
        )

    def _one_file(self) -> str:
        real = len(self.layouts) > 1
        return "/usr/lib/python3/dist-packages/numpy/version.py" if real else "/usr/lib/part2/d0100/file04000.py"

    def start(self) -> None:
        """Starting up."""
        ours = repeat(15, lambda: run([*LAMELLA, "--version"]))
        self.add(
            "lamella --version",
            ours,
            ("python -c pass", lambda: repeat(15, lambda: run([sys.executable, "-c", "pass"]))),
        )

    def memory(self) -> None:
        """Peak memory of a load must not grow with the image: the same files, four times the bytes."""
        with tempfile.TemporaryDirectory(dir=self.work) as large:
            layout = make_layout(Path(large), files=33_000, total=2_160_000_000)
            with fresh_file_system(self.work) as fs:
                ours = self._mounted(layout, fs)
            small = self._on_fresh(partial(self._mounted, make_layout(self.work)))
        self.add("made image to a mounted root, 2.2 GB", ours, ("the same files, 0.54 GB", lambda: small))

    def registry(self) -> None:
        """Pull and push on loopback, to the same work done by others; skipped where there is no docker-registry."""
        if not (have("docker-registry") and have("skopeo")):
            print("| pull, push | no docker-registry or no skopeo here | | |")
            return
        with tempfile.TemporaryDirectory(dir=self.work) as place, exchange.registry(Path(place)) as host:
            name = f"{host}/bench/image:1"
            exchange.skopeo(f"oci:{self.layout}:bench", f"docker://{name}", "dest")
            self._pulls(name)
            with exchange.far_away(host, 0.02) as far:
                self._pull_from_far(f"{far}/bench/image:1")
        self._pushes()

    def _pulls(self, name: str) -> None:
        podman = self._peer("podman", lambda fs: exchange.podman_pull_mounted(name, fs))
        copied = self._peer("skopeo", lambda fs: exchange.skopeo(f"docker://{name}", f"oci:{fs}/copy:it", "src"))
        for driver in ("erofs", "overlay") if os.geteuid() == 0 else ("copy",):
            ours = self._on_fresh(partial(exchange.lamella_pull_mounted, name, driver=driver))
            self.add(f"pull, to a mounted root ({driver})", ours, ("podman pull, image mount", podman))
        ours = self._on_fresh(lambda fs: self._lamella(fs, "pull", "-q", name))
        self.add("pull, verified and indexed", ours, ("skopeo copy to a layout, not unpacked", copied))
        at_once = self._on_fresh(lambda fs: exchange.lamella_pulls_at_once(name, fs, 8))
        self.add("8 processes pull it at once", at_once, ("one process", partial(_same, ours)))

    def _pull_from_far(self, name: str) -> None:
        ours = self._on_fresh(lambda fs: self._lamella(fs, "pull", "-q", name))
        copied = self._peer("skopeo", lambda fs: exchange.skopeo(f"docker://{name}", f"oci:{fs}/copy:it", "src"))
        self.add("pull, 20 ms away", ours, ("skopeo copy to a layout, not unpacked", copied))

    def _pushes(self) -> None:
        def ours(fs: Path) -> Sample:
            self._lamella(fs, "load", "-i", str(self.layout))
            with exchange.registry(fs / "registry") as host:
                return self._lamella(fs, "push", "-q", "bench", f"{host}/a/b:1")

        def by_skopeo(fs: Path) -> Sample:
            with exchange.registry(fs / "registry") as host:
                return exchange.skopeo(f"oci:{self.layout}:bench", f"docker://{host}/a/b:1", "dest")

        def by_podman(fs: Path) -> Sample:
            with exchange.registry(fs / "registry") as host:
                return exchange.podman_push(self.layout, fs, f"{host}/a/b:1")

        others = (("skopeo copy", self._peer("skopeo", by_skopeo)), ("podman push", self._peer("podman", by_podman)))
        self.add("push", self._on_fresh(ours), *others)

    def _peer(self, tool: str, act: Callable[[Path], Sample]) -> Callable[[], Sample] | None:
        return (lambda: self._on_fresh(act)) if have(tool) else None


def run_text(command: list[str]) -> str:
    """The standard output of a command."""
    import subprocess

    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "names", nargs="*", help="load, mount, commit, open_one, start, memory, registry (default: all)"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lamella-bench")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work, options.runs)
    cores = len(os.sched_getaffinity(0))
    heading = (
        f"Linux {platform.release()}, {cores} cores, Python {platform.python_version()}, "
        f"medians of {options.runs} runs.\n\n"
        "| what | Lamella | peer | peer's time over ours |\n|---|---|---|---|"
    )
    print(heading, flush=True)
    try:
        for name in options.names or ("load", "mount", "commit", "open_one", "start", "memory", "registry"):
            getattr(bench, name)()
    finally:
        remove_disks(options.work)
    if options.write:
        write_table("\n".join([heading, *(row.text() for row in bench.rows)]))


def write_table(table: str) -> None:
    """Replace the table between the marks of README.md."""
    readme = HERE / "README.md"
    head, _, rest = readme.read_text().partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->")
    readme.write_text(f"{head}<!-- table -->\n{table}\n<!-- end -->{tail}")


if __name__ == "__main__":
    main()
