"""Writable file systems on top of an image: prepare, fork, roll back, read, remove."""
