"""The trilinear form against automatic differentiation, and each operator against its adjoint."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from constraint_algebra import Linear
from constraint_algebra.layers import trilinear
from tests import oracles
from tests.cases import Geometry, geometries

RELATIVE = 1e-10


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the largest difference is below 1e-10 of the largest expected value."""
    return found.shape == expected.shape and bool(
        np.max(np.abs(found - expected), initial=0) <= RELATIVE * max(1e-300, np.max(np.abs(expected), initial=0))
    )


def against_autograd(geometry: Geometry):
    """Values of a layer and what PyTorch makes of them."""
    weight, bias, x = geometry.values()
    draw = np.random.default_rng(geometry.seed + 1).standard_normal
    return weight, bias, x, oracles.torch_layer(geometry, weight, bias if geometry.bias else None, x, draw)


@settings(max_examples=250)
@given(geometries())
def test_output_and_gradients_are_those_of_pytorch(geometry) -> None:
    layer = geometry.layer
    weight, bias, x, expected = against_autograd(geometry)
    k = expected["output gradient"]
    shift = bias.reshape(-1, *(1,) * geometry.axes) if geometry.bias else 0.0
    assert close(trilinear.forward(layer, weight, x) + shift, expected["output"])
    assert close(trilinear.weight_gradient(layer, k, x), expected["weight gradient"])
    assert close(trilinear.input_gradient(layer, weight, k), expected["input gradient"])
    if geometry.bias:
        assert close(trilinear.bias_gradient(layer, k), expected["bias gradient"])


@given(geometries())
def test_leaving_out_any_factor_of_the_trilinear_form_gives_the_same_number(geometry) -> None:
    layer = geometry.layer
    rng = np.random.default_rng(geometry.seed)
    weight, k, x = (rng.standard_normal(shape) for shape in (layer.weight_shape, layer.output_shape, layer.input_shape))
    T = [
        np.sum(k * trilinear.forward(layer, weight, x)),
        np.sum(weight * trilinear.weight_gradient(layer, k, x)),
        np.sum(x * trilinear.input_gradient(layer, weight, k)),
    ]
    scale = max(1.0, np.linalg.norm(k) * np.linalg.norm(weight) * np.linalg.norm(x))
    assert np.ptp(T) <= 1e-12 * scale


def test_a_linear_layer_is_a_convolution_without_axes() -> None:
    layer = Linear(2).place((3,))
    W, x, k = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([1.0, 0, -1]), np.array([10.0, 1])
    assert trilinear.forward(layer, W, x).tolist() == [-2, -2]
    assert trilinear.input_gradient(layer, W, k).tolist() == [14, 25, 36]
    assert trilinear.weight_gradient(layer, k, x).tolist() == [[10, 0, -10], [1, 0, -1]]
    assert trilinear.bias_gradient(layer, k).tolist() == [10, 1]


@given(geometries())
def test_touched_is_what_the_outputs_see(geometry) -> None:
    layer = geometry.layer
    rng = np.random.default_rng(geometry.seed)
    active = rng.random(layer.output_shape) < 0.2
    # Oracle: positive weights and gradients cannot cancel, so PyTorch's input gradient is positive exactly there.
    expected = oracles.torch_layer(
        geometry, np.ones(layer.weight_shape), None, np.zeros(layer.input_shape), lambda _: active.astype(float)
    )["input gradient"]
    assert np.array_equal(trilinear.touched(layer, active), expected > 0)


@given(geometries(), st.integers(1, 3))
def test_several_inputs_at_once_are_each_contracted_alone(geometry, several) -> None:
    layer = geometry.layer
    rng = np.random.default_rng(geometry.seed)
    weight = rng.standard_normal(layer.weight_shape)
    for operator, shape in (
        (trilinear.forward, layer.input_shape),
        (trilinear.input_gradient, layer.output_shape),
    ):
        values = rng.standard_normal((*shape, several))
        single = [operator(layer, weight, values[..., i]) for i in range(several)]
        assert close(operator(layer, weight, values), np.stack(single, axis=-1))
