"""Writes ``docs/commands.md`` from the command's parser and ``docs/errors.md`` from the errors that are raised.

With ``--check`` nothing is written: it exits with 1 and names what is out of date.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent.parent
PACKAGE = HERE / "src" / "lamella"
sys.path.insert(0, str(PACKAGE.parent))

from lamella import errors  # noqa: E402 - this checkout's, wherever the tool is run
from lamella.cli import app, environment, failures  # noqa: E402
from lamella.spec.progress import Cancelled  # noqa: E402

NOTE = "<!-- written by tools/gen_docs.py; do not edit -->\n"


# -- commands


def commands() -> str:
    """The manual of the command line."""
    root = click.Context(app.app, info_name="lamella", **app.app.context_settings)
    parts = [NOTE, "# Commands\n", _conventions(), _options("Global options, before the verb", app.app, root)]
    parts += ["## Environment\n", _table(("variable", "meaning"), _variables())]
    for section in dict.fromkeys(verb.section for verb in app.VERBS.values()):
        parts.append(f"## {section}\n")
        parts += [_command(name, root) for name, verb in app.VERBS.items() if verb.section == section]
    return "\n".join(parts)


def _conventions() -> str:
    return """\
`lamella [OPTIONS] VERB [ARGS]`

- Data goes to standard output, everything else to standard error.
- Where there is a table there is `--json`: one document, with whole ids, times as RFC 3339 and sizes in bytes. A path
  that is not UTF-8 is shown with escapes, and its bytes are beside it as `path_base64`.
- Ids are cut to twelve digits; `--no-trunc` shows them whole.
- An image is named by a name (`alpine`, `registry.example/team/app:1.2`), an id, a digest, or the unique beginning of
  one.
- A failure is one line, `lamella: VERB: what it is about: why; what mends it`, and an exit code: see
  [errors](errors.md).
- Progress is bars on a terminal and a line for each object elsewhere. `--progress json` writes lines of JSON to
  standard error: `start`, `progress`, `done`, `note`, and `failure` for what went wrong.
"""


def _variables() -> Iterator[tuple[str, str]]:
    for name, meaning in environment.VARIABLES:
        yield f"`{name}`", meaning


def _command(name: str, root: click.Context) -> str:
    command = app.app.get_command(root, name)
    assert command is not None, name
    context = click.Context(command, info_name=name, parent=root)
    usage = " ".join([f"lamella {name}", *command.collect_usage_pieces(context)])
    aliases = ", ".join(f"`lamella {alias}`" for alias, of in app.ALIASES.items() if of == name)
    text = _paragraphs(command.help or "")
    if aliases:
        text += f"\nThe same as {aliases}.\n"
    whole = f"### lamella {name}\n\n```\n{usage}\n```\n\n{text}\n{_options('', command, context)}"
    return "\n".join([whole, *_subcommands(name, command, context)])


def _subcommands(name: str, command: click.Command, context: click.Context) -> Iterator[str]:
    """The manual of the verbs of a verb."""
    if not isinstance(command, click.Group):
        return
    for verb in command.list_commands(context):
        below = command.get_command(context, verb)
        assert below is not None, verb
        inner = click.Context(below, info_name=verb, parent=context)
        usage = " ".join([f"lamella {name} {verb}", *below.collect_usage_pieces(inner)])
        text = _paragraphs(below.help or "")
        yield f"#### lamella {name} {verb}\n\n```\n{usage}\n```\n\n{text}\n{_options('', below, inner)}"


def _paragraphs(text: str) -> str:
    return inspect.cleandoc(text).replace("\b\n", "").replace("<", "\\<") + "\n"


def _options(title: str, command: click.Command, context: click.Context) -> str:
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)) is not None
    ]
    rows = ((f"`{flags}`", meaning) for flags, meaning in records)
    head = f"## {title}\n\n" if title else ""
    return head + _table(("option", "meaning"), rows)


# -- errors


_TAXONOMY = """\
Every failure of the library is a `LamellaError`. Its class is its kind: what the caller can do about it. Its fields say
what it is about (`subject`, `entry`, `layer`), why (`reason`), and what mends it (`hint`). Its `code` is stable across
releases.
"""


@dataclass(frozen=True, slots=True, order=True)
class Code:
    """A stable code, the kind of error that carries it, and the part of the package that raises it."""

    code: str
    kind: str
    part: str


def error_reference() -> str:
    """The manual of exit codes and codes of errors."""
    kinds = ((str(kind.exit_code), f"`{kind.kind}`", f"`{kind.__name__}`", _doc(kind)) for kind in errors.KINDS)
    plain = ((str(code), meaning) for code, meaning in failures.EXIT_CODES)
    codes = ((f"`{c.code}`", f"`{c.kind}`", c.part) for c in found_codes())
    return "\n".join(
        [
            NOTE,
            "# Errors and exit codes\n",
            _TAXONOMY,
            "## Exit codes\n",
            _table(("exit code", "meaning"), plain),
            "One for each kind of failure:\n",
            _table(("exit code", "kind", "class", "meaning"), kinds),
            "## Codes\n",
            _table(("code", "kind", "raised by"), codes),
        ]
    )


def _doc(kind: type[errors.LamellaError]) -> str:
    return " ".join((kind.__doc__ or "").split())


def found_codes() -> list[Code]:
    """Every ``code="..."`` of a raised error, found in the source; a row for each kind and part that has it."""
    kinds = {kind.__name__: kind.kind for kind in errors.KINDS} | {Cancelled.__name__: Cancelled.kind}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ("errors", "testing"):
            continue
        for name, code in _codes_in(ast.parse(path.read_text(), str(path))):
            if name in kinds:
                found.add(Code(code, kinds[name], part))
    return sorted(found)


def _codes_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for keyword in node.keywords:
                value = keyword.value
                if keyword.arg == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield name, value.value


# -- both


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def main() -> int:
    """Write the documents, or check them."""
    documents = {"commands.md": commands(), "errors.md": error_reference()}
    stale = []
    for name, text in documents.items():
        path = HERE / "docs" / name
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    for name in stale:
        print(f"docs/{name} is out of date: run tools/gen_docs.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
