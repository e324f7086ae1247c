"""The least that a verified load can take: prints the seconds of each part alone, and of all of them on every core.

The parts: inflating (with the library that Lamella uses), the sha256 of the blobs and of the tars, writing the tars.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lamella.archive._codecs import decoder_for
from lamella.archive.compression import Compression

_PIECE = 512 << 10


def _inflated(blob: Path) -> Iterator[bytes]:
    with open(blob, "rb") as file:
        compression = Compression.detect(file.read(16))
        file.seek(0)
        decoder, _ = decoder_for(compression.value)
        while not decoder.eof:
            yield decoder.decompress(file.read(_PIECE // 2) if decoder.needs_input else b"", _PIECE)


def _seconds(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def main(layout: Path, scratch: Path) -> None:
    """Measure each part on bytes that are in memory or in the page cache."""
    blobs = [path for path in (layout / "blobs/sha256").iterdir() if path.stat().st_size > 1 << 20]
    sizes = [sum(len(data) for data in _inflated(blob)) for blob in blobs]  # the first reading also fills the cache
    piece = os.urandom(_PIECE)
    total = sum(sizes)

    def inflate() -> None:
        for blob in blobs:
            for _ in _inflated(blob):
                pass

    def hash_all() -> None:
        hasher = hashlib.sha256()
        for _ in range((total + sum(blob.stat().st_size for blob in blobs)) // _PIECE):
            hasher.update(piece)

    def write() -> None:
        with open(scratch, "wb", buffering=0) as file:
            for _ in range(total // _PIECE):
                file.write(piece)

    parts = {
        "inflate": _seconds(inflate),
        "sha256 of blobs and tars": _seconds(hash_all),
        "write tars": _seconds(write),
    }
    scratch.unlink()
    for name, seconds in parts.items():
        print(f"{name}\t{seconds:.3f}", file=sys.stderr)
    print(sum(parts.values()) / len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
