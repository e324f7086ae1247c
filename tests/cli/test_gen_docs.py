"""The manual that is generated."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lamella import errors
from lamella.cli import app

TOOL = Path(__file__).parents[2] / "tools" / "gen_docs.py"


@pytest.fixture
def gen_docs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool, writing to a directory of the test's own."""
    spec = importlib.util.spec_from_file_location("gen_docs", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gen_docs", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_what_was_written_is_current_until_it_is_changed(
    gen_docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gen_docs.py", "--check"])
    assert gen_docs.main() == 1
    monkeypatch.setattr(sys, "argv", ["gen_docs.py"])
    assert gen_docs.main() == 0
    monkeypatch.setattr(sys, "argv", ["gen_docs.py", "--check"])
    assert gen_docs.main() == 0
    capsys.readouterr()
    (tmp_path / "docs/errors.md").write_text("old")
    assert gen_docs.main() == 1
    assert capsys.readouterr().out == "docs/errors.md is out of date: run tools/gen_docs.py\n"


def test_every_verb_and_every_kind_is_in_the_manual(gen_docs: ModuleType) -> None:
    commands = gen_docs.commands()
    assert all(f"### lamella {verb}\n" in commands for verb in app.VERBS)
    reference = gen_docs.error_reference()
    assert all(f"| {kind.exit_code} | `{kind.kind}` |" in reference for kind in errors.KINDS)
    assert "| `image-not-found` | `not-found` | images |" in reference


def test_codes_are_constants_in_kebab_case(gen_docs: ModuleType) -> None:
    codes = gen_docs.found_codes()
    assert len(codes) > 100
    assert all(code.code.replace("-", "").isalnum() and code.code == code.code.lower() for code in codes)
