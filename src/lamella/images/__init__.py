"""Images: immutable views of what the store holds, and the making of new ones out of them."""
