"""Endpoints that are files: OCI layouts in directories and in tars, and docker archives, to read and to write.

``detect.open_source`` and ``detect.create_sink`` are the way in.
"""
