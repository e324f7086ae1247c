"""The table of docs/compatibility.md names tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_table_names_is_there():
    section = (ROOT / "docs/compatibility.md").read_text().partition("## docker 0.4.0")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", section))
    there = set()
    for path in Path(__file__).parent.glob("test_graph_*.py"):
        tree = ast.parse(path.read_text())
        there |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert named
    assert named - there == set()
