"""Tests of `constraint_algebra.numerics`."""
