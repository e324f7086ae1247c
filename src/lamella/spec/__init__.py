"""Plain values of the image world, without input or output: digests, descriptors, documents, names, platforms."""
