"""The whole map over the rationals: rank, determined values and sides are those of automatic differentiation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.ranks.whole_map import RATIONALS
from constraint_algebra.regions import rational
from tests.rational_cases import Small, small


def jacobian(c: Small, at_output: list[FloatArray], *, differences: bool = False) -> FloatArray:
    """The gradients of all weights for some gradients at the output held fixed, and the output, by double backward."""
    x = torch.tensor(c.image[None], requires_grad=True)
    output, parameters = c.model(x)[0], [p for n, p in c.model.named_parameters() if n.endswith("weight")]
    values = [
        g.ravel()
        for k in at_output
        for g in torch.autograd.grad((output * torch.tensor(k)).sum(), parameters, create_graph=True)
    ]
    values.append(output[1:] - output[0] if differences else output)
    every = torch.cat(values)
    rows = torch.autograd.grad(
        every, x, torch.eye(len(every), dtype=every.dtype), is_grads_batched=True, allow_unused=True
    )[0]
    return np.zeros((len(every), x.numel())) if rows is None else rows.numpy().reshape(len(every), -1)


def null_space(J: FloatArray) -> FloatArray:
    _, s, vectors = np.linalg.svd(J)
    rank = int((s > 1e-9 * max(s[0], 1)).sum())
    assert rank == len(s) or s[rank] < 1e-12 * max(s[0], 1)
    return vectors[rank:]


@pytest.mark.parametrize("seed", range(70))
def test_rank_and_determined_values_are_those_of_automatic_differentiation(seed: int) -> None:
    c = small(seed)
    outputs = int(np.prod(c.network.output_shape))
    k = np.random.default_rng(seed).integers(-9, 10, outputs) / 8
    found = rational.rational_map(c.network, c.parameters, c.image, k)
    space = null_space(jacobian(c, [k], differences=outputs > 1 and k.sum() == 0))
    assert found.nullity == len(space)
    np.testing.assert_array_equal(found.determined.ravel(), np.abs(space).max(axis=0, initial=0.0) < 1e-9)
    assert (found.arithmetic, found.linear, found.error) == (RATIONALS, True, 0.0)
    assert found.layers[-1].rank == found.rank
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.nullity), atol=1e-12)
    np.testing.assert_allclose(space @ found.basis @ found.basis.T, space, atol=1e-9)


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 20))])
def test_without_a_gradient_at_the_output_one_of_sum_zero_is_drawn(seed: int) -> None:
    c = small(seed)
    k = np.random.default_rng(seed).standard_normal(int(np.prod(c.network.output_shape)))
    k -= k.mean() if k.size > 1 else 0
    found = rational.rational_map(c.network, c.parameters, c.image)
    assert found.nullity == len(null_space(jacobian(c, [k], differences=k.size > 1)))
    assert found.rank == rational.rational_map(c.network, c.parameters, c.image, seed=1).rank
    assert 0 < found.error < 1e-6


def test_a_narrow_layer_above_leaves_a_wide_one_undetermined() -> None:
    """The 8 filters below share one output gradient: 7 of 12, and never more."""
    network = ca.Network((1, 12), [ca.Conv1d(8, 2, stride=2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(10)])
    values = {n: np.random.default_rng(0).integers(-9, 10, s) for n, s in network.parameter_shapes.items()}
    found = rational.rational_map(network, values, np.arange(12).reshape(1, 12))
    assert found.rank == 7
    assert not found.determined.any()
    assert [(row.layer, row.rows) for row in found.layers] == [("0", 16), ("1", 8), ("3", 60)]
    assert [row.rank for row in found.layers] == [2, 2, 7]
    assert found.pattern == ""


def test_what_one_layer_leaves_open_the_layers_above_determine() -> None:
    """The 8-channel map is not determined by its own equations, and is a function of three pixels."""
    network = ca.Network((1, 3), [ca.Conv1d(8, 2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(2)])
    values = {n: np.random.default_rng(0).integers(-9, 10, s) for n, s in network.parameter_shapes.items()}
    assert rational.rational_map(network, values, [[1, 2, 3]]).full


def test_a_gradient_of_zeros_at_the_output_determines_what_the_output_does() -> None:
    network = ca.Network((3,), [ca.Linear(2)])
    values = {"0.weight": [[1, 2, 3], [1, 2, 4]], "0.bias": [0, 0]}
    found = rational.rational_map(network, values, [0, 0, 0], [0, 0])
    assert found.rank == 1  # the difference of both outputs is the third value
    np.testing.assert_array_equal(found.determined, [False, False, True])


def test_sides_end_where_the_slope_changes() -> None:
    third = Fraction(1, 3)
    assert rational.sides(ca.ReLU(), third) == [(-1, third, True)]
    assert rational.sides(ca.ReLU(), Fraction(0)) == [(1, 0, False)]
    assert rational.sides(ca.LeakyReLU(0.5), -third) == [(1, third, False)]
    assert rational.sides(ca.ReLU6(), third) == [(-1, third, True), (1, 6 - third, True)]
    assert rational.sides(ca.ReLU6(), Fraction(6)) == [(-1, 0, False)]
    assert rational.sides(ca.Hardtanh(-1, 1), Fraction(-2)) == [(1, 1, False)]
    assert rational.sides(ca.Identity(), third) == []


def test_what_is_refused() -> None:
    network = ca.Network((2,), [ca.Linear(2), ca.Tanh(), ca.Linear(2)])
    values = {n: np.zeros(s) for n, s in network.parameter_shapes.items()}
    with pytest.raises(ca.UnsupportedLayerError, match="no rational values"):
        rational.rational_map(network, values, [0, 0])
    plain = ca.Network((2,), [ca.Linear(2)])
    values = {n: np.zeros(s) for n, s in plain.parameter_shapes.items()}
    with pytest.raises(ca.ShapeError, match="target_gradient must have shape"):
        rational.rational_map(plain, values, [0, 0], [1])
    with pytest.raises(ca.ParameterError, match="target_gradient: every value must be a finite rational"):
        rational.rational_map(plain, values, [0, 0], [1, np.inf])
