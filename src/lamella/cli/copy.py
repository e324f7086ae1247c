"""``lamella copy``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from lamella.cli import arguments, remote
from lamella.cli.output import write_json, write_text
from lamella.cli.remote import Reach
from lamella.cli.session import Session, pass_session


@click.command("copy")
@click.argument("source", metavar="SOURCE", shell_complete=arguments.complete_image)
@click.argument("target", metavar="TARGET")
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Copy only this image of a multi-platform one.  [default: all]"
)
@remote.two_ended_options
@remote.download_options
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(
    here: Session,
    source: str,
    target: str,
    platform: str | None,
    reach: Reach,
    target_reach: Reach,
    connections: int,
    foreign_layers: bool,
    policy: Path | None,
    insecure_policy: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copy images between registries, files and the store.

    SOURCE and TARGET are docker://NAME, oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], or the
    name of an image in the store, which store: may stand before. A multi-platform image is copied whole; into a docker
    archive goes this machine's. The digests of what was copied are printed.

    For docker before 1.10 there are docker-graph:DIR[:NAME], its image directory of 2013, and docker-v1://NAME, a
    registry of version 1.
    """
    import tempfile

    from lamella.spec.platform import Platform
    from lamella.transfer.endpoints import Journey, Place, copy_between

    wanted = None if platform is None else Platform.parse(platform)
    ends = Place.parse(source), Place.parse(target)
    from_ = remote.access(replace(reach, connections=connections, foreign_layers=foreign_layers))
    to = remote.access(replace(target_reach, foreign_layers=foreign_layers))
    verify = remote.policy(policy, insecure=insecure_policy)
    with here.reporting(quiet=quiet) as progress:
        if any(end.transport == "store" for end in ends):
            with here.store() as store:
                copied = store.copy(
                    source, target, platform=wanted, access=from_, target_access=to, verify=verify, progress=progress
                )
        else:
            with tempfile.TemporaryDirectory(prefix="lamella-copy-") as scratch:
                journey = Journey(Path(scratch), from_, to, verify=verify, progress=progress)
                copied = copy_between(*ends, journey, platform=wanted)
    if as_json:
        write_json([{"digest": str(item.descriptor.digest), "names": list(item.names)} for item in copied])
        return
    for item in copied:
        write_text(str(item.descriptor.digest))
