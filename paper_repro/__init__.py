"""The paper, redone: baselines, benchmarks, runs, tables, figures. A user of `constraint_algebra`, never its part."""
