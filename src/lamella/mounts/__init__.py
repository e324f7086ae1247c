"""Mounts as values, and the act of mounting: one module a driver. Use it through ``lamella.mounts.mount``."""
