"""Where a docker of 2013 keeps what: the directories of its image graph, release by release.

    0.4   graph/<id>/{json,layer/,layer.tar.xz}   graph/checksums   graph/:tmp:/     repositories
    0.6   graph/<id>/{json,layer/,layersize}                        graph/_tmp/      repositories
    aufs  graph/<id>/{json,layersize}   aufs/{diff,layers,mnt}/<id> graph/_tmp/      repositories-aufs
    vfs   graph/<id>/{json,layersize}   vfs/dir/<id>                graph/_tmp/      repositories-vfs

``layer`` and ``aufs/diff/<id>`` are AUFS branches, with whiteouts as files; ``vfs/dir/<id>`` is a whole tree.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lamella._sys.files import map_os_error, os_errors
from lamella.errors import InvalidInput, NotFound, ResourceExhausted
from lamella.formats.docker_graph.config import Release

CHECKSUMS = "checksums"
JSON = "json"
LAYER = "layer"
LAYER_ARCHIVE = "layer.tar.xz"
LAYER_SIZE = "layersize"


class GraphForm(enum.Enum):
    """How a graph lies on disk."""

    V0_4 = "0.4"
    """0.4 and 0.5: layers and their archives in the graph, checksums."""
    V0_6 = "0.6"
    """0.6: layers in the graph, their sizes beside them."""
    AUFS = "aufs"
    """0.7 to 1.0 with the driver aufs."""
    VFS = "vfs"
    """0.7 to 1.0 with the driver vfs."""

    @property
    def has_driver(self) -> bool:
        """Whether the layers lie in the directory of a driver."""
        return self in (GraphForm.AUFS, GraphForm.VFS)

    @property
    def release(self) -> Release:
        """The release whose records are written in this form."""
        return {GraphForm.V0_4: (0, 4, 0), GraphForm.V0_6: (0, 6, 0)}.get(self, (1, 0, 0))


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of one graph. ``root`` is its own directory, ``home`` the one that docker keeps everything in."""

    root: Path
    form: GraphForm

    @classmethod
    def find(cls, path: Path, form: GraphForm | None = None) -> Self:
        """The layout at ``path``: a graph, or the directory that has one by the name of ``graph``.

        Without ``form`` what is there tells it; an empty or new graph is of 0.4.
        """
        with os_errors(str(path)):
            path = Path(os.path.abspath(path))
            root = path / "graph" if (path / "graph").is_dir() else path
            return cls(root, form or _form_of(root))

    @property
    def home(self) -> Path:
        """What holds names and drivers: the directory around one called ``graph``; else the graph's own."""
        return _home_of(self.root)

    @property
    def temporary(self) -> Path:
        """What is being written or removed."""
        return self.root / (":tmp:" if self.form is GraphForm.V0_4 else "_tmp")

    @property
    def tags(self) -> Path:
        """The file of the names."""
        return self.home / (f"repositories-{self.form.value}" if self.form.has_driver else "repositories")

    @property
    def checksums(self) -> Path | None:
        """The file of the checksums, where this form has one."""
        return self.root / CHECKSUMS if self.form is GraphForm.V0_4 else None

    def layer(self, id: str) -> Path:
        """Where this form keeps the layer of an image (with ``vfs``, its whole tree)."""
        if self.form is GraphForm.AUFS:
            return self.home / "aufs" / "diff" / id
        if self.form is GraphForm.VFS:
            return self.home / "vfs" / "dir" / id
        return self.root / id / LAYER

    def find_layer(self, id: str) -> Path:
        """The directory of the layer of an image as it is: graphs that were migrated have some in the old place.

        Raises NotFound and InvalidInput in the words of 2013. A link counts while it leads to where docker keeps
        things; so does one that is the image's own directory.
        """
        if (self.root / id).is_symlink():
            self._linked(self.root / id)
        for place in dict.fromkeys((self.layer(id), self.root / id / LAYER)):
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:
                continue
            except OSError as error:
                raise map_os_error(error, str(place)) from error
            if stat.S_ISLNK(mode):
                place = self._linked(place)
            elif not stat.S_ISDIR(mode):
                text = f"Couldn't load image {id}: {place} is not a directory"
                raise InvalidInput(text, code="graph-layer-not-directory")
            return place
        raise NotFound(f"Couldn't load image {id}: no filesystem layer", code="graph-layer-missing")

    def driver_places(self, id: str) -> tuple[Path, ...]:
        """What the driver of this form keeps of an image, what makes it visible first."""
        if self.form is GraphForm.AUFS:
            return tuple(self.home / "aufs" / kind / id for kind in ("layers", "diff", "mnt"))
        return (self.layer(id),) if self.form is GraphForm.VFS else ()

    def _linked(self, place: Path) -> Path:
        with os_errors(str(place)):
            target = Path(os.path.realpath(place))
            if target.is_dir() and target.is_relative_to(os.path.realpath(self.home)):
                return target
        raise InvalidInput(f"{place} is a link that leads away", code="graph-layer-link", subject=str(place))


def is_whole(form: GraphForm, layer: Path) -> bool:
    """Whether a directory that ``find_layer`` gave is a whole tree, and not what it adds to its parent's."""
    return form is GraphForm.VFS and layer.name != LAYER


def _home_of(root: Path) -> Path:
    return root.parent if root.name == "graph" else root


def _form_of(root: Path) -> GraphForm:
    if (_home_of(root) / "aufs" / "diff").is_dir():
        return GraphForm.AUFS
    if (_home_of(root) / "vfs" / "dir").is_dir():
        return GraphForm.VFS
    if (root / "_tmp").is_dir() or next(root.glob(f"*/{LAYER_SIZE}"), None) is not None:
        return GraphForm.V0_6
    return GraphForm.V0_4


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit``; links are not followed.

    Raises NotFound, InvalidInput for what is no regular file, ResourceExhausted for a larger one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidInput("a link, and no file", code="graph-file-type", subject=str(path)) from error
        raise map_os_error(error, str(path)) from error
    try:
        with os_errors(str(path)):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidInput("not a regular file", code="graph-file-type", subject=str(path))
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ResourceExhausted(f"more than {limit} bytes", code="document-size", subject=str(path))
    return data
