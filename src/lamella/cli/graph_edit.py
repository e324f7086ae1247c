"""``lamella graph tag``, ``rmi``."""

from __future__ import annotations

import click

from lamella.cli.graph import opened
from lamella.cli.output import clean, write_text
from lamella.cli.session import Session, pass_session
from lamella.errors import Aborted, LamellaError


@click.command("tag")
@click.argument("name", metavar="IMAGE")
@click.argument("repository", metavar="REPOSITORY[:TAG]")
@click.argument("tag", metavar="[TAG]", required=False)
@click.option("-f", "--force", is_flag=True, help="Take the name from the image that has it.")
@pass_session
def tag_command(here: Session, name: str, repository: str, tag: str | None, force: bool) -> None:
    """Give an image a name.

    Without a tag it is latest.
    """
    from lamella.formats.docker_graph import parse_repository_tag

    if tag is None:
        repository, tag = parse_repository_tag(repository)
    with opened(here) as graph:
        graph.tags.set(repository, tag, name, force=force)


@click.command("rmi")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="By id, also what has names in several repositories, or containers.")
@click.option("--no-prune", is_flag=True, help="Keep ancestors that nothing needs any more.")
@pass_session
def rmi_command(here: Session, names: tuple[str, ...], force: bool, no_prune: bool) -> None:
    """Remove images.

    A name is taken away, by id all names of the image; an image that has no name, no child and no container goes, and
    then its ancestors, up to the first that is needed. One that cannot be removed does not keep the others.
    """
    from lamella.formats.docker_graph_removal import remove_image

    failures: list[LamellaError] = []
    with opened(here) as graph:
        for name in names:
            try:
                for done in remove_image(graph, name, force=force, prune=not no_prune):
                    write_text(clean(str(done)))
            except Aborted:
                raise
            except LamellaError as error:
                failures.append(error)
        for failure in failures[1:]:
            graph.progress.note(str(failure))
    if failures:
        raise failures[0]
