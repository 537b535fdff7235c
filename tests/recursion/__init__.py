"""Tests of `constraint_algebra.recursion`."""
