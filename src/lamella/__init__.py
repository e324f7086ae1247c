"""Lamella: a container-image engine for Python, with no daemon."""

__version__ = "0.1.0"
