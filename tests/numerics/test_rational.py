"""Null spaces over the rationals: exact, and with a unit matrix at the free unknowns."""

from __future__ import annotations

from fractions import Fraction

import flint
import numpy as np
import pytest

from constraint_algebra.numerics import rational


def random_matrix(seed: int) -> flint.fmpq_mat:
    """Of low rank, with thirds and zeros."""
    rng = np.random.default_rng(seed)
    rows, columns, rank = rng.integers(1, 8), rng.integers(1, 9), rng.integers(1, 5)
    left, right = (
        flint.fmpq_mat(int(a), int(b), [flint.fmpq(int(v), 3) for v in rng.integers(-3, 4, int(a * b))])
        for a, b in ((rows, rank), (rank, columns))
    )
    return left * right


@pytest.mark.parametrize("seed", range(30))
def test_a_null_space_is_all_that_the_rows_do_not_see(seed: int) -> None:
    A = random_matrix(seed)
    N, free = rational.null_space(A)
    vectors = rational.columns_of(N)
    assert len(vectors) == len(free) == A.ncols() - A.rank()
    assert not any(value for value in (A * N).entries())
    assert [[v[j] for j in free] for v in vectors] == np.eye(len(free), dtype=int).tolist()
    assert rational.from_columns(vectors, A.ncols()) == N
    R = rational.row_basis(A)
    assert R.nrows() == A.rank()
    assert rational.null_space(R)[0] == N


def test_an_orthonormal_basis_also_of_numbers_beyond_float64() -> None:
    huge = [[Fraction(10**400), Fraction(0)], [Fraction(0), Fraction(1, 10**400)]]
    np.testing.assert_allclose(np.abs(rational.orthonormal(huge, 2)), np.eye(2))
    assert rational.orthonormal([], 3).shape == (3, 0)
