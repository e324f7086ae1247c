"""The registry protocol of docker 0.4 to 1.9: an index that knows who may do what, and registries that have images."""
