"""Iterative refinement against dense least squares."""

from __future__ import annotations

import numpy as np
import pytest

from constraint_algebra.numerics import refinement
from constraint_algebra.numerics.refinement import refined
from constraint_algebra.solvers.operators import Coordinates
from tests.solvers.test_operators import operators


def systems():
    """Operators whose equations determine all unknowns, in both precisions, and their dense matrices."""
    for equations, dense, rng in operators(40):
        values = np.linalg.svd(dense, compute_uv=False)
        if len(values) == dense.shape[1] and values[-1] > 1e-2 * values[0]:
            double = Coordinates(equations)
            matrix = double.forward(np.eye(dense.shape[1]))
            yield double, Coordinates(equations.astype(np.float32)), matrix, rng


def test_there_are_systems() -> None:
    assert sum(1 for _ in systems()) >= 4


def test_solutions_are_as_exact_as_double_precision() -> None:
    for double, single, matrix, rng in systems():
        exact = rng.standard_normal((matrix.shape[1], 3)) * np.array([1.0, 1e-6, 0.0])  # of very different size
        found, converged = refined(double, single, single.precondition, matrix @ exact, distance=1e-13, iterations=100)
        assert converged
        assert np.linalg.norm(matrix @ (found - exact), axis=0).max() < 1e-12


def test_it_iterates_in_single_precision(monkeypatch) -> None:
    used = []
    plain = refinement.conjugate_gradients
    monkeypatch.setattr(
        refinement, "conjugate_gradients", lambda e, p, r, **kw: used.append(r.dtype) or plain(e, p, r, **kw)
    )
    double, single, matrix, rng = next(systems())
    refined(
        double,
        single,
        single.precondition,
        matrix @ rng.standard_normal((matrix.shape[1], 1)),
        distance=1e-9,
        iterations=100,
    )
    assert set(used) == {np.dtype(np.float32)}


@pytest.mark.parametrize("contradiction", [1e-3, 1.0])
def test_equations_that_contradict_each_other_have_their_least_squares_solution(contradiction) -> None:
    for double, single, matrix, rng in systems():
        rhs = matrix @ rng.standard_normal((matrix.shape[1], 2)) + contradiction * rng.standard_normal((len(matrix), 2))
        found, converged = refined(double, single, single.precondition, rhs, distance=1e-9, iterations=1000)
        assert converged
        exact = np.linalg.lstsq(matrix, rhs, rcond=None)[0]
        assert np.linalg.norm(matrix @ (found - exact), axis=0).max() < 1e-8
