"""Tests of constraint_algebra; mirrors the library, one file a module."""
