"""Tests of `constraint_algebra.networks`."""
