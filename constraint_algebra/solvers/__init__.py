"""Solvers: the equations of one layer with values and noise, eliminated in two stages.

| module | concept |
| --- | --- |
| `noisy_equations` | all that is known about a layer's input, with its noise |
| `gradient_blocks` | stage one: the gradient equations in independent blocks |
| `operators` | all equations as one operator, and the coordinates in which stage one is diagonal |
| `elimination` | the equations whitened, with what several strategies ask of them |
| `strategy` | what a strategy is, what it costs, and how the cheapest that applies is chosen |
| `by_dense` | a strategy: small layers, all equations at once |
| `by_diagonal`, `by_factor`, `by_gradients`, `by_correction`, `by_reduction`, `by_iteration` | strategies for others |
| `two_stage` | the verdict and the solution, by the strategies chosen |
| `verdict` | what the equations can tell |
| `normal_equations`, `dense_factor`, `banded_factor`, `capacitance_factor`, `null_space_factor` | factors |
| `choose_factor` | which factor takes the fewest operations |
| `blind`, `blind_group`, `blind_shapes` | input and output gradient of one layer from its weight gradient alone |
| `blind_centred` | the same where the output gradient sums to zero, below a normalisation by own statistics |
| `bilinear_fit` | the weight gradient as a bilinear function of both, fitted by least squares |
| `blind_search` | where a layer has too few filters for that: local uniqueness, and a search from random starts |
| `gradient_rows` | the gradient rows of a layer that count for exact values, and their blocks |
| `null_space` | what equations leave open, and the null space of one layer for exact values, for proofs |
"""
