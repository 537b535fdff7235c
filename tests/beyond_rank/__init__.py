"""Tests of `constraint_algebra.beyond_rank`."""
