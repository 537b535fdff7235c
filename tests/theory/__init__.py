"""Tests of `constraint_algebra.theory`."""
