"""Tests of `constraint_algebra.pytorch`."""
