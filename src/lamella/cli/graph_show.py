"""``lamella graph images``, ``tree``, ``viz``, ``history``, ``inspect``, ``checksum``."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any

import click

from lamella.cli import arguments, graph_drawing, graph_words
from lamella.cli.graph import opened
from lamella.cli.output import clean, escape_steering, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session
from lamella.errors import LamellaError

if TYPE_CHECKING:
    from lamella.formats.docker_graph import Graph, GraphImage

_NONE = "<none>"
_WIDTH = 45


def _id(image: GraphImage, *, full: bool) -> str:
    return image.id if full else image.short_id


# -- images


@click.command("images")
@click.argument("pattern", metavar="[NAME]", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Show images that others stand on, too.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@click.option("-s", "--size", is_flag=True, help="Show sizes, which a graph of 0.4 has to be searched for.")
@click.option("--tree", is_flag=True, help="Draw a tree, as 'graph tree'.")
@click.option("--viz", is_flag=True, help="Draw for Graphviz, as 'graph viz'.")
@arguments.no_trunc_option
@arguments.json_option
@pass_session
def images_command(
    here: Session,
    pattern: str | None,
    everything: bool,
    quiet: bool,
    size: bool,
    tree: bool,
    viz: bool,
    no_trunc: bool,
    as_json: bool,
) -> None:
    """List images.

    NAME is a repository; * and ? in it stand for anything but a slash. Without -a images that others stand on are shown
    only if they have a name.
    """
    if sum((quiet, tree, viz, as_json)) > 1:
        raise click.UsageError("--quiet, --tree, --viz and --json exclude each other")
    with opened(here) as graph:
        if tree or viz:
            graph_drawing.draw(graph, pattern, full=no_trunc, dot=viz)
            return
        listed = _listed(graph, pattern, everything=everything)
        if as_json:
            sizes = graph_drawing.Sizes()
            write_json([_document(image, repository, tag, sizes) for repository, tag, image in listed])
        elif quiet:
            for image_id in dict.fromkeys(_id(image, full=no_trunc) for _, _, image in listed):
                write_text(image_id)
        else:
            _write_images(graph, listed, size=size, full=no_trunc)


def _write_images(graph: Graph, listed: list[tuple[str, str, GraphImage]], *, size: bool, full: bool) -> None:
    from lamella.formats.docker_graph import GraphForm

    form = graph.layout.form
    heading = "VIRTUAL SIZE" if form.has_driver else "SIZE" if size or form is not GraphForm.V0_4 else None
    header = ("REPOSITORY", "TAG", "ID", "CREATED", *((heading,) if heading else ()))
    sizes = graph_drawing.Sizes()
    rows = []
    for repository, tag, image in listed:
        row = [clean(repository) or _NONE, clean(tag) or _NONE, _id(image, full=full)]
        row.append(graph_words.age(image.record.created))
        if heading is not None:
            whole = graph_words.size(sizes.whole(image))
            row.append(whole if form.has_driver else f"{graph_words.size(sizes.own(image))} (virtual {whole})")
        rows.append(row)
    write_table(header, rows, cell=graph_words.CELL)


def _listed(graph: Graph, pattern: str | None, *, everything: bool) -> list[tuple[str, str, GraphImage]]:
    """Repository, tag and image, the newest first. What has no name comes only where no name is asked for."""
    images = graph.map()
    found: list[tuple[str, str, GraphImage]] = []
    named: set[str] = set()
    for repository, tags in graph.tags.repositories.items():
        named.update(tags.values())
        if pattern is not None and not _fits(repository, pattern):
            continue
        for tag, identity in tags.items():
            try:
                found.append((repository, tag, images.get(identity) or graph.get(identity)))
            except LamellaError as error:
                name = f"{identity[:80]} from {repository}/{tag}"
                graph.progress.note(f"Warning: couldn't load {clean(name)}: {error}")
    if pattern is None:
        rest = images.values() if everything else graph.heads().values()
        found += [("", "", image) for image in rest if image.id not in named]
    return sorted(found, key=lambda item: (-item[2].record.created.epoch_ns, item[0], item[1], item[2].id))


def _fits(repository: str, pattern: str) -> bool:
    """Whether a repository matches, part by part: ``*`` does not stand for a slash."""
    parts, wanted = repository.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _document(image: GraphImage, repository: str, tag: str, sizes: graph_drawing.Sizes) -> dict[str, Any]:
    return {
        "id": image.id,
        "parent": image.parent or None,
        "repository": repository or None,
        "tag": tag or None,
        "created": str(image.record.created),
        "size": sizes.own(image),
        "virtual_size": sizes.whole(image),
    }


@click.command("tree")
@click.argument("name", metavar="[NAME]", required=False)
@arguments.no_trunc_option
@pass_session
def tree_command(here: Session, name: str | None, no_trunc: bool) -> None:
    """Draw the images as a tree.

    Of all images, or of those that stand on the image NAME.
    """
    with opened(here) as graph:
        graph_drawing.draw(graph, name, full=no_trunc, dot=False)


@click.command("viz")
@click.argument("name", metavar="[NAME]", required=False)
@arguments.no_trunc_option
@pass_session
def viz_command(here: Session, name: str | None, no_trunc: bool) -> None:
    """Draw the images for Graphviz.

    Of all images, or of those that stand on the image NAME.
    """
    with opened(here) as graph:
        graph_drawing.draw(graph, name, full=no_trunc, dot=True)


# -- one image


@click.command("history")
@click.argument("name", metavar="IMAGE")
@click.option("-q", "--quiet", is_flag=True, help="Print ids only.")
@arguments.no_trunc_option
@arguments.json_option
@pass_session
def history_command(here: Session, name: str, quiet: bool, no_trunc: bool, as_json: bool) -> None:
    """Show how an image came to be.

    The image first and its base last. An image that has a name is shown by it.
    """
    with opened(here) as graph:
        images = graph.tags.lookup(name).history()
        if quiet:
            for image in images:
                write_text(_id(image, full=no_trunc))
            return
        names = graph.tags.by_id()
        sizes = graph_drawing.Sizes()
        if as_json:
            write_json([_step(image, names.get(image.id, []), sizes) for image in images])
            return
        rows = []
        for image in images:
            command = _created_by(image)
            label = clean(names[image.id][0]) if image.id in names else _id(image, full=no_trunc)
            shown = clean(command) if no_trunc else graph_words.cut(command, _WIDTH)
            rows.append((label, graph_words.age(image.record.created), shown, graph_words.size(sizes.own(image))))
    write_table(("ID", "CREATED", "CREATED BY", "SIZE"), rows, cell=graph_words.CELL)


def _created_by(image: GraphImage) -> str:
    command = image.record.container_config.members().get("Cmd") or ()
    return " ".join(command)


def _step(image: GraphImage, names: list[str], sizes: graph_drawing.Sizes) -> dict[str, Any]:
    return {
        "id": image.id,
        "created": str(image.record.created),
        "created_by": _created_by(image),
        "author": image.record.author,
        "comment": image.record.comment,
        "size": sizes.own(image),
        "names": names,
    }


@click.command("inspect")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@pass_session
def inspect_command(here: Session, names: tuple[str, ...]) -> None:
    """Print the records of images.

    A list of JSON objects, as docker kept them.
    """
    from lamella.formats.docker_graph import gojson

    with opened(here) as graph:
        records = [gojson.indented(graph.tags.lookup(name).record.json, level=1) for name in names]
    write_text(escape_steering("[\n    " + ",\n    ".join(records) + "\n]"))


@click.command("checksum")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--tarsum", type=click.Choice(("0", "1", "dev")), help="Print the TarSum of this version instead.")
@arguments.json_option
@pass_session
def checksum_command(here: Session, names: tuple[str, ...], tarsum: str | None, as_json: bool) -> None:
    """Print the checksums of images.

    The checksum of docker 0.3 to 0.5 is over the record and the archive of the layer; the one that the graph keeps, or
    else it is computed, and kept. TarSums are those of 0.6 to 1.9.
    """
    with opened(here) as graph:
        images = [graph.tags.lookup(name) for name in names]
        if as_json:
            write_json([_sums(image) for image in images])
            return
        for image in images:
            write_text(image.tarsum(version=tarsum) if tarsum else image.checksum())  # type: ignore[arg-type]


def _sums(image: GraphImage) -> dict[str, str]:
    return {
        "id": image.id,
        "checksum": image.checksum(),
        "tarsum": image.tarsum(version="0"),
        "tarsum_v1": image.tarsum(version="1"),
        "tarsum_dev": image.tarsum(version="dev"),
    }
