"""Linear programmes with many sparse rows beside HiGHS, and their normal equations beside dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from constraint_algebra.numerics.banded_normal import BandedNormal
from constraint_algebra.numerics.sparse_programme import Programme


def rows(rng: np.random.Generator, m: int, n: int) -> sp.csr_array:
    """Rows that meet four neighbours each, some of them the same."""
    first = rng.integers(0, n - 3, m)
    A = np.zeros((m, n))
    A[np.arange(m)[:, None], first[:, None] + np.arange(4)] = rng.standard_normal((m, 4))
    return sp.csr_array(A)


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_is_that_of_highs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = 40, 12
    A, inside = rows(rng, m, n), rng.random(n)
    r, c = A @ inside + rng.random(m) * (rng.random(m) < 0.7), rng.standard_normal(n)
    upper = np.where(rng.random(n) < 0.8, 1.0, np.inf)
    best = linprog(-c, A_ub=A.toarray(), b_ub=r, bounds=[(0, u if np.isfinite(u) else None) for u in upper])
    x = Programme(A, BandedNormal(A), r, np.zeros(n), upper).maximised(c, np.full(n, 0.5), steps=80, gap=1e-10)
    if best.status == 3:  # unbounded
        return
    assert c @ x == pytest.approx(-best.fun, abs=1e-6)
    assert (A @ x <= r + 1e-7).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_band_is_the_dense_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = rows(rng, 30, 15)[:, rng.permutation(15)]
    weights, diagonal = rng.random(30) * (rng.random(30) < 0.8), rng.random(15) + 0.1
    normal, rhs = BandedNormal(A), rng.standard_normal((15, 3))
    dense = A.toarray().T @ (weights[:, None] * A.toarray()) + np.diag(diagonal)
    assert normal.width < 15
    assert normal.factor(weights, diagonal).solve(rhs) == pytest.approx(np.linalg.solve(dense, rhs), rel=1e-8)
