"""``lamella checksum``."""

from __future__ import annotations

import click

from lamella.cli import arguments, lookup
from lamella.cli.output import write_json, write_text
from lamella.cli.session import Session, pass_session

_NAMES = {
    "digest": "Digest",
    "id": "Id",
    "diff_id": "DiffID",
    "chain_id": "ChainID",
    "v1_id": "V1 id",
    "checksum": "Checksum",
    "tarsum": "TarSum",
    "tarsum_v1": "TarSum v1",
    "tarsum_dev": "TarSum dev",
}
_WIDTH = max(map(len, _NAMES.values())) + 3


@click.command("checksum")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True, shell_complete=arguments.complete_image)
@click.option("-q", "--quiet", is_flag=True, help="Print the checksum of 2013 only.")
@arguments.json_option
@arguments.platform_option
@pass_session
def command(here: Session, names: tuple[str, ...], quiet: bool, as_json: bool, platform: str | None) -> None:
    """Show the digests of images beside their checksums of 2013.

    Checksum is that of docker 0.3 to 0.5, the TarSums are those of 0.6 to 1.9: over the record of the image, as docker
    save writes it, and its topmost layer. An image that came from a docker of that time has those that it had then.
    """
    with here.store() as store:
        images = [lookup.image(store, name, platform) for name in names]
        if quiet:
            for image in images:
                write_text(image.checksum())
            return
        found = [image.checksums() for image in images]
    documents = [{name: str(getattr(item, name)) for name in _NAMES} for item in found]
    if as_json:
        write_json(documents)
        return
    for position, document in enumerate(documents):
        if position:
            write_text("")
        for key, value in document.items():
            write_text(f"{_NAMES[key]:{_WIDTH}}{value}")
