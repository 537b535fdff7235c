"""Small layers at once: verdict and solution against dense algebra, where equations differ by many powers of ten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.solvers.by_dense import DenseSystem
from constraint_algebra.solvers.two_stage import TwoStage
from tests.solvers.test_two_stage import Dense, equations

NETWORK = ca.Network((2, 5, 4), [ca.Conv2d(3, 3, padding=1)])
LAYER = NETWORK.bilinear[0]


def ill_conditioned(seed):
    """Rows known to 1e-14 beside others known to 1e-3, as behind saturated activations."""
    eq, rng = equations(LAYER, seed, noise=1e-14, active=0.9, rows=0.5), np.random.default_rng(seed)
    return replace(eq, output_noise=eq.output_noise * 10 ** rng.uniform(0, 9, eq.output_noise.shape))


@pytest.mark.parametrize("seed", range(4))
def test_the_solution_is_that_of_all_equations_whatever_their_condition(seed) -> None:
    eq = ill_conditioned(seed)
    stages, dense = TwoStage(eq), Dense.of(eq)
    x = stages.solve(eq.weight_gradient[..., None], eq.output[..., None])[..., 0].ravel()
    assert isinstance(stages.solution, DenseSystem)
    deviation = np.sqrt(np.diag(np.linalg.inv(dense.matrix.T @ dense.matrix)))
    expected = np.linalg.lstsq(dense.matrix, dense.rhs, rcond=None)[0]
    rounding = 1e-14 * stages.verdict.condition  # of the oracle as well
    assert (np.abs(x - expected) <= 4 * deviation + min(rounding, 1e-6)).all()


@pytest.mark.parametrize("seed", range(4))
def test_rank_and_null_space_are_those_of_all_equations(seed) -> None:
    eq = equations(LAYER, seed, active=0.2, rows=0.2)
    verdict, dense = TwoStage(eq).verdict, Dense.of(eq)
    assert verdict.rank == np.linalg.matrix_rank(dense.matrix) < LAYER.unknowns
    null = np.linalg.svd(dense.matrix)[2][verdict.rank :]
    np.testing.assert_array_equal(verdict.determined.ravel(), np.sqrt((null**2).sum(axis=0)) < 1e-5)
