"""Prepares, mounts and removes snapshots of the benchmark's image; prints the median seconds of prepare + mount."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import lamella

COUNT = 25


def main(root: Path, driver: str) -> None:
    """Take the times in one process; the first snapshot, which makes what all of them share, does not count."""
    times = []
    with lamella.Store.open(root, driver=driver) as store:
        image = store.image("bench")
        for _ in range(COUNT + 1):
            start = time.perf_counter()
            snapshot = store.prepare(image)
            snapshot.attach()
            times.append(time.perf_counter() - start)
            snapshot.remove(force=True)
    print(statistics.median(times[1:]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
