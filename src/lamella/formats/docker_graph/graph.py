"""The graph: the images of a docker of 2013, in the directory that it keeps them in.

Any number of threads and processes may work on one graph. Readers take no lock and keep no index: what a directory
lists is what there is. Who makes an image visible, removes one or moves a name holds the lock of the graph (an flock of
its directory, gone with its holder) for the moment that it takes; layers are written and removed outside of it.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from lamella._sys.files import fsync_dir, os_errors, remove_tree, write_atomic
from lamella._sys.locks import DirectoryLock
from lamella.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    Integrity,
    InvalidInput,
    LamellaError,
    NotFound,
)
from lamella.formats.docker_graph import gojson
from lamella.formats.docker_graph import layout as places
from lamella.formats.docker_graph.config import Config
from lamella.formats.docker_graph.containers import DIRECTORY as CONTAINERS
from lamella.formats.docker_graph.containers import containers_of
from lamella.formats.docker_graph.ids import TruncIndex, generate_id, short_id, validate_id
from lamella.formats.docker_graph.image import GraphImage
from lamella.formats.docker_graph.layout import GraphForm, Layout
from lamella.formats.docker_graph.moment import Moment
from lamella.formats.docker_graph.record import Record
from lamella.formats.docker_graph.sidefile import SideFile, parse_checksums
from lamella.formats.docker_graph.stacks import Stacks
from lamella.formats.docker_graph.tags import TagStore
from lamella.formats.scratch import Scratch
from lamella.layers.tree import MergedTree
from lamella.spec.endpoint import Reader
from lamella.spec.limits import DEFAULT_LIMITS, Limits
from lamella.spec.progress import NO_PROGRESS, Progress

_ALSO_WITH_DRIVERS = (CONTAINERS, "volumes")
"""What else docker gives an id and a directory among those of a driver."""


class Graph:
    """The images of one graph. ``layout`` says where they are, ``tags`` gives them names.

    Writing methods are all or nothing, and durable once they return.
    """

    def __init__(self, layout: Layout, *, limits: Limits = DEFAULT_LIMITS, progress: Progress = NO_PROGRESS) -> None:
        self.layout = layout
        self.limits = limits
        self.progress = progress
        self.tags = TagStore(layout.tags, self)
        self._stacks = Stacks(limits=limits)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        form: GraphForm | None = None,
        create: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        progress: Progress = NO_PROGRESS,
    ) -> Self:
        """The graph in the directory ``path``, or in the one called ``graph`` in it.

        Without ``form`` what is there tells it. With ``create`` the directory (0700) is made where it is missing, as
        0.4 has it if no form is given; else NotFound.
        """
        layout = Layout.find(path, form)
        with os_errors(str(layout.root)):
            if not layout.root.is_dir():
                if not create:
                    raise NotFound("there is no image graph here", code="graph-missing", subject=str(path))
                layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                fsync_dir(layout.root.parent)
        return cls(layout, limits=limits, progress=progress)

    # -- finding

    @property
    def root(self) -> Path:
        """The directory of the graph."""
        return self.layout.root

    def ids(self) -> list[str]:
        """The ids that have a directory, sorted. What else lies there (``checksums``, ``:tmp:``) is none."""
        with os_errors(str(self.root)):
            names = os.listdir(self.root)
        return sorted(name for name in names if _is_id(name))

    def truncindex(self) -> TruncIndex:
        """The ids as an index by prefix, as of now."""
        return TruncIndex(self.ids())

    def lookup(self, name: str) -> str:
        """The id that is ``name`` or begins with it. Raises NotFound, Ambiguous."""
        if _is_id(name) and os.path.lexists(self.root / name):
            return name
        return self.truncindex().get(name)

    def get(self, name: str) -> GraphImage:
        """The image of an id or of a prefix that no other has.

        Raises NotFound, Ambiguous, and what ``GraphImage.load`` raises for one that is damaged.
        """
        return self._load(self.lookup(name))

    def exists(self, name: str) -> bool:
        """Whether there is such an image; damage of one that is there is an error."""
        try:
            self.get(name)
        except NotFound:
            return False
        return True

    def _load(self, id: str) -> GraphImage:
        root = self.root / id
        image = GraphImage.load(root, layout=self.layout)
        if image.id != id:
            text = f"Image stored at '{root}' has wrong id '{image.id}'"
            raise Integrity(text, code="graph-wrong-id")
        return image.within(self)

    # -- listing

    def walk(self, on_damage: Callable[[str, LamellaError], object] | None = None) -> Iterator[GraphImage]:
        """Every image, by id. One that cannot be loaded is passed over, and told to ``on_damage``, else noted."""
        for id in self.ids():
            try:
                yield self._load(id)
            except LamellaError as error:
                if not os.path.lexists(self.root / id):
                    continue  # removed meanwhile
                if on_damage is not None:
                    on_damage(id, error)
                else:
                    self.progress.note(f"image {short_id(id)} cannot be loaded: {error}")

    def all(self) -> list[GraphImage]:
        """Every image."""
        return list(self.walk())

    def map(self) -> dict[str, GraphImage]:
        """Every image by its id."""
        return {image.id: image for image in self.walk()}

    def by_parent(self) -> dict[str, list[GraphImage]]:
        """All children of each image that has some, by its id. Images whose parent is missing are not listed."""
        images = self.map()
        children: dict[str, list[GraphImage]] = {}
        for image in images.values():
            if image.parent in images:
                children.setdefault(image.parent, []).append(image)
        return children

    def heads(self) -> dict[str, GraphImage]:
        """The images that are nobody's parent, by id."""
        images = self.map()
        parents = {image.parent for image in images.values()}
        return {id: image for id, image in images.items() if id not in parents}

    def containers(self, id: str) -> list[str]:
        """The containers, by id, that docker made of an image. One whose record is damaged is noted."""
        return containers_of(
            self.layout.home,
            id,
            lambda name, error: self.progress.note(f"container {short_id(name)} cannot be loaded: {error}"),
        )

    # -- adding

    def create(
        self,
        layer: Reader | None,
        *,
        comment: str = "",
        author: str = "",
        config: Config | None = None,
        parent: str = "",
        container: str = "",
        container_config: Config | None = None,
        created: Moment | None = None,
    ) -> GraphImage:
        """A new image of a random id; its record is what the release of the graph's form would write.

        The archive of the layer is kept, where the form does. Errors as for ``register``.
        """
        release = self.layout.form.release
        record = Record(
            id=generate_id(),
            parent=parent,
            comment=comment,
            created=created or Moment.now(utc=release >= (0, 7, 0)),
            container=container,
            container_config=container_config or Config(),
            docker_version=".".join(map(str, release)),
            author=author,
            config=config,
            architecture=_architecture(release),
            os="linux" if release >= (0, 7, 3) else "",
        )
        go = gojson.GO_1_1 if release < (0, 7, 0) else gojson.GO_1_19
        image = GraphImage(Record.parse(record.render(release, go=go)))
        return self.register(image, layer, keep_archive=layer is not None)

    def register(self, image: GraphImage, layer: Reader | None, *, keep_archive: bool = False) -> GraphImage:
        """Add an image with its record as it is; ``layer`` (read, not closed) is unpacked. Returns it, in this graph.

        It shows at once and whole, or not at all; nothing of a failure stays, and nothing that was there before is
        touched. Raises InvalidInput for an id that can name no image, AlreadyExists, FailedPrecondition for an image
        whose parent is not there, and what a damaged or hostile archive raises.
        """
        id = validate_id(image.id, legacy=True)
        if image.parent == id:
            raise InvalidInput("an image that is its own parent", code="graph-own-parent", subject=f"image {id}")
        self._check_new(id)
        self._check_parent(image)
        self.progress.start(image.short_id, "registering")
        try:
            self._add(image, layer, keep_archive=keep_archive)
        except BaseException:
            self.progress.done(image.short_id, "failed")
            raise
        self.progress.done(image.short_id)
        return image.within(self)

    def _add(self, image: GraphImage, layer: Reader | None, *, keep_archive: bool) -> None:
        with self.temporary() as scratch:
            built = scratch / image.id
            try:
                image.assemble(
                    built,
                    layer,
                    self.layout.form,
                    self._below(image),
                    keep_archive=keep_archive,
                    limits=self.limits,
                    progress=self.progress,
                )
            except LamellaError:
                self._check_parent(image)  # removed meanwhile, which is why
                raise
            with self.locked():
                self._check_new(image.id)
                self._check_parent(image)
                self._publish(built, image, scratch)

    def _below(self, image: GraphImage) -> MergedTree:
        """The tree that the layer of a new image stands on."""
        layers = self.get(image.parent).layers(limits=self.limits) if image.parent else []
        return self._stacks.tree(layers)

    def _check_parent(self, image: GraphImage) -> None:
        if image.parent and not (self.root / validate_id(image.parent, legacy=True) / places.JSON).is_file():
            raise FailedPrecondition(
                f"its parent {image.parent} is not in the graph",
                code="graph-no-parent",
                subject=f"image {image.id}",
                hint="register the parent first",
            )

    def _check_new(self, id: str) -> None:
        if (self.root / id / places.JSON).exists():
            raise AlreadyExists(f"Image {id} already exists", code="graph-image-exists")
        for kind in _ALSO_WITH_DRIVERS if self.layout.form.has_driver else ():
            if os.path.lexists(self.layout.home / kind / id):
                raise Conflict(f"one of the {kind} has this id", code="graph-id-taken", subject=f"image {id}")

    def _publish(self, built: Path, image: GraphImage, scratch: Scratch) -> None:
        """Move a finished image to its place; the rename of its record's directory is what makes it one.

        What fails leaves every place as it was.
        """
        target = self.root / image.id
        with os_errors(str(target)), ExitStack() as undo:
            for number, (source, place) in enumerate(self._driver_moves(built, image, scratch)):
                place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                if os.path.lexists(place):  # of a killed register: no record, so nobody's
                    _move(place, scratch / f"stale-{number}", undo)
                _move(source, place, undo)
                fsync_dir(place.parent)
            try:
                _move(built, target, undo)
            except OSError as error:
                if not os.path.lexists(target):
                    raise
                text = f"something that is no image is in the way: {error.strerror}"
                raise Conflict(text, code="graph-leftover", subject=str(target)) from error
            fsync_dir(self.root)
            undo.pop_all()

    def _driver_moves(self, built: Path, image: GraphImage, scratch: Scratch) -> list[tuple[Path, Path]]:
        """What a driver keeps of a new image: where it is, and where it goes."""
        sources = [built / places.LAYER]
        if self.layout.form is GraphForm.AUFS:
            layers, mounted = scratch / "layers", scratch / "mnt"
            ancestors = [found.id for found in self.get(image.parent).walk_history()] if image.parent else []
            write_atomic(layers, "".join(f"{found}\n" for found in ancestors).encode())
            mounted.mkdir(mode=0o755)
            sources = [layers, *sources, mounted]
        return list(zip(sources, self.layout.driver_places(image.id), strict=False))

    # -- removing

    def delete(self, name: str, *, force: bool = False, orphans: bool = False, containers: bool = False) -> list[str]:
        """Remove an image, by its id or a prefix of it; return the names that it lost.

        Raises FailedPrecondition for one with children, unless ``orphans`` (docker's way until 0.4.0), for one that a
        container was made of, unless ``containers`` (its way until 0.6.7), and for one that has names, unless
        ``force``: then they go too, before it does. A removal that fails leaves image and names.
        """
        id = self.lookup(name)
        with self.temporary() as scratch:
            with self.locked():
                if not os.path.lexists(self.root / id):
                    raise NotFound(f"No such id: {name[:80]}", code="graph-no-such-id")
                if not orphans:
                    self._check_childless(id)
                if not containers:
                    self._check_unused(id)
                names = self.tags.names(id)
                if names and not force:
                    text = f"it is tagged: {', '.join(names)}"
                    raise FailedPrecondition(text, code="graph-image-tagged", subject=f"image {short_id(id)}")
                with self._without_checksum(id), self.tags.without(id):
                    self._withdraw(id, scratch)
        return names

    def _check_childless(self, id: str) -> None:
        children = sorted(image.id for image in self.walk() if image.parent == id)
        if children:
            text = f"images stand on it: {', '.join(map(short_id, children[:5]))}"
            raise FailedPrecondition(text, code="graph-image-has-children", subject=f"image {short_id(id)}")

    def _check_unused(self, id: str) -> None:
        used = self.containers(id)
        if used:
            text = f"containers were made of it: {', '.join(map(short_id, used[:5]))}"
            raise FailedPrecondition(text, code="graph-image-used", subject=f"image {short_id(id)}")

    def _withdraw(self, id: str, scratch: Scratch) -> None:
        """Move an image away, its record durably first: what is killed leaves a layer too many, never one too few.

        What fails leaves every place as it was.
        """
        elsewhere: list[Path] = []
        with os_errors(str(self.root / id)), ExitStack() as undo:
            _move(self.root / id, scratch / "removed", undo)
            fsync_dir(self.root)
            for number, place in enumerate(self.layout.driver_places(id)):
                try:
                    _move(place, scratch / f"removed-{number}", undo)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    elsewhere.append(place)
            undo.pop_all()
        for place in elsewhere:
            try:
                remove_tree(place)
            except LamellaError as error:  # the image is gone all the same
                self.progress.note(f"{place} could not be removed: {error}")

    # -- the temporary area, the lock, the checksums

    def temporary(self) -> Scratch:
        """A new directory for what is not an image yet, or no more; what killed processes left is cleared first.

        What cannot be removed of it in the end is noted, and left for the next one to clear.
        """
        with os_errors(str(self.layout.temporary)):
            self.layout.temporary.mkdir(mode=0o700, exist_ok=True)
        return Scratch(self.layout.temporary, progress=self.progress)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the graph, against every other thread and process. Not to be taken twice."""
        lock = DirectoryLock(Path(os.path.realpath(self.root)))  # the graph may lie elsewhere, and be linked here
        if not lock.acquire():
            raise NotFound("the graph's directory is gone", code="graph-missing", subject=str(self.root))
        try:
            yield
        finally:
            lock.release()

    def checksums(self) -> dict[str, str]:
        """The checksums that are kept, by id. Of a damaged file, with a note, what can be read."""
        if self.layout.checksums is None:
            return {}
        found, damage = parse_checksums(SideFile(self.layout.checksums).read())
        if damage is not None:
            self.progress.note(f"{self.layout.checksums} is damaged, {len(found)} checksums are used: {damage}")
        return found

    def update_checksums(self, found: dict[str, str]) -> dict[str, str]:
        """Keep checksums; one that is there already stays, an empty one is none. Returns all that are kept then."""
        if self.layout.checksums is None:
            return {}
        with self.locked():
            return self._keep_checksums(self.layout.checksums, {id: value for id, value in found.items() if value})

    def keep_checksum(self, image: GraphImage, compute: Callable[[], str]) -> str:
        """The checksum that is kept for an image, else the one that ``compute`` gives, kept from now on.

        One computes, the others wait for it. Where the graph cannot be written the checksum is not kept.
        """
        kept = self.checksums().get(image.id)
        if kept:
            return kept
        lock = DirectoryLock(self.root / image.id)
        if not lock.acquire():
            raise NotFound(f"No such id: {image.id}", code="graph-no-such-id")
        try:
            kept = self.checksums().get(image.id) or compute()
            if self.layout.checksums is not None:
                with suppress(AccessDenied), self.locked():
                    if os.path.lexists(self.root / image.id):  # not of one that was removed meanwhile
                        kept = self._keep_checksums(self.layout.checksums, {image.id: kept})[image.id]
        finally:
            lock.release()
        return kept

    @contextmanager
    def _without_checksum(self, id: str) -> Iterator[None]:
        """Forget the checksum of ``id``, unless what is done inside fails. For the holder of the lock."""
        if self.layout.checksums is None or id not in self.checksums():
            yield
            return
        with SideFile(self.layout.checksums).restored_on_failure():
            self._keep_checksums(self.layout.checksums, {}, gone=id)
            yield

    def _keep_checksums(self, path: Path, found: dict[str, str], gone: str = "") -> dict[str, str]:
        file = SideFile(path)
        raw = file.read()
        there, damage = parse_checksums(raw)
        if damage is not None:
            file.set_aside(raw)
        merged = {id: value for id, value in {**found, **there}.items() if id != gone}
        if merged != there or damage is not None:
            file.write(gojson.render(gojson.sorted_map(merged)))
        return merged


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    """Rename; ``undo`` gets to know the way back."""
    os.rename(source, target)
    undo.callback(os.rename, target, source)


def _is_id(name: str) -> bool:
    try:
        validate_id(name, legacy=True)
    except InvalidInput:
        return False
    return True


def _architecture(release: tuple[int, int, int]) -> str:
    """This machine's, as the kernel calls it until 0.7.3, as Go does since."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine) if release >= (0, 7, 3) else machine
