"""Tests of `constraint_algebra.experiments`."""
