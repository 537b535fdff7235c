"""Tests of `constraint_algebra.solvers`."""
