"""From blobs to a mounted root: one process that loads or pulls an image, prepares a snapshot and mounts it."""

from __future__ import annotations

import sys
from pathlib import Path

import lamella


def main(root: Path, source: str, driver: str, key: str = "work") -> None:
    """Print where it is mounted; ``lamella umount KEY`` ends that. ``source`` is an OCI layout or a name."""
    with lamella.Store.open(root, driver=driver) as store:
        if Path(source).is_dir():
            store.load(source)
            image = store.image("bench")
        else:
            image = store.pull(source)
        print(store.prepare(image, key=key).attach().root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
