"""Tests of `constraint_algebra.proofs`."""
