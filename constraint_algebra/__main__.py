"""`python -m constraint_algebra` is the command `constraint-algebra`."""

from constraint_algebra.cli import app

app(prog_name="constraint-algebra")
