"""Benchmarks: run by name, not with the tests."""
