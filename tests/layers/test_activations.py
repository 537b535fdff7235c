"""Activations against automatic differentiation: value, derivative and inverse as functions of the output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from constraint_algebra import ELU, SELU, Hardtanh, Identity, LeakyReLU, ReLU, ReLU6, Sigmoid, Softplus, Softsign, Tanh
from constraint_algebra.layers import Activation
from constraint_algebra.layers.activations import apply, formulas

F = torch.nn.functional
CASES = {
    "identity": (Identity(), lambda z: z * 1),
    "relu": (ReLU(), F.relu),
    "leaky relu": (LeakyReLU(), F.leaky_relu),
    "leaky relu, R-CONV's slope": (LeakyReLU(0.2), lambda z: F.leaky_relu(z, 0.2)),
    "leaky relu steeper on the left": (LeakyReLU(3.0), lambda z: F.leaky_relu(z, 3.0)),
    "sigmoid": (Sigmoid(), torch.sigmoid),
    "tanh": (Tanh(), torch.tanh),
    "elu": (ELU(), F.elu),
    "elu, deeper": (ELU(2.5), lambda z: F.elu(z, 2.5)),
    "selu": (SELU(), F.selu),
    "softplus": (Softplus(), F.softplus),
    "softplus, sharp with a low threshold": (Softplus(4.0, 3.0), lambda z: F.softplus(z, 4.0, 3.0)),
    "softsign": (Softsign(), F.softsign),
    "hardtanh": (Hardtanh(), F.hardtanh),
    "hardtanh, lopsided": (Hardtanh(-0.5, 2.0), lambda z: F.hardtanh(z, -0.5, 2.0)),
    "relu6": (ReLU6(), F.relu6),
}
ONE_TO_ONE = set(CASES) - {"relu", "hardtanh", "hardtanh, lopsided", "relu6"}
case = pytest.mark.parametrize(("activation", "function"), CASES.values(), ids=CASES)
inputs = arrays(float, 20, elements=st.one_of(st.sampled_from([-1.0, 0.0, 1.0, 6.0]), st.floats(-12, 12, width=32)))


def by_autograd(function, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and derivative from PyTorch."""
    tensor = torch.tensor(z, requires_grad=True)
    y = function(tensor)
    y.sum().backward()
    return y.detach().numpy(), tensor.grad.numpy()


@case
@settings(max_examples=50)
@given(z=inputs)
def test_value_and_derivative_are_those_of_autograd(activation, function, z) -> None:
    value, derivative = by_autograd(function, z)
    y = apply(activation, z)
    np.testing.assert_allclose(y, value, rtol=1e-12, atol=1e-14)
    # On a kink, too: where autograd takes the slope of one side, so must the recursion.
    smooth = np.ones_like(z, dtype=bool)
    if isinstance(activation, Softplus):  # at the threshold y jumps by less than the distance of two outputs
        smooth = np.abs(activation.beta * z - activation.threshold) > 0.1
    np.testing.assert_allclose(formulas(activation).derivative(y)[smooth], derivative[smooth], rtol=1e-9, atol=1e-14)


@case
@settings(max_examples=50)
@given(z=inputs)
def test_the_inverse_returns_to_z_or_says_that_it_cannot(activation, function, z) -> None:
    y = by_autograd(function, z)[0]
    back = formulas(activation).inverse(y)
    known = ~np.isnan(back)
    # One rounding of y is an error of eps·|y| / σ′(z) in z.
    reach = 8 * np.finfo(float).eps * np.abs(y) / np.maximum(formulas(activation).derivative(y), 1e-300)
    assert np.all(np.abs(back - z)[known] <= reach[known] + 1e-14 * np.abs(z)[known] + 1e-300)
    assert not np.any(np.isinf(back))


@pytest.mark.parametrize("name", sorted(ONE_TO_ONE))
@settings(max_examples=50)
@given(z=arrays(float, 20, elements=st.floats(-5, 5, width=32)))
def test_one_to_one_activations_are_inverted_everywhere(name, z) -> None:
    activation, _ = CASES[name]
    if isinstance(activation, Softplus):  # at the threshold it jumps down, and outputs there have two pre-images
        z = z[np.abs(activation.beta * z - activation.threshold) > 0.1]
    assert not np.any(np.isnan(formulas(activation).inverse(apply(activation, z))))


@pytest.mark.parametrize(
    ("activation", "outputs", "known"),
    [
        (ReLU(), [0.0, 1e-300, 2.0], [False, True, True]),
        (Hardtanh(), [-1.0, -0.5, 1.0], [False, True, False]),
        (Hardtanh(-0.5, 2.0), [-0.5, 1.0, 2.0], [False, True, False]),
        (ReLU6(), [0.0, 3.0, 6.0], [False, True, False]),
        (Sigmoid(), [0.0, 0.5, 1.0], [False, True, False]),  # saturated: any large z gives the same float
        (Tanh(), [-1.0, 0.5, 1.0], [False, True, False]),
        (ELU(2.0), [-2.0, -1.0, 5.0], [False, True, True]),
        (Softplus(), [0.0, 0.1, 30.0], [False, True, True]),
        (Softsign(), [-1.0, 0.0, 1.0], [False, True, False]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Activation) else None,
)
def test_outputs_that_do_not_determine_z_give_nan(activation, outputs, known) -> None:
    back = formulas(activation).inverse(np.array(outputs))
    assert (~np.isnan(back)).tolist() == known


@pytest.mark.parametrize(
    ("activation", "impossible"),
    [(Sigmoid(), [-0.1, 1.1]), (Tanh(), [-1.5, 2.0]), (ELU(), [-1.5]), (Softplus(), [-0.1]), (Softsign(), [1.5, -2.0])],
    ids=lambda value: type(value).__name__ if isinstance(value, Activation) else None,
)
def test_outputs_that_no_z_has_give_nan_and_no_negative_derivative(activation, impossible) -> None:
    y = np.array(impossible)
    assert np.all(np.isnan(formulas(activation).inverse(y)))
    assert np.all(formulas(activation).derivative(y) >= 0)


@case
@settings(max_examples=50)
@given(z=arrays(float, 20, elements=st.floats(-4, 4, width=32)))
def test_slope_is_how_the_derivative_changes_with_the_output(activation, function, z) -> None:
    value = by_autograd(function, z)[0]
    step = 1e-6
    f = formulas(activation)
    # Stay away from kinks by more than the step.
    smooth = np.ones_like(z, dtype=bool)
    for edge in (0.0, *f.plateaus):
        smooth &= np.abs(value - edge) > 3 * step
    if isinstance(activation, Softplus):
        smooth &= np.abs(activation.beta * value - activation.threshold) > 1e-3
    difference = (f.derivative(value + step) - f.derivative(value - step)) / (2 * step)
    np.testing.assert_allclose(f.slope(value)[smooth], difference[smooth], rtol=1e-4, atol=1e-4)


@case
def test_plateaus_are_the_outputs_where_the_derivative_vanishes(activation, function) -> None:
    value, derivative = by_autograd(function, np.linspace(-8, 8, 801))
    assert list(formulas(activation).plateaus) == np.unique(value[derivative == 0]).tolist()


def test_an_activation_without_formulas_is_refused() -> None:
    with pytest.raises(TypeError, match="no formulas for Activation"):
        formulas(Activation())
