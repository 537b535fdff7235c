"""Beyond rank: what else is known where equations leave values open.

| module | concept |
| --- | --- |
| `family` | what equations leave possible: a point and its directions |
| `implied` | values whose interval has no width: inequalities that leave no room are equations |
| `zeros` | the sparsest point of a family, and why its zeros are no accident |
| `alternation` | hypotheses entry by entry, rows weighed by how well their block fits, hypotheses from the solution |
"""
