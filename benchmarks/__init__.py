"""Benchmarks: run from the root of the repository, `python -m benchmarks.losses`; not part of the package."""
