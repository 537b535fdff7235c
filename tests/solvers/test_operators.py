"""All equations of a layer as an operator: values, adjoint, coordinates, and the iteration on them."""

from __future__ import annotations

import numpy as np
import pytest

from constraint_algebra.numerics.conjugate_gradients import conjugate_gradients
from constraint_algebra.solvers.gradient_blocks import gradient_blocks
from constraint_algebra.solvers.operators import Coordinates, StackedEquations
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
    # Tall blocks are compressed, so the matrices differ and their products A^T A do not.
    for equations, dense, _ in operators():
        n = dense.shape[1]
        columns = equations.forward(np.eye(n).reshape(*equations.layer.input_shape, n))
        np.testing.assert_allclose(columns.T @ columns, dense.T @ dense, rtol=1e-9, atol=1e-9)


def test_the_diagonal_of_the_normal_equations() -> None:
    for equations, dense, _ in operators():
        np.testing.assert_allclose(equations.diagonal().ravel(), (dense**2).sum(axis=0), rtol=1e-9, atol=1e-12)


def test_adjoint() -> None:
    for equations, _, rng in operators():
        x = rng.standard_normal((*equations.layer.input_shape, 2))
        Ax = equations.forward(x)
        r = rng.standard_normal(Ax.shape)
        left, right = (Ax * r).sum(axis=0), (x * equations.adjoint(r)).reshape(-1, 2).sum(axis=0)
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


def test_the_coordinates_are_orthonormal_and_make_the_gradient_equations_diagonal() -> None:
    for equations, dense, rng in operators():
        c, n = Coordinates(equations), dense.shape[1]
        U = c.to_input(np.eye(n)).reshape(n, n)
        np.testing.assert_allclose(U.T @ U, np.eye(n), atol=1e-10)
        np.testing.assert_allclose(c.from_input(U.reshape(*equations.layer.input_shape, n)), np.eye(n), atol=1e-10)
        matrix = c.forward(np.eye(n))
        np.testing.assert_allclose(matrix.T @ matrix, U.T @ dense.T @ dense @ U, rtol=1e-8, atol=1e-8)
        assert not (matrix[:n] - np.diag(np.diag(matrix[:n]))).any()
        y, r = rng.standard_normal((n, 2)), rng.standard_normal((len(matrix), 2))
        np.testing.assert_allclose((c.forward(y) * r).sum(axis=0), (y * c.adjoint(r)).sum(axis=0), atol=1e-9)
        assert (c.gains > 0).all()


def test_right_hand_sides_in_coordinates_have_the_same_solution() -> None:
    for equations, dense, rng in operators():
        n = dense.shape[1]
        x = rng.standard_normal((*equations.layer.input_shape, 2))
        c = Coordinates(equations)
        rotated = c.rotate(*equations.split(equations.forward(x)))
        np.testing.assert_allclose(rotated, c.forward(c.from_input(x)), rtol=1e-9, atol=1e-9 * np.sqrt(n))


def test_split_undoes_join() -> None:
    for equations, _, rng in operators(4):
        r = equations.forward(rng.standard_normal((*equations.layer.input_shape, 3)))
        np.testing.assert_array_equal(equations.join(*equations.split(r)), r)


def test_single_precision_is_the_same_operator() -> None:
    for equations, _, rng in operators(4):
        x = rng.standard_normal((*equations.layer.input_shape, 2)).astype(np.float32)
        single = equations.astype(np.float32)
        assert single.forward(x).dtype == single.adjoint(single.forward(x)).dtype == np.float32
        np.testing.assert_allclose(single.forward(x), equations.forward(x.astype(float)), rtol=1e-3, atol=1e-4)


def full_rank(count=40):
    for equations, dense, rng in operators(count):
        if equations.whiten.any() and np.linalg.matrix_rank(dense, 1e-8) == dense.shape[1]:
            yield equations, dense, rng


def test_the_iteration_finds_the_least_squares_solution() -> None:
    tried = 0
    for equations, dense, rng in full_rank():
        c, n = Coordinates(equations), dense.shape[1]
        matrix = c.forward(np.eye(n))
        rhs = matrix @ rng.standard_normal((n, 2)) + 0.1 * rng.standard_normal((len(matrix), 2))
        found, converged = conjugate_gradients(c, c.precondition, rhs, distance=1e-9, iterations=1000)
        assert converged
        np.testing.assert_allclose(found, np.linalg.lstsq(matrix, rhs, rcond=None)[0], rtol=1e-6, atol=1e-6)
        tried += 1
    assert tried > 4


def test_the_iteration_stops_at_the_distance_asked_for() -> None:
    for equations, dense, rng in full_rank():
        c, n = Coordinates(equations), dense.shape[1]
        matrix = c.forward(np.eye(n))
        rhs = matrix @ rng.standard_normal((n, 1)) * 1e3
        exact = np.linalg.lstsq(matrix, rhs, rcond=None)[0]
        for distance in (10.0, 0.1, 1e-3):
            found, _ = conjugate_gradients(c, c.precondition, rhs, distance=distance, iterations=1000)
            assert np.linalg.norm(matrix @ (found - exact)) < 1.5 * distance


class Stretch:
    """Equations that multiply every unknown by a number."""

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = sizes[:, None]

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.sizes * x

    adjoint = forward


@pytest.mark.parametrize("ridge", [1e-14, 1e-12, 1e-10])
def test_a_first_step_that_takes_off_nearly_all_foretells_nothing(ridge) -> None:
    """A preconditioner that is exact but for weak directions: they alone are left to the later steps."""
    equations = Stretch(np.append(np.ones(40), np.geomspace(1e-5, 1e-4, 10)))
    right = np.random.default_rng(0).standard_normal((50, 1))
    for distance in np.geomspace(1e-6, 1e-14, 9):
        found, converged = conjugate_gradients(
            equations, lambda s: s / (equations.sizes**2 + ridge), equations.forward(right), distance=distance, delay=1
        )
        assert converged
        assert np.linalg.norm(equations.forward(found - right)) <= 2 * distance


def test_an_iteration_cut_short_says_so() -> None:
    equations, dense, _ = next(full_rank())
    c = Coordinates(equations)
    rhs = c.forward(np.ones((dense.shape[1], 1)))
    assert not conjugate_gradients(c, c.precondition, rhs, distance=1e-12, iterations=1)[1]


def test_largest_and_smallest_singular_value() -> None:
    for equations, dense, _ in full_rank():
        n = dense.shape[1]
        inverse = np.linalg.inv(dense.T @ dense)
        s = np.linalg.svd(dense, compute_uv=False)
        assert 0.5 * s[0] < equations.largest() <= s[0] * (1 + 1e-9)
        smallest = equations.smallest(lambda x, H=inverse, n=n: (H @ x.reshape(n, -1)).reshape(x.shape))
        assert s[-1] * (1 - 1e-9) <= smallest < 3 * s[-1]
