"""Removing images of a graph while others do the same: see also the words of it in test_graph_cli."""

from __future__ import annotations

import threading

from graph_support import image

from lamella import errors
from lamella.formats.docker_graph import Graph
from lamella.formats.docker_graph_removal import remove_image


def at_once(*acts):
    """Do all of it at the same time; what each gave, or raised."""
    barrier, results = threading.Barrier(len(acts)), [None] * len(acts)

    def work(number, act):
        barrier.wait()
        try:
            results[number] = act()
        except errors.LamellaError as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_that_remove_the_last_children_of_an_image(graph):
    """One of them removes the parent, and neither fails over who."""
    for _ in range(10):
        parent = graph.register(image(), None)
        children = [graph.register(image(parent=parent.id), None) for _ in range(2)]
        done = at_once(*(lambda id=child.id: remove_image(Graph.open(graph.root), id) for child in children))
        assert all(isinstance(removed, list) for removed in done), done
        assert sorted(line.what for removed in done for line in removed) == sorted(
            found.id for found in (parent, *children)
        )
        assert graph.ids() == []
