"""The heart: layers are indexed once, when they arrive; everything else reads the index."""
