"""Tests of `constraint_algebra.layers`."""
