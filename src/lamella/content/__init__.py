"""Blobs by digest: bytes that are what their digest says, kept in a directory or in memory."""
