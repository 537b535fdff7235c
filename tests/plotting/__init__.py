"""Tests of `constraint_algebra.plotting`."""
