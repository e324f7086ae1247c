"""Benchmarks: every figure is a ratio against a real tool, or a floor, measured in the same run."""
