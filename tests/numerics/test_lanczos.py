"""Extreme singular values from a few products, against a singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from constraint_algebra.numerics.lanczos import STEPS, extreme_singular_values

UNKNOWNS = 400


class Matrix:
    """A matrix as an operator that counts its products."""

    def __init__(self, matrix) -> None:
        self.matrix, self.products = matrix, 0

    def forward(self, x):
        self.products += 1
        return self.matrix @ x

    def adjoint(self, r):
        return self.matrix.T @ r


def with_singular_values(values, seed):
    """A matrix with singular values of one's choice and random singular vectors."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in (2 * len(values), len(values)))
    return (U * values) @ V.T


def extremes(matrix, dtype=float, **options):
    operator = Matrix(matrix.astype(dtype))
    diagonal = (matrix**2).sum(axis=0)[:, None].astype(dtype)
    return extreme_singular_values(operator, diagonal, (matrix.shape[1],), **options), operator.products


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1.0, 2.0, 6.0])
def test_both_are_those_of_the_matrix(spread, dtype) -> None:
    for seed in range(5):
        matrix = with_singular_values(np.geomspace(1, spread, UNKNOWNS), seed)
        found, products = extremes(matrix, dtype, seed=seed)
        assert found is not None
        assert products <= STEPS
        # With the diagonal divided out and its smallest and largest entry for the rest, the interval is a little wider.
        assert 0.6 < found[0] < 1.01
        assert 0.99 * spread < found[1] < 1.6 * spread


def test_columns_of_different_size() -> None:
    """The diagonal takes them out: ill-conditioned in appearance only."""
    sizes = np.geomspace(1e-3, 1, UNKNOWNS)
    matrix = with_singular_values(np.geomspace(1, 3, UNKNOWNS), 0) * sizes
    found, _ = extremes(matrix)
    exact = np.linalg.svd(matrix, compute_uv=False)
    assert exact[-1] / 4 < found[0] < exact[-1]
    assert exact[0] < found[1] < 4 * exact[0]


@pytest.mark.parametrize("spread", [1.0, 2.0, 6.0])
@pytest.mark.parametrize("smallest", [0.0, 1e-5, 1e-2])
def test_one_weak_direction_is_never_missed(smallest, spread) -> None:
    for seed in range(20):
        values = np.append(np.geomspace(1, spread, UNKNOWNS - 1), smallest)
        found, _ = extremes(with_singular_values(values, seed), np.float32, seed=seed)
        assert found is None or found[0] < max(2 * smallest, 1e-3)


def test_an_ill_conditioned_matrix_is_given_up_early() -> None:
    found, products = extremes(with_singular_values(np.geomspace(1, 1e3, UNKNOWNS), 0))
    assert found is None
    assert products < STEPS


def test_a_space_that_ends() -> None:
    """One distinct singular value: the process is done after one step, and so it says."""
    found, _ = extremes(np.eye(20))
    assert found == pytest.approx((1.0, 1.0))
