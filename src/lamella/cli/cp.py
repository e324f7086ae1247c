"""``lamella cp``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from lamella.cli import arguments, environment, lookup
from lamella.cli.session import Session, pass_session
from lamella.errors import InvalidInput

if TYPE_CHECKING:
    from lamella.spec.progress import Progress
    from lamella.store.copying import Selection
    from lamella.store.snapshot import Snapshot
    from lamella.store.store import Store


@click.command("cp")
@click.argument("source", metavar="NAME:PATH|HOSTPATH|-", shell_complete=arguments.complete_any_or_path)
@click.argument("destination", metavar="SNAPSHOT:PATH|HOSTPATH|-", shell_complete=arguments.complete_any_or_path)
@click.option("-L", "--follow-link", "follow", is_flag=True, help="If the source is a link, copy what it leads to.")
@click.option("-a", "--archive", is_flag=True, help="Accepted for docker's sake: all metadata is kept anyway.")
@arguments.platform_option
@arguments.quiet_option
@pass_session
def command(
    here: Session, source: str, destination: str, follow: bool, archive: bool, platform: str | None, quiet: bool
) -> None:
    """Copy files out of an image or a snapshot, or into a snapshot.

    One side, or both, is NAME:PATH; images can only be copied from. Directories are copied with all that is in them,
    and go into a directory that is there; with /. at the end of the source, what is in it goes there. - is a tar: on
    standard output what is copied, on standard input what is unpacked into a directory of a snapshot.

    Modes, times and extended attributes are kept, and owners if you are root. Links are copied as links, and none of
    them is followed out of the image or the snapshot. A snapshot is mounted for the time of copying into it if it is
    not.
    """
    origin, target = split(source), split(destination)
    if origin is None and target is None:
        raise click.UsageError("one side must be NAME:PATH; write ./NAME:PATH for a file of that name")
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        into = None if target is None else _snapshot(store, target[0])
        if origin is not None:
            from lamella.store.copying import select

            with lookup.files(store, origin[0], platform) as files:
                chosen = select(files, origin[1], follow=follow)
            _deliver(chosen, into, target, destination, progress)
        elif source == "-":
            with store.lease("cp -") as lease:
                from lamella.store.copying import select_tar

                chosen = select_tar(arguments.binary_input(), lease.directory, limits=store.limits, progress=progress)
                _deliver(chosen, into, target, destination, progress)
        else:
            from lamella.store.copying import select_host

            chosen = select_host(source, follow=follow, limits=store.limits, progress=progress)
            _deliver(chosen, into, target, destination, progress)


def split(text: str) -> tuple[str, bytes] | None:
    """``NAME:PATH`` as its two parts, None for a path of the host.

    The name ends before the first ``:/``, for names have colons too, else before the last colon. What begins with a
    slash or a dot, or has no colon, is of the host.
    """
    if text.startswith(("/", ".")) or ":" not in text:
        return None
    name, slash, path = text.partition(":/")
    if slash:
        return name, os.fsencode("/" + path)
    name, _, path = text.rpartition(":")
    return name, os.fsencode(path)


def _snapshot(store: Store, name: str) -> Snapshot:
    if store.catalog.snapshot(name) is None and store.exists(name):
        raise InvalidInput(
            "an image cannot be changed",
            code="image-read-only",
            subject=name,
            hint=f"copy into a snapshot: 'lamella create {name}' makes one",
        )
    return store.snapshot(name)


def _deliver(
    chosen: Selection, into: Snapshot | None, target: tuple[str, bytes] | None, destination: str, progress: Progress
) -> None:
    from lamella.store import copying

    if into is not None and target is not None:
        copying.to_snapshot(chosen, into, target[1], progress=progress)
    elif destination == "-":
        _to_stdout(chosen, progress)
    else:
        copying.to_host(chosen, destination, progress=progress)


def _to_stdout(chosen: Selection, progress: Progress) -> None:
    from lamella.formats.output import Output
    from lamella.store import copying

    output = Output(arguments.binary_output(None))
    try:
        with output.writing() as write:
            copying.to_tar(chosen, write, clamp=environment.source_date_epoch(), progress=progress)
    finally:
        output.close()
