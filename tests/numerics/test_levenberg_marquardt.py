"""The search against SciPy's, on problems with a known least sum of squares and on such that are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from constraint_algebra.numerics.levenberg_marquardt import ITERATIONS, minimise


def curved(seed: int, rows: int = 40, unknowns: int = 7, noise: float = 0.0):
    """Tanh of a random linear map, less its value at a point, and noise."""
    rng = np.random.default_rng(seed)
    A, x = rng.standard_normal((rows, unknowns)), rng.uniform(-1, 1, unknowns)
    b = np.tanh(A @ x) + noise * rng.standard_normal(rows)
    return lambda v: np.tanh(A @ v) - b, lambda v: (1 - np.tanh(A @ v) ** 2)[:, None] * A, x


@pytest.mark.parametrize("seed", range(10))
def test_it_finds_the_zero_to_rounding(seed: int) -> None:
    residual, jacobian, x = curved(seed)
    found = minimise(residual, jacobian, np.zeros_like(x))
    assert np.abs(found.x - x).max() < 1e-13
    assert found.iterations < 30


@pytest.mark.parametrize("seed", range(10))
def test_with_noise_it_ends_where_scipy_ends(seed: int) -> None:
    residual, jacobian, x = curved(seed, noise=0.05)
    found = minimise(residual, jacobian, np.zeros_like(x))
    expected = least_squares(residual, np.zeros_like(x), jacobian, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert np.abs(found.x - expected.x).max() < 1e-5
    assert found.cost == pytest.approx(2 * expected.cost, rel=1e-9)


def test_badly_scaled_unknowns_cost_nothing() -> None:
    residual, jacobian, x = curved(3)
    by = 10.0 ** np.array([-9, -4, 0, 3, 6, 2, -1])
    found = minimise(lambda v: residual(v * by), lambda v: jacobian(v * by) * by, np.zeros_like(x))
    assert np.abs(found.x * by - x).max() < 1e-12


def test_what_no_residual_sees_stays_where_it_was() -> None:
    residual, jacobian, x = curved(1)
    start = np.append(np.zeros_like(x), 0.25)
    found = minimise(lambda v: residual(v[:-1]), lambda v: np.column_stack([jacobian(v[:-1]), np.zeros(40)]), start)
    assert np.abs(found.x[:-1] - x).max() < 1e-13
    assert found.x[-1] == 0.25


def test_a_step_to_infinity_is_not_taken() -> None:
    def residual(v):
        with np.errstate(invalid="ignore"):
            return np.array([np.log(v[0]) - 1.0, 0.0])  # from 9 the first step would lead below zero

    found = minimise(residual, lambda v: np.array([[1 / v[0]], [0.0]]), np.array([9.0]))
    assert found.x[0] == pytest.approx(np.e, abs=1e-14)


def test_it_ends_where_time_is_up_and_where_nothing_falls() -> None:
    residual, jacobian, x = curved(0)
    asked = iter([False, False, True])
    assert minimise(residual, jacobian, np.zeros_like(x), out_of_time=lambda: next(asked)).iterations == 2
    # A sum of squares that creeps towards infinity: no zero is near.
    creeping = minimise(
        lambda v: np.array([1 + np.exp(-1e-3 * v[0])]), lambda v: -1e-3 * np.exp(-1e-3 * v)[:, None], np.zeros(1)
    )
    assert creeping.iterations < ITERATIONS
