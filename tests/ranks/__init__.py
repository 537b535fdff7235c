"""Tests of `constraint_algebra.ranks`."""
