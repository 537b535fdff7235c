"""`python -m constraint_algebra` is the command `constraint-algebra`."""

from constraint_algebra.commands.app import app

app(prog_name="constraint-algebra")
