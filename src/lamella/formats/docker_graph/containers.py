"""The containers that a docker of 2013 keeps beside its graph: ``containers/<id>/config.json``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lamella._sys.files import os_errors
from lamella.errors import LamellaError, NotFound
from lamella.formats.docker_graph import gojson
from lamella.formats.docker_graph.layout import read_file
from lamella.spec.limits import DEFAULT_LIMITS

DIRECTORY = "containers"
_CONFIG = "config.json"


def containers_of(home: Path, image: str, on_damage: Callable[[str, LamellaError], object]) -> list[str]:
    """The containers that were made of an image, by its id, sorted; ``home`` is docker's own directory.

    A record that cannot be read is told to ``on_damage``: docker passes over such a container, too.
    """
    directory, found = home / DIRECTORY, []
    with suppress(NotFound), os_errors(str(directory)):
        for name in sorted(os.listdir(directory)):
            try:
                if _image_of(directory / name / _CONFIG) == image:
                    found.append(name)
            except NotFound:
                continue
            except LamellaError as error:
                on_damage(name, error)
    return found


def _image_of(config: Path) -> str:
    raw = read_file(config, DEFAULT_LIMITS.document_bytes)
    image = ""
    for _, value in gojson.members(gojson.parse_object(raw, "container"), ("Image",)):
        image = gojson.string_of(value, "Container.Image")
    return image
