"""What a test may need of the machine, and what becomes of a test that does not find it.

It is skipped, saying why; where everything must be there (``LAMELLA_CI=1``) it fails, saying the same.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

CI = os.environ.get("LAMELLA_CI", "") not in ("", "0")
IMAGES = Path(os.environ.get("LAMELLA_TEST_IMAGES", Path(__file__).parents[3] / "shared" / "images"))

needs_root = pytest.mark.needs_root
needs_tool = pytest.mark.needs_tool
needs_driver = pytest.mark.needs_driver

_RARE = frozenset({"aufs"})
_MUST_HAVE = re.compile(r"needs |.* (is|are) not installed\b|the real images are not at ")


def missing(what: str) -> NoReturn:
    """End the test because the machine lacks ``what``: skipped, or failed where nothing may be lacking."""
    reason = f"needs {what}"
    if CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def is_must_have(reason: str) -> bool:
    """Whether the reason of a skip says that something is lacking which every test machine can have."""
    return _MUST_HAVE.match(reason) is not None


def root() -> None:
    """Only root may do what follows."""
    if os.geteuid() != 0:
        missing("root")


def tool(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        missing(f"the program {name}")
    return path


def driver(name: str, at: Path) -> None:
    """A driver that works under the directory ``at``. Those for kernels that no distribution ships may be lacking."""
    from lamella.mounts import mount

    probe = mount.driver(name).probe(at)
    if not probe.ok:
        if name in _RARE:
            pytest.skip(f"the driver {name} does not work here: {probe.reason}")
        missing(f"the driver {name}: {probe.reason}")


def images() -> Path:
    """The folder of real images."""
    if not IMAGES.is_dir():
        missing(f"the real images, which are not at {IMAGES} (LAMELLA_TEST_IMAGES)")
    return IMAGES
