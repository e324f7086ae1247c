"""Endpoints of docker before 1.10: its image graph, and registries of version 1."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lamella._sys.files import os_errors
from lamella.errors import Unsupported
from lamella.formats.docker_graph import Graph
from lamella.formats.docker_graph_source import DockerGraphSource
from lamella.registry.access import Access
from lamella.registry.policy import Candidate, Verify, verified
from lamella.spec.endpoint import ImageSink, ImageSource
from lamella.spec.limits import Limits
from lamella.spec.progress import Progress
from lamella.spec.reference import Reference

if TYPE_CHECKING:
    from lamella.registry.v1.client import Client


def graph_source(path: Path, name: str, scratch: Path, limits: Limits, progress: Progress) -> ImageSource:
    """The graph at ``path``: the image ``name`` with its ancestors, or all. Raises NotFound for what is no graph."""
    graph = Graph.open(path, create=False, limits=limits, progress=progress)
    names = (name,) if name else ()
    return DockerGraphSource(graph, _new(scratch), names=names, limits=limits, progress=progress)


def v1_source(
    name: str, access: Access, scratch: Path, limits: Limits, progress: Progress, verify: Verify | None = None
) -> ImageSource:
    """An image at a registry of version 1, with its ancestors, if ``verify`` lets it pass. Raises as ``_named`` does.

    There is no manifest to ask about before the layers: it is made of them, and nothing is offered before it was asked.
    """
    from lamella.formats.docker_v1_registry import open_source

    reference = _named(name, access)
    source = open_source(_client(reference, access, limits), _new(scratch), tag=reference.tag, progress=progress)
    try:
        top = source.offers()[-1].descriptor
        with closing(source.open_blob(top)) as reader:
            document = reader.read(top.size)
        verified(Candidate(reference, top, document, referrers=tuple, signatures=dict), verify)
    except BaseException:
        source.close()
        raise
    return source


def v1_sink(name: str, access: Access, scratch: Path, limits: Limits, progress: Progress) -> ImageSink:
    """A repository at a registry of version 1, to push to. Raises as ``_named`` does."""
    from lamella.formats.docker_v1_registry import V1Sink

    reference = _named(name, access)
    return V1Sink(_client(reference, access, limits), _new(scratch), limits=limits, progress=progress)


def _named(name: str, access: Access) -> Reference:
    """The image that a name means at a registry of version 1.

    Raises Unsupported for a name with a digest, which nothing there has, AccessDenied for what registries.conf blocks.
    """
    reference = Reference.parse(name)
    if reference.digest is not None:
        raise Unsupported("registries of version 1 know no digests", code="v1-digest", subject=reference.familiar)
    access.registries.location(reference)
    return reference


def _client(reference: Reference, access: Access, limits: Limits) -> Client:
    from lamella.registry.v1.client import Client

    return Client(reference, access, limits=limits)


def _new(scratch: Path) -> Path:
    """An empty directory in ``scratch``, which goes with it."""
    with os_errors(str(scratch)):
        return Path(tempfile.mkdtemp(dir=scratch))
