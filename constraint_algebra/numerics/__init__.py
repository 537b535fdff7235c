"""Numerical methods that know nothing of networks.

| module | concept |
| --- | --- |
| `modular` | elimination modulo a prime |
| `condensed_rows` | few rows for many, modulo a prime |
| `rational` | null spaces of rational numbers, without rounding |
| `conjugate_gradients` | least squares by iteration |
| `refinement` | the iteration begun anew from the true residual |
| `lanczos` | extreme singular values of well-conditioned equations |
| `dense_least_squares` | a small dense problem, with rank and null space |
| `singular` | singular values and vectors of every finite matrix |
| `null_space` | rank and null space of a sparse matrix, with the gap |
| `levenberg_marquardt` | the least sum of squares of functions that bend |
| `subset_sums` | which of some numbers add up to a given sum |
| `cheapest_subsets` | the same for more numbers that have a cost |
| `triangular` | triangular solves at the speed of LAPACK |
| `interior_point` | linear programmes over polytopes |
| `sparse_programme` | linear programmes with many sparse rows |
| `banded_normal` | normal equations of sparse rows, in a band |
| `rows` | norms of rows, gaps between singular values |
| `blocks` | the connected components of a sparse matrix |
| `workspace` | arrays used again |
| `blas_threads` | how many threads BLAS uses |
| `workers` | processes that never outlive the one that opened them |
"""
