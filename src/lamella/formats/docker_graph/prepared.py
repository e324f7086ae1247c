"""What a container of an image stands on: its directory with ``rootfs``, ``rw`` and, if wanted, an init layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import AlreadyExists
from lamella.formats.docker_graph import initlayer, union
from lamella.formats.docker_graph.branch import Branch
from lamella.formats.docker_graph.config import Config, Release
from lamella.formats.docker_graph.graph import Graph
from lamella.formats.docker_graph.image import GraphImage, spooled
from lamella.formats.docker_graph.moment import Moment
from lamella.layers.compare import Change
from lamella.layers.extract import dress_branch
from lamella.mounts.model import Form, Mounted


@dataclass(frozen=True, slots=True)
class Prepared:
    """A root file system that can be mounted, written to and compared. ``layers`` are below ``rw``, child first."""

    image: GraphImage
    root: Path
    rw: Path
    layers: tuple[Path, ...]

    def mount(self, *, driver: str | None = None) -> Mounted:
        """Mount it at ``root``; see ``union.mount``."""
        return union.mount(self.layers, self.root, self.rw, driver=driver)

    def unmount(self) -> None:
        """Unmount it; see ``union.unmount``."""
        union.unmount(self.root)

    def changes(self) -> list[Change]:
        """What was written to it. The init layer is none of it."""
        return union.changes(self.layers, self.rw)

    def commit(
        self,
        graph: Graph,
        *,
        comment: str = "",
        author: str = "",
        config: Config | None = None,
        container: str = "",
        container_config: Config | None = None,
        created: Moment | None = None,
    ) -> GraphImage:
        """Make what was written to it an image of ``graph``, a child of its own; see ``Graph.create``.

        It may be mounted; what is written meanwhile may be in the image or not.
        """
        with spooled(graph.layout, lambda write: union.export(self.layers, self.rw, write)) as layer:
            return graph.create(
                layer,
                parent=self.image.id,
                comment=comment,
                author=author,
                config=config,
                container=container,
                container_config=container_config,
                created=created,
            )


def prepare(image: GraphImage, directory: Path, *, init: Release | None = None) -> Prepared:
    """Make ``directory`` what a container of ``image`` stands on.

    With ``init`` the paths of that release's init layer stand between the image and what is written; directories that
    the image has stay as they are. Raises AlreadyExists when there is one.
    """
    layers = image.layers()
    with os_errors(str(directory)):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if (directory / "rw").exists():
            raise AlreadyExists("there is one already", code="graph-prepared", subject=str(directory))
        if init is not None:
            layer = directory / "init"
            layer.mkdir(mode=0o755, exist_ok=True)
            initlayer.populate(layer, release=init)
            dress_branch(layer, image.tree().root, Form.AUFS)
            layers = [layer, *layers]
        Branch(directory / "rw").make()
    return Prepared(image, directory / "rootfs", directory / "rw", tuple(layers))
