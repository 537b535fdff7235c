"""Tests of `constraint_algebra.symbolic`."""
