"""The image graph of a docker of 2013 (0.4.0 to 1.0.0) on disk: read, written and mounted in place."""

from lamella.formats.docker_graph.checksums import checksum, tarsum
from lamella.formats.docker_graph.config import Config
from lamella.formats.docker_graph.graph import Graph
from lamella.formats.docker_graph.ids import TruncIndex, generate_id, short_id, validate_id
from lamella.formats.docker_graph.image import GraphImage
from lamella.formats.docker_graph.layout import GraphForm, Layout
from lamella.formats.docker_graph.moment import Moment
from lamella.formats.docker_graph.record import Record
from lamella.formats.docker_graph.tags import TagStore, parse_repository_tag

__all__ = [
    "Config",
    "Graph",
    "GraphForm",
    "GraphImage",
    "Layout",
    "Moment",
    "Record",
    "TagStore",
    "TruncIndex",
    "checksum",
    "generate_id",
    "parse_repository_tag",
    "short_id",
    "tarsum",
    "validate_id",
]
