"""Keeping a store in order: collecting garbage, telling what takes the disk."""
