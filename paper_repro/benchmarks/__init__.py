"""Measurements, run on purpose: `python -m paper_repro.benchmarks.speed` and `... .accuracy`."""
