"""Tests of the paper redone."""
