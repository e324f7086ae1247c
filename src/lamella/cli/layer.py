"""``lamella layer``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lamella.cli import arguments, describe, lookup
from lamella.cli.output import human_size, show_id, write_json, write_table
from lamella.cli.session import Session, pass_session
from lamella.errors import Ambiguous, NotFound

if TYPE_CHECKING:
    from lamella.images.image import Image
    from lamella.images.layer import Layer

_NUMBER = 4
"""More digits than this are the beginning of a digest."""
_WORDS = {"A": "added", "C": "modified", "D": "deleted"}


@click.command("layer")
@click.argument("name", metavar="IMAGE", shell_complete=arguments.complete_image)
@click.argument("which", metavar="[N|DIGEST]", required=False)
@click.option("--which", "path", metavar="PATH", type=arguments.InnerPath(), help="Tell which layers touched PATH.")
@arguments.output_option
@arguments.compression_options(arguments.COMPRESSIONS, "none")
@arguments.no_trunc_option
@arguments.json_option
@arguments.platform_option
@pass_session
def command(
    here: Session,
    name: str,
    which: str | None,
    path: bytes | None,
    output: str | None,
    compression: str | None,
    level: int | None,
    no_trunc: bool,
    as_json: bool,
    platform: str | None,
) -> None:
    """List an image's layers, write one as a tar, tell which layers touched a path.

    Layers are numbered from 0, the lowest. One is chosen by its number, or by the beginning of its digest or diff_id.
    Its tar, uncompressed as is the default, hashes to its diff_id.
    """
    if which is not None and path is not None:
        raise click.UsageError("--which PATH is a question about all layers")
    if which is None and (output is not None or compression is not None or level is not None):
        raise click.UsageError("say which layer to write: its number or its digest")
    with here.store() as store:
        image = lookup.image(store, name, platform)
        if which is not None:
            _write(_choose(image, which, name), output, compression, level)
        elif path is not None:
            _touched(image, path, as_json=as_json, full=no_trunc)
        else:
            _list(image, as_json=as_json, full=no_trunc)


def _choose(image: Image, which: str, name: str) -> Layer:
    """A layer by its number or by a prefix of one of its digests. Raises NotFound, Ambiguous."""
    layers = image.layers
    if which.isdecimal() and len(which) <= _NUMBER:
        found = {layer.diff_id: layer for layer in layers[int(which) : int(which) + 1]}
    else:
        found = {
            layer.diff_id: layer
            for layer in layers
            for digest in (layer.digest, layer.diff_id)
            if which and (digest.hex.startswith(which) or str(digest).startswith(which))
        }
    if len(found) > 1:
        listed = ", ".join(str(diff_id) for diff_id in found)
        raise Ambiguous(f"'{which}' fits the layers {listed}", code="ambiguous-layer", subject=name)
    if not found:
        hint = f"there are layers 0 to {len(layers) - 1}" if layers else "the image has none"
        raise NotFound(f"no layer is '{which}'", code="layer-not-found", subject=name, hint=hint)
    return found.popitem()[1]


def _write(layer: Layer, output: str | None, compression: str | None, level: int | None) -> None:
    from lamella.archive.compression import Compression
    from lamella.formats.output import Output

    target = Output(arguments.binary_output(output))
    try:
        with target.writing() as write:
            for piece in layer.tar(Compression(compression or "none"), level=level):
                write(piece)
    finally:
        target.close()


def _list(image: Image, *, as_json: bool, full: bool) -> None:
    if as_json:
        write_json([{"layer": number, **describe.layer(layer)} for number, layer in enumerate(image.layers)])
        return
    header = ("LAYER", "DIGEST", "DIFF ID", "SIZE", "UNPACKED", "MEDIA TYPE")
    rows = [
        (
            str(number),
            show_id(layer.digest, full=full),
            show_id(layer.diff_id, full=full),
            human_size(layer.size),
            human_size(layer.tar_size),
            layer.media_type,
        )
        for number, layer in enumerate(image.layers)
    ]
    write_table(header, rows)


def _touched(image: Image, path: bytes, *, as_json: bool, full: bool) -> None:
    steps = image.provenance(path)
    if not steps:
        raise NotFound("no layer has it", code="path-not-found", entry=path)
    if as_json:
        write_json(
            [
                {
                    "layer": step.layer,
                    "action": _WORDS[step.action],
                    "digest": str(record.blob),
                    "diff_id": str(record.diff_id),
                }
                for record, step in steps
            ]
        )
        return
    rows = [
        (str(step.layer), _WORDS[step.action], show_id(record.blob, full=full), show_id(record.diff_id, full=full))
        for record, step in steps
    ]
    write_table(("LAYER", "ACTION", "DIGEST", "DIFF ID"), rows)
