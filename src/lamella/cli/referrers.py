"""``lamella referrers``."""

from __future__ import annotations

import click

from lamella.cli import arguments, remote
from lamella.cli.output import clean, human_size, write_json, write_table
from lamella.cli.remote import Reach
from lamella.cli.session import Session, pass_session


@click.command("referrers")
@click.argument("name", metavar="IMAGE")
@click.option("--artifact-type", metavar="TYPE", default="", help="List only what is of this type.")
@remote.options
@arguments.json_option
@pass_session
def command(
    here: Session,
    name: str,
    artifact_type: str,
    reach: Reach,
    as_json: bool,
) -> None:
    """List what refers to an image: signatures, attestations, other artifacts.

    They are at the image's registry.

    What cosign keeps under tags of its own is listed too.
    """
    from lamella.registry.source import find_any

    access = remote.access(reach)
    found = find_any(access.registries.candidates(remote.bare(name)), access)
    digest = found.document.descriptor.digest
    try:
        listed = found.repository.referrers(digest, artifact_type)
        signatures = {} if artifact_type else found.repository.signatures(digest)
    finally:
        found.repository.registry.close()
    if as_json:
        items = [item.to_object() for item in listed]
        write_json({"digest": str(digest), "referrers": items, "cosign": {t: str(d) for t, d in signatures.items()}})
        return
    rows = [[str(item.digest), clean(item.artifact_type or item.media_type), human_size(item.size)] for item in listed]
    rows += [[str(found), clean(f"cosign: {tag}"), ""] for tag, found in signatures.items()]
    write_table(["DIGEST", "TYPE", "SIZE"], rows)
