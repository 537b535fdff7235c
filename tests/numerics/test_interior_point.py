"""The interior-point method against HiGHS, and its quadratic form against the conditions of optimality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from constraint_algebra.numerics.interior_point import interior_point


def problem(seed: int):
    """A box in which 0 lies, cut by some inequalities, in the coordinates of a random subspace."""
    rng = np.random.default_rng(seed)
    p, d, m = int(rng.integers(8, 30)), int(rng.integers(1, 7)), int(rng.integers(0, 6))
    N = np.linalg.qr(rng.standard_normal((p, d)))[0]
    x = np.where(rng.random(p) < 0.1, 0.0, rng.random(p))
    M = rng.standard_normal((m, p)) @ N
    return rng.standard_normal(d), N, -x, 1 - x, M, rng.random(m)


def violation(y, N, lower, upper, M, s) -> float:
    return max(float(part.max(initial=0)) for part in (N @ y - upper, lower - N @ y, M @ y - s))


@pytest.mark.parametrize("seed", range(20))
def test_the_optimum_is_that_of_highs(seed: int) -> None:
    c, N, lower, upper, M, s = problem(seed)
    found = interior_point(c, N, lower, upper, M, s)
    rows = np.vstack([N, -N, M])
    exact = linprog(c, A_ub=rows, b_ub=np.concatenate([upper, -lower, s]), bounds=(None, None))
    assert c @ found.y == pytest.approx(exact.fun, abs=1e-6)
    assert violation(found.y, N, lower, upper, M, s) < 1e-6
    stationary = c + N.T @ (found.at_upper - found.at_lower) + M.T @ found.at_rows
    np.testing.assert_allclose(stationary, 0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_point_is_optimal(seed: int) -> None:
    """Seen from the nearest point of a convex set, no vertex of it lies in the direction of the target."""
    c, N, lower, upper, M, s = problem(seed)
    found = interior_point(3 * c, N, lower, upper, M, s, q=1.0)
    assert violation(found.y, N, lower, upper, M, s) < 1e-6
    slope = found.y + 3 * c
    least = linprog(slope, A_ub=np.vstack([N, -N, M]), b_ub=np.concatenate([upper, -lower, s]), bounds=(None, None)).fun
    assert slope @ found.y == pytest.approx(least, abs=1e-5)


def test_a_deadline_stops_it() -> None:
    found = interior_point(*problem(0), deadline=-np.inf)
    assert not found.converged
