"""Beyond rank: what else is known where equations leave values open.

| module | concept |
| --- | --- |
| `family` | what equations leave possible: a point and its directions |
| `implied` | values whose interval has no width: inequalities that leave no room are equations |
| `depth` | the point deepest between bounds, and the multipliers that say why it is no deeper |
| `weak_duality` | how far values may move, from multipliers whoever proposed them |
| `exact_proof` | the same over the rationals, for small systems |
| `zeros` | the sparsest point of a family, and why its zeros are no accident |
| `evidence` | when values on a plateau are no accident |
| `vertices` | points of a family that may have many values on plateaus |
| `maxima` | an input from the largest of several outputs each, not which these are |
| `no_room` | the proof that inequalities leave a point no room, value by value |
| `alternation` | hypotheses entry by entry, rows weighed by how well their block fits, hypotheses from the solution |
"""
