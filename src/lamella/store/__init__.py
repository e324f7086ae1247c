"""The façade: one store, everything that can be done with it."""
