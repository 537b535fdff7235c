"""All equations of a layer as an operator: adjoint, values, preconditioner, and the iteration on them."""

from __future__ import annotations

import numpy as np

from constraint_algebra.blocks import gradient_blocks
from constraint_algebra.stacked import StackedEquations, conjugate_gradients
from tests.rank_oracles import looped_rows, random_layers


def operators(count=12, seed=3):
    """Operators of random layers, with the dense matrix of the same equations."""
    for n, layer in enumerate(random_layers(count, seed)):
        rng = np.random.default_rng(n)
        W, k = rng.standard_normal(layer.weight_shape), rng.standard_normal(layer.output_shape)
        whiten = rng.uniform(0.5, 2, layer.output_shape) * (rng.random(layer.output_shape) < 0.7)
        shape = (layer.filters, int(np.prod(layer.taps)))
        rows, scale = rng.random(shape) < 0.7, rng.uniform(0.5, 2, shape)
        one = np.ones(layer.output_shape, dtype=bool)
        B, A = looped_rows(layer, W, k, one, one)
        factors = np.broadcast_to((rows * scale)[:, None], (shape[0], layer.weight_shape[1], shape[1]))
        dense = np.vstack([B * whiten.reshape(-1, 1), A * factors.reshape(-1, 1)])
        yield StackedEquations(layer, W, gradient_blocks(layer, k, rows, scale), whiten), dense, rng


def test_the_operator_has_the_gram_matrix_of_the_equations() -> None:
    # The blocks' rows are rotated, so the matrices differ and their products A^T A do not.
    for equations, dense, _ in operators():
        n = dense.shape[1]
        columns = equations.forward(np.eye(n).reshape(*equations.layer.input_shape, n))
        np.testing.assert_allclose(columns.T @ columns, dense.T @ dense, rtol=1e-9, atol=1e-9)


def test_adjoint() -> None:
    for equations, _, rng in operators():
        x = rng.standard_normal((*equations.layer.input_shape, 2))
        Ax = equations.forward(x)
        r = rng.standard_normal(Ax.shape)
        left, right = (Ax * r).sum(axis=0), (x * equations.adjoint(r)).reshape(-1, 2).sum(axis=0)
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


def test_the_preconditioner_is_symmetric_and_positive() -> None:
    for equations, dense, _ in operators():
        if not equations.whiten.any():
            continue
        n = dense.shape[1]
        P = equations.precondition(np.eye(n).reshape(*equations.layer.input_shape, n)).reshape(n, n)
        np.testing.assert_allclose(P, P.T, rtol=1e-6, atol=1e-9 * np.abs(P).max())
        assert np.linalg.eigvalsh((P + P.T) / 2).min() > 0


def test_the_iteration_finds_the_least_squares_solution() -> None:
    for equations, dense, rng in operators():
        if not equations.whiten.any() or np.linalg.matrix_rank(dense, 1e-8) < dense.shape[1]:
            continue
        n = dense.shape[1]
        matrix = equations.forward(np.eye(n).reshape(*equations.layer.input_shape, n))
        rhs = matrix @ rng.standard_normal((n, 2)) + 0.1 * rng.standard_normal((len(matrix), 2))
        start = np.zeros((*equations.layer.input_shape, 2))
        found, converged = conjugate_gradients(equations, rhs, start, 1000, 1e-14)
        assert converged
        found = found.reshape(n, 2)
        np.testing.assert_allclose(found, np.linalg.lstsq(matrix, rhs, rcond=None)[0], rtol=1e-6, atol=1e-7)
        assert not start.any()  # the first guess is left alone
