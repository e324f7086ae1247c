"""``lamella images``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lamella.cli import arguments, drawing, listing
from lamella.cli.output import human_age, human_size, show_id, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session

if TYPE_CHECKING:
    from lamella.cli.listing import Listed

_NONE = "<none>"
_PLATFORMS = 3


@click.command("images")
@click.argument("pattern", metavar="[NAME]", required=False, shell_complete=arguments.complete_image)
@click.option("-a", "--all", "everything", is_flag=True, help="Show also what has no name and is part of something.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option("--digests", is_flag=True, help="Show the digests of manifests.")
@click.option("--tree", is_flag=True, help="Draw which image was made from which.")
@click.option("--dot", is_flag=True, help="Print the same for Graphviz.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Show only: dangling=true|false, label=KEY[=VALUE], reference=PATTERN. May be repeated.",
)
@arguments.no_trunc_option
@arguments.json_option
@pass_session
def command(
    here: Session,
    pattern: str | None,
    everything: bool,
    quiet: bool,
    digests: bool,
    tree: bool,
    dot: bool,
    filters: tuple[str, ...],
    no_trunc: bool,
    as_json: bool,
) -> None:
    """List images.

    Each name has its line; an image without one shows as <none>. Images that others were made from and the parts of
    multi-platform images show if they have a name, or with --all. NAME is a repository, with or without a tag, and may
    have * and ? in it.
    """
    if tree + dot + as_json + quiet > 1:
        raise click.UsageError("--tree, --dot, --json and --quiet exclude each other")
    conditions = listing.parse_filters(filters)
    with here.store() as store:
        if dot:
            write_text(drawing.dot(store, full=no_trunc))
        elif tree:
            for line in drawing.tree(store, full=no_trunc):
                write_text(line)
        else:
            found = listing.select(store, pattern, conditions, everything=everything)
            if as_json:
                write_json([item.document() for item in found])
            elif quiet:
                for text in dict.fromkeys(show_id(item.id, full=no_trunc) for item in found):
                    write_text(text)
            else:
                _table(found, full=no_trunc, digests=digests)


def _table(found: list[Listed], *, full: bool, digests: bool) -> None:
    header = ["REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "CREATED", "SIZE", "PLATFORM"]
    rows = []
    for item in found:
        for repository, tag in item.names or [(_NONE, _NONE)]:
            start = [repository, _NONE if tag.startswith("@") else tag, *([str(item.digest)] if digests else [])]
            facts = [show_id(item.id, full=full), human_age(item.created), human_size(item.size)]
            rows.append([*start, *facts, _platforms(item, full=full)])
    write_table(header, rows)


def _platforms(item: Listed, *, full: bool) -> str:
    if item.kind == "artifact":
        return "(artifact)"
    shown = item.platforms if full else item.platforms[:_PLATFORMS]
    more = len(item.platforms) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")
