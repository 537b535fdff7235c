"""Tests of `constraint_algebra.equations`."""
