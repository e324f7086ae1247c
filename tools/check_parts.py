"""Checks that every part imports only parts below it (docs/design.md, "The parts"). Exits 1 and lists what does not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ORDER = (
    ("cli",),
    ("server",),
    ("store",),
    ("upkeep",),
    ("transfer",),
    ("images",),
    ("formats",),
    ("registry",),
    ("catalog",),
    ("snapshots",),
    ("layers",),
    ("content", "mounts"),
    ("archive",),
    ("spec",),
    ("_sys",),
    ("errors",),
)
"""The parts from the top down; parts of one row stand beside each other and may not import one another."""

FREE = frozenset({"__init__", "__main__", "testing"})
"""The package's face, its entry point, and what is shipped for tests: nobody imports them, they may import all."""

LEVEL = {part: level for level, row in enumerate(ORDER) for part in row}


def part_of(module: str) -> str:
    """The part that a module of the package belongs to: ``lamella.layers.tree`` is in ``layers``."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    """Every ``lamella`` module that is imported, with its line; imports for type checkers count too."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            of_package = node.module == "lamella"
            names = [f"lamella.{alias.name}" for alias in node.names] if of_package else [node.module]
            found += [(node.lineno, name) for name in names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append((node.lineno, "a relative import"))
    return [(line, name) for line, name in found if name.split(".")[0] == "lamella" or name == "a relative import"]


def violations(package: Path) -> list[str]:
    """What breaks the order, a line each."""
    problems: list[str] = []
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own in FREE:
            continue
        if own not in LEVEL:
            problems.append(f"{path}: '{own}' is no part of the architecture")
            continue
        for line, name in imports(ast.parse(path.read_text(), str(path))):
            other = part_of(name)
            if other == own:
                continue
            if name == "lamella.__version__":
                continue
            if other not in LEVEL or LEVEL[other] <= LEVEL[own]:
                problems.append(f"{path}:{line}: '{own}' imports {name}, which is not below it")
    return problems


def main() -> int:
    """Check the package beside this file's parent."""
    problems = violations(Path(__file__).resolve().parent.parent / "src" / "lamella")
    print("\n".join(problems) or "every part imports only what is below it")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
