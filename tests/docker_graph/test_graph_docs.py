"""The table of docs/compatibility.md has a row for each function of image.go, and names tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs/compatibility.md").read_text().partition("## docker 0.4.0")[2].partition("\n## ")[0]
LINES = [line for line in SECTION.splitlines() if line.startswith("| `") and line.count("|") == 5]
ROWS = [line.strip("|").split(" | ") for line in LINES]
FUNCTIONS = {
    "LoadImage", "StoreImage", "NewImgJson", "jsonPath", "layerPath", "layerArchivePath", "ValidateId", "ShortId",
    "GenerateId", "TarLayer", "MountAUFS", "Mount", "Changes", "History", "WalkHistory", "GetParent", "layers", "layer",
    "root", "Checksum",
}  # fmt: skip


def test_every_function_of_image_go_has_a_row():
    named = [name for row in ROWS for name in re.findall(r"`(\w+)`", row[0])]
    assert set(named) >= FUNCTIONS
    assert len(named) == len(set(named))


def test_every_row_names_tests_that_are_there():
    there = set()
    for folder, files in (("docker_graph", "test_graph_*.py"), ("mounts", "test_mounts_aufs.py")):
        for path in (ROOT / "tests" / folder).glob(files):
            tree = ast.parse(path.read_text())
            there |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for row in ROWS:
        named = set(re.findall(r"`(test_\w+)`", row[3]))
        assert named, row[0]
        assert named - there == set(), row[0]
