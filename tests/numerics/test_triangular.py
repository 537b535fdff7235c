"""Triangular solves against dense ones, for few and for many right-hand sides."""

from __future__ import annotations

import numpy as np
import pytest

from constraint_algebra.numerics.triangular import SINGLY, cholesky_solve, divide


def factor(dtype, n=30):
    """A positive definite matrix and its upper triangular factor in LAPACK's order, with rubbish below the diagonal."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, n))
    H = A @ A.T + np.eye(n)
    U = np.linalg.cholesky(H).T
    return H, U, np.asfortranarray(U + np.tril(rng.standard_normal((n, n)), -1), dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [0, 1, 2, SINGLY, SINGLY + 1, 12])
def test_cholesky_solve(columns, dtype) -> None:
    H, _, U = factor(dtype)
    for order in "CF":
        b = np.asarray(np.random.default_rng(1).standard_normal((len(H), columns)), dtype=dtype, order=order)
        kept = b.copy()
        x = cholesky_solve(U, b)
        assert x.dtype == dtype
        np.testing.assert_allclose(x, np.linalg.solve(H, b), rtol=0, atol=1e-3 if dtype == np.float32 else 1e-12)
        np.testing.assert_array_equal(b, kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [0, 1, 2, 12])
@pytest.mark.parametrize("transposed", [False, True])
def test_divide_in_place(columns, transposed, dtype) -> None:
    _, U, rubbish = factor(dtype)
    L = np.asfortranarray(rubbish.T)
    whole = np.asarray(np.random.default_rng(1).standard_normal((50, columns)), dtype=dtype)
    before = whole.copy()
    v = whole[10:40]
    assert divide(L, v, transposed=transposed) is v
    expected = np.linalg.solve(U if transposed else U.T, before[10:40])
    np.testing.assert_allclose(v, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(np.delete(whole, np.s_[10:40], axis=0), np.delete(before, np.s_[10:40], axis=0))


def test_nothing_to_solve() -> None:
    assert cholesky_solve(np.zeros((0, 0)), np.zeros((0, 2))).shape == (0, 2)
