"""The factor in what the gradient equations leave open, against dense normal equations and dense least squares."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.solvers import null_space_factor
from constraint_algebra.solvers.null_space_factor import RIDGE, NullSpaceFactor, worthwhile
from constraint_algebra.solvers.operators import Coordinates
from constraint_algebra.solvers.two_stage import TwoStage
from tests.solvers.test_two_stage import Dense, equations

LAYERS = {
    "plain": ca.Conv2d(5, 3, padding=1).place((3, 9, 8)),
    "residue classes": ca.Conv2d(9, 5, stride=2, padding=2).place((4, 12, 10)),
    "one axis": ca.Conv1d(6, 3, padding=1).place((4, 30)),
    "dilated": ca.Conv2d(6, 3, padding=1, dilation=2).place((3, 11, 9)),
    "three axes": ca.Conv3d(5, 2, stride=(1, 2, 1)).place((3, 5, 4, 4)),
    "a pixel that no tap meets": ca.Conv2d(4, 2, stride=3).place((2, 6, 6)),
}


def coordinates(layer, strong, dtype):
    return Coordinates(TwoStage(equations(layer, active=0.8)).stage.stacked.astype(dtype), strong)


@pytest.mark.parametrize("strong", [np.inf, 0.3])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_its_product_is_the_normal_equations(layer, strong) -> None:
    exact = coordinates(layer, strong, float)
    n = len(exact.sizes)
    matrix = exact.forward(np.eye(n))
    H = matrix.T @ matrix
    H[np.diag_indices(n)] += RIDGE * H.diagonal().max()
    factor = NullSpaceFactor(coordinates(layer, strong, np.float32))
    U = np.triu(factor.factor).astype(float)
    found = np.empty_like(H)
    found[np.ix_(factor.order, factor.order)] = U.T @ U
    np.testing.assert_allclose(found, H, rtol=0, atol=2e-6 * H.max())


@pytest.mark.parametrize("n", [1, 3])
def test_it_inverts_them(n) -> None:
    for layer in (LAYERS["plain"], LAYERS["residue classes"]):
        exact = coordinates(layer, np.inf, float)
        factor = NullSpaceFactor(coordinates(layer, np.inf, np.float32))
        y = np.random.default_rng(0).standard_normal((len(exact.sizes), n)) * np.geomspace(1, 1e-20, n)
        np.testing.assert_allclose(factor(exact.adjoint(exact.forward(y))) / y, 1, atol=0.02)


def test_where_it_is_worthwhile(monkeypatch) -> None:
    plain = coordinates(LAYERS["plain"], np.inf, np.float32)
    assert worthwhile(plain)
    monkeypatch.setattr(null_space_factor, "LARGEST", 100)
    assert not worthwhile(plain)
    for layer in (ca.Conv2d(8, 3, padding=1, groups=2).place((4, 5, 5)), ca.Linear(3).place((4,))):
        assert not worthwhile(coordinates(layer, np.inf, np.float32))


@pytest.fixture
def impatient(monkeypatch):
    """A layer counts as large whatever its size, and the iteration alone gets five steps."""
    for name, value in {
        "solvers.by_factor.FEW": 10**6,
        "solvers.by_reduction.LARGEST": 0,
        "solvers.by_iteration.STEPS": 5,
        "numerics.refinement.STEPS": 5,
    }.items():
        monkeypatch.setattr(f"constraint_algebra.{name}", value)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("single", [False, True])
def test_a_large_layer_that_the_iteration_does_not_get_through(single) -> None:
    layer = ca.Conv2d(6, 3, padding=1).place((3, 9, 8))
    eq = equations(layer, noise=1e-6, active=0.6, zeros=0.0)
    dense = Dense.of(eq)
    expected = np.linalg.lstsq(dense.matrix, dense.rhs, rcond=None)[0].reshape(layer.input_shape)
    inverse = np.linalg.pinv(dense.matrix)
    deviation = np.sqrt(np.diag(inverse @ inverse.T)).reshape(layer.input_shape)
    stages = TwoStage(eq)
    assert isinstance(stages.solution.factor, NullSpaceFactor)
    assert stages.verdict.settled
    assert stages.verdict.determined.all()
    scale = 1e-6 if single else 1.0  # single precision is for perturbations
    x = stages.solve(scale * eq.weight_gradient[..., None], scale * eq.output[..., None], share=0.05, single=single)[
        ..., 0
    ]
    assert (np.abs(x - scale * expected) <= 0.3 * deviation).all()


@pytest.mark.usefixtures("impatient")
def test_what_stays_open_with_it() -> None:
    """A corner in which no output counts: the factor gets its ridge there, and the probes do not come back."""
    layer = ca.Conv2d(8, 3, padding=1).place((3, 9, 8))
    eq = equations(layer, active=0.9, zeros=0.0, rows=0.2)
    eq.output[:, :7, :6] = np.nan
    dense = Dense.of(eq)
    _, s, Vt = np.linalg.svd(dense.matrix)
    rank = int(np.count_nonzero(s > 1e-9 * s[0]))
    assert rank < layer.unknowns <= len(dense.matrix)
    verdict = TwoStage(eq).verdict
    assert verdict.settled
    np.testing.assert_array_equal(
        verdict.determined, np.linalg.norm(Vt[rank:], axis=0).reshape(layer.input_shape) < 1e-7
    )


@pytest.mark.usefixtures("impatient")
def test_without_memory_the_verdict_is_that_of_the_iteration(monkeypatch) -> None:
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(null_space_factor, "NullSpaceFactor", no_memory)
    assert not TwoStage(equations(LAYERS["plain"], active=0.9, zeros=0.0)).verdict.settled
