"""Changes 5,000 files of the benchmark's image below the directory that is given: the same change for every tool."""

from __future__ import annotations

import random
import sys
from pathlib import Path

COUNT = 5_000


def main(root: Path) -> None:
    """Rewrite every file whose turn it is with as many other bytes."""
    source = random.Random(7)
    files = sorted(path for path in (root / "usr/lib").rglob("*.py") if path.is_file() and not path.is_symlink())
    for path in files[:COUNT]:
        size = path.stat().st_size
        path.write_bytes(source.randbytes(max(size // 2, 1)).hex().encode()[:size])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
