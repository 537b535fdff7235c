"""Studies: one module a question, result in `analysis/results`. A user of `constraint_algebra`, never its part."""
