"""Certificates without tolerance: they agree with float64, and their twins' gradients are equal as fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.proofs.exact import exact_gradients
from tests.twin_cases import case

PIECEWISE = {
    "relu": ca.ReLU(),
    "leaky": ca.LeakyReLU(0.25),
    "hardtanh": ca.Hardtanh(-0.25, 0.5),
    "identity": ca.Identity(),
}


def dyadic(activation, seed: int):
    """A small network whose weights and inputs are multiples of 1/64, exact in float64 and over the rationals."""
    net = ca.Network((2, 5, 4), [ca.Conv2d(2, 3, stride=2, padding=1), activation, ca.Flatten(), ca.Linear(3)])
    rng = np.random.default_rng(seed)
    c = case(net, np.round(64 * rng.random(net.input_shape)) / 64)
    values = {name: np.round(64 * rng.uniform(-0.5, 0.5, p.shape)) / 64 for name, p in c.parameters.items()}
    from constraint_algebra.pytorch.gradients import load_parameters

    load_parameters(c.model, values)
    return c


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", PIECEWISE.values(), ids=PIECEWISE)
def test_rank_and_fixed_values_are_those_of_float64(activation, seed: int) -> None:
    c = dyadic(activation, seed)
    exact = ca.exact_certificate(c.network, c.parameters, c.image)
    numeric = ca.indistinguishable(c.network, c.parameters, c.image, loss=None)
    assert exact.nullity == numeric.nullity
    np.testing.assert_array_equal(exact.fixed, numeric.fixed)


@pytest.mark.parametrize("activation", PIECEWISE.values(), ids=PIECEWISE)
def test_a_twin_is_a_proof_without_tolerance(activation) -> None:
    c = dyadic(activation, 0)
    exact = ca.exact_certificate(c.network, c.parameters, c.image)
    twin = exact.twin()
    if exact.nullity == 0:
        assert twin is None
        return
    assert twin.gradients_equal
    assert twin.change > 0
    assert all(0 <= value <= 1 for value in twin.image.ravel())
    assert ca.verify_twin(c.model, c.image, twin.image.astype(float), 1).difference < 1e-13


def test_a_twin_of_float64_leads_to_an_exact_one_as_strong() -> None:
    c = dyadic(ca.ReLU(), 8)
    exact = ca.exact_certificate(c.network, c.parameters, c.image)
    numeric = ca.indistinguishable(c.network, c.parameters, c.image, loss=None).twin()
    twin = exact.twin(numeric.difference)
    assert twin.gradients_equal
    assert float(twin.change) == pytest.approx(numeric.change, rel=1e-3)


def test_gradients_are_those_of_pytorch_and_a_wrong_twin_is_found_out() -> None:
    c = dyadic(ca.ReLU(), 2)
    W = {name: [Fraction(v) for v in values.ravel()] for name, values in c.parameters.items()}
    x = [Fraction(v) for v in c.image.ravel()]
    for unit, gradients in enumerate(exact_gradients(c.network, W, x)):
        theirs = ca.torch_gradients(c.model, c.image, 0, lambda output, _, unit=unit: output[0, unit])
        for name, values in gradients.items():
            np.testing.assert_allclose(np.array(values, dtype=float), theirs[name].ravel(), atol=1e-13)
    moved = [x[0] + Fraction(1, 10**9), *x[1:]]
    assert exact_gradients(c.network, W, moved) != exact_gradients(c.network, W, x)


def test_what_is_refused() -> None:
    c = dyadic(ca.ReLU(), 0)
    with pytest.raises(ca.UnsupportedLayerError, match="no rational values"):
        ca.exact_certificate(
            ca.Network((2,), [ca.Linear(2), ca.Tanh(), ca.Linear(2)]),
            {"0.weight": np.eye(2), "0.bias": [0, 0], "2.weight": np.eye(2), "2.bias": [0, 0]},
            [0, 0],
        )
    with pytest.raises(ca.ShapeError, match="must have shape"):
        ca.exact_certificate(c.network, c.parameters, c.image[0])
    with pytest.raises(ca.ParameterError, match="between 0 and 1"):
        ca.exact_certificate(c.network, c.parameters, c.image + 2)
    with pytest.raises(ca.ParameterError, match="finite rational"):
        ca.exact_certificate(c.network, c.parameters | {"0.bias": [np.nan, 0]}, c.image)
    with pytest.raises(ca.ShapeError, match="differences must have"):
        ca.exact_certificate(c.network, c.parameters, c.image).twin([1.0])
    # Also where no other weight follows: the second activation's cut-offs would be overlooked.
    twice = ca.Network((1, 4), [ca.Conv1d(1, 2), ca.LeakyReLU(0.5), ca.ReLU(), ca.Flatten()])
    with pytest.raises(ca.UnsupportedLayerError, match="a second activation"):
        ca.exact_certificate(twice, {"0.weight": [[[1, -1]]], "0.bias": [0]}, [[0, 1, 0, 1]])
    big = ca.Network((1, 30, 30), [ca.Conv2d(1, 3), ca.Flatten(), ca.Linear(2)])
    parameters = {name: np.zeros(shape) for name, shape in big.parameter_shapes.items()}
    with pytest.raises(ca.ShapeError, match="up to 600 unknowns"):
        ca.exact_certificate(big, parameters, np.zeros((1, 30, 30)))
