"""Parameters that several verbs share, and how a shell completes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click
from click.shell_completion import CompletionItem

from lamella.cli import environment
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.store.store import Store

    _Parameter = click.ParamType[bytes]  # generic since click 8.4
else:
    _Parameter = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

LAYER_COMPRESSIONS = ("none", "gzip", "zstd")
COMPRESSIONS = ("none", "gzip", "bzip2", "xz", "zstd")


class InnerPath(_Parameter):
    """A path inside an image: bytes, as they came."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        return value if isinstance(value, bytes) else os.fsencode(value)


# -- completion: only ever reads a store that is there, and never fails


def _completing(ctx: click.Context, find: Callable[[Store], list[str]]) -> list[str]:
    from lamella.store.store import Store

    root = Path(ctx.find_root().params.get("root") or environment.default_root())
    if not (root / "catalog.db").is_file():
        return []
    try:
        with Store.open(root) as store:
            return find(store)
    except (LamellaError, OSError):
        return []


def _image_names(store: Store) -> list[str]:
    return sorted(name for names in store.graph.names_by_target().values() for name in names)


def _snapshot_keys(store: Store) -> list[str]:
    return [record.key for record in store.catalog.snapshots()]


def complete_image(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of images."""
    return [CompletionItem(n) for n in _completing(ctx, _image_names) if n.startswith(incomplete)]


def complete_snapshot(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of snapshots."""
    return [CompletionItem(n) for n in _completing(ctx, _snapshot_keys) if n.startswith(incomplete)]


def complete_any(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of snapshots and names of images."""
    return complete_snapshot(ctx, param, incomplete) + complete_image(ctx, param, incomplete)


def complete_any_or_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of snapshots, names of images, paths of the host."""
    return [CompletionItem(incomplete, type="file"), *complete_any(ctx, param, incomplete)]


# -- options


def json_option(command: F) -> F:
    """``--json``: one document instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def no_trunc_option(command: F) -> F:
    """``--no-trunc``."""
    return click.option("--no-trunc", is_flag=True, help="Do not shorten ids and texts.")(command)


def quiet_option(command: F) -> F:
    """``-q`` for what shows progress."""
    return click.option("-q", "--quiet", is_flag=True, help="Show no progress.")(command)


def platform_option(command: F) -> F:
    """``--platform``, for names of multi-platform images."""
    return click.option(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="Which image of a multi-platform one.  [default: this machine's]",
    )(command)


def recipe_options(command: F) -> F:
    """What ``import`` and ``commit`` write into an image."""
    options = (
        click.option("-a", "--author", default="", metavar="TEXT", help="Who made the image."),
        click.option("-m", "--message", default="", metavar="TEXT", help="The comment in the history."),
        click.option(
            "-c",
            "--change",
            "changes",
            multiple=True,
            metavar="INSTRUCTION",
            help="Apply a Dockerfile instruction to the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, "
            "STOPSIGNAL, USER, VOLUME, WORKDIR. May be repeated.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def compression_options(choices: tuple[str, ...], default: str) -> Callable[[F], F]:
    """``--compression`` and ``--level``; ``default`` says in words what happens without."""

    def decorate(command: F) -> F:
        command = click.option(
            "--level", type=int, metavar="N", help="The level of the compression.  [default: the compression's own]"
        )(command)
        return click.option(
            "--compression", type=click.Choice(choices), help=f"How to compress.  [default: {default}]"
        )(command)

    return decorate


def output_option(command: F) -> F:
    """``-o FILE``, ``-`` being standard output."""
    return click.option(
        "-o", "--output", metavar="FILE", type=click.Path(), help="Where to write; - is standard output."
    )(command)


def binary_output(output: str | None) -> Path | None:
    """The path of ``-o``, None for standard output, which must not be a terminal."""
    import sys

    if output is not None and output != "-":
        return Path(output)
    if sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal: redirect it, or write to a file with -o")
    sys.stdout.flush()
    return None


def binary_input() -> BinaryIO:
    """Standard input, which must not be a terminal."""
    if os.isatty(0):
        raise click.UsageError("standard input is a terminal: name a file, or redirect it")
    return open(0, "rb", buffering=0, closefd=False)


def no_more() -> None:
    """End with the exit code that says no."""
    click.get_current_context().exit(1)
