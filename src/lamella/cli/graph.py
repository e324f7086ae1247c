"""``lamella graph``: the verbs that work on Docker's image directory of 2013, in place."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from lamella.cli.session import Session

if TYPE_CHECKING:
    from lamella.formats.docker_graph import Graph

SUBVERBS = {
    "images": ("graph_show", "List images."),
    "tree": ("graph_show", "Draw the images as a tree."),
    "viz": ("graph_show", "Draw the images for Graphviz."),
    "history": ("graph_show", "Show how an image came to be."),
    "inspect": ("graph_show", "Print the records of images."),
    "checksum": ("graph_show", "Print the checksums of images."),
    "tag": ("graph_edit", "Give an image a name."),
    "rmi": ("graph_edit", "Remove images."),
    "changes": ("graph_files", "Show what an image or a writable branch changes."),
    "mount": ("graph_files", "Mount an image with a writable branch over it."),
    "umount": ("graph_files", "Unmount what 'graph mount' mounted."),
    "tar": ("graph_files", "Write the layer of an image as a tar."),
}
"""The module that has each verb as ``NAME_command``, and what it does."""

_PLACE = "lamella.graph"


class GraphVerbs(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBVERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBVERBS:
            return None
        module = importlib.import_module(f"lamella.cli.{SUBVERBS[cmd_name][0]}")
        return cast(click.Command, getattr(module, f"{cmd_name}_command"))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])  # as the command without a verb does

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        ctx.ensure_object(Session).verb = f"graph {found[0]}"
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in SUBVERBS.items()])


@click.command("graph", cls=GraphVerbs)
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="/var/lib/docker",
    show_default=True,
    help="The graph, or the directory that has one by the name of graph.",
)
@click.pass_context
def command(ctx: click.Context, root: Path) -> None:
    """Work on Docker's image directory of 2013 in place.

    It may be of docker 0.4 to 1.0, with its own layers or with those of the drivers aufs and vfs. An image is named by
    a repository, with or without a tag, by its id, or by the beginning of that. Several processes may work on one
    directory at once, but a docker of that time must not run on it meanwhile.
    """
    ctx.meta[_PLACE] = root


@contextmanager
def opened(here: Session) -> Iterator[Graph]:
    """The graph that was asked for, while the block runs. Raises NotFound."""
    from lamella.formats.docker_graph import Graph

    with here.reporting() as progress:
        yield Graph.open(click.get_current_context().meta[_PLACE], create=False, progress=progress)
