"""What the tests of the 2013 graph share: a graph in each of its forms."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lamella.formats.docker_graph import Graph, GraphForm
from support.noted import Noted


@pytest.fixture
def noted():
    """A reporter that keeps the notes that it is given."""
    return Noted()


@pytest.fixture
def graph(disk, noted):
    """An empty graph, as docker 0.4.0 has it."""
    opened = Graph.open(disk / "docker" / "graph", progress=noted)
    yield opened
    assert not opened.layout.temporary.exists() or list(opened.layout.temporary.iterdir()) == []


@pytest.fixture(params=list(GraphForm), ids=lambda form: form.name)
def any_graph(request, disk):
    """An empty graph in each form."""
    opened = Graph.open(disk / "docker" / "graph", form=request.param)
    yield opened
    assert not opened.layout.temporary.exists() or list(opened.layout.temporary.iterdir()) == []
