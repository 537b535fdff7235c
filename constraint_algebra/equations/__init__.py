"""Equations of one layer as explicit sparse systems, and the graph that their pattern is.

| module | concept |
| --- | --- |
| `names` | names of rows, unknowns and coefficients |
| `systems` | weight, gradient and bias equations with named rows and unknowns |
| `stacking` | two systems over the same unknowns as one |
| `constraint_graph` | the bipartite graph of equations and unknowns: components, matching, structural rank |
| `dulmage_mendelsohn` | what the pattern alone determines |

The equations of several samples at once have their place here.
"""
