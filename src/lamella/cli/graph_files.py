"""``lamella graph changes``, ``mount``, ``umount``, ``tar``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamella.cli import arguments
from lamella.cli.graph import opened
from lamella.cli.output import clean, path_fields, write_bytes, write_json, write_text
from lamella.cli.session import Session, pass_session
from lamella.errors import printable

if TYPE_CHECKING:
    from lamella.archive.compression import Compression
    from lamella.formats.docker_graph import GraphImage
    from lamella.layers.compare import Change

_CHUNK = 1 << 20


@click.command("changes")
@click.argument("name", metavar="IMAGE")
@click.argument("branch", metavar="[RW]", required=False, type=click.Path(path_type=Path))
@click.option("-0", "--null", is_flag=True, help="Print paths as they are, and lines that end in NUL.")
@arguments.json_option
@pass_session
def changes_command(here: Session, name: str, branch: Path | None, null: bool, as_json: bool) -> None:
    """Show what an image or a writable branch changes.

    Of an image over its parent; with RW, of that branch over the image. A line each: A for added, C for changed, D for
    deleted, and the path.
    """
    with opened(here) as graph:
        image = graph.tags.lookup(name)
        found = image.changes(branch) if branch is not None else _of_image(image)
    if as_json:
        write_json([{"kind": change.kind.letter, **path_fields(change.path)} for change in found])
    elif null:
        for change in found:
            write_bytes(f"{change.kind.letter} /".encode() + change.path + b"\0")
    else:
        for change in found:
            write_text(f"{change.kind.letter} /{printable(change.path)}")


def _of_image(image: GraphImage) -> list[Change]:
    from lamella.formats.docker_graph.unpacking import changes_between

    return changes_between(*image.trees())


@click.command("mount")
@click.argument("name", metavar="IMAGE")
@click.argument("rootfs", type=click.Path(path_type=Path))
@click.argument("branch", metavar="RW", type=click.Path(path_type=Path))
@click.option("--driver", metavar="NAME", help="How to mount.  [default: aufs, or the first that works]")
@pass_session
def mount_command(here: Session, name: str, rootfs: Path, branch: Path, driver: str | None) -> None:
    """Mount an image with a writable branch over it.

    The image shows at ROOTFS, and what is written there goes to RW; both are made where they are missing. The path
    where the files are is printed. The mount stays until 'lamella graph umount ROOTFS'.
    """
    with opened(here) as graph:
        mounted = graph.tags.lookup(name).mount(rootfs.absolute(), branch.absolute(), driver=driver or here.driver)
    write_text(clean(str(mounted.root)))


@click.command("umount")
@click.argument("places", metavar="ROOTFS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@pass_session
def umount_command(here: Session, places: tuple[Path, ...]) -> None:
    """Unmount what 'graph mount' mounted.

    The directory goes; what was written stays in the branch.
    """
    from lamella.formats.docker_graph import union

    for place in places:
        union.unmount(place.absolute())


@click.command("tar")
@click.argument("name", metavar="IMAGE")
@arguments.output_option
@click.option("--stored", is_flag=True, help="Write the archive that the graph keeps, byte by byte, if it keeps one.")
@click.option(
    "--compression",
    type=click.Choice(("none", "gzip", "bzip2", "xz", "zstd")),
    default="none",
    show_default=True,
    help="How to compress.",
)
@pass_session
def tar_command(here: Session, name: str, output: str | None, stored: bool, compression: str) -> None:
    """Write the layer of an image as a tar.

    It is made of the layer's directory: the same directory gives the same bytes. The file appears once it is whole.
    """
    from lamella.archive.compression import Compression
    from lamella.formats.output import Output

    path = arguments.binary_output(output)
    with opened(here) as graph:
        image = graph.tags.lookup(name)
        target = Output(path)
        try:
            with target.writing() as write:
                _write(image, Compression(compression), write, stored=stored)
        finally:
            target.close()


def _write(image: GraphImage, compression: Compression, write: Callable[[bytes], object], *, stored: bool) -> None:
    archive = image.layer_archive() if stored else None
    if archive is None:
        image.tar_layer(write, compression)
        return
    with image.open_layer() as layer:
        while data := layer.read(_CHUNK):
            write(data)
