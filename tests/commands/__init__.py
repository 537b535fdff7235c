"""Tests of `constraint_algebra.commands`."""
