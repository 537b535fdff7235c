"""Activations with two branches against automatic differentiation, twice, and a bracketing root finder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar

import constraint_algebra as ca
from constraint_algebra.layers.activations import formulas, has_two_branches
from constraint_algebra.networks.spans import span_of

F = torch.nn.functional
CASES = {
    "SiLU": (ca.SiLU(), F.silu),
    "GELU": (ca.GELU(), F.gelu),
    "GELU by tanh": (ca.GELU("tanh"), lambda z: F.gelu(z, approximate="tanh")),
    "Mish": (ca.Mish(), F.mish),
    "hardswish": (ca.Hardswish(), F.hardswish),
}
case = pytest.mark.parametrize(("activation", "function"), CASES.values(), ids=CASES)
POINTS = np.concatenate([np.linspace(-9, 9, 721), [-40.0, 40.0, 1e-9, -1e-9]])


def by_autograd(function, z):
    """Value, first and second derivative."""
    tensor = torch.tensor(z, requires_grad=True)
    y = function(tensor)
    (first,) = torch.autograd.grad(y.sum(), tensor, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), tensor)
    return y.detach().numpy(), first.detach().numpy(), second.numpy()


@case
def test_value_and_both_derivatives_are_those_of_autograd(activation, function) -> None:
    y, first, second = by_autograd(function, POINTS)
    f = formulas(activation)
    np.testing.assert_allclose(f.value(POINTS), y, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(f.derivative_at(POINTS), first, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(f.branches.curvature(POINTS), second, rtol=1e-12, atol=1e-14)
    assert has_two_branches(activation)


@case
def test_the_minimum_is_where_a_search_finds_it(activation, function) -> None:
    found = minimize_scalar(
        lambda z: float(function(torch.tensor(z, dtype=torch.float64))), bounds=(-3, 0), method="bounded"
    )
    b = formulas(activation).branches
    assert b.minimum == pytest.approx(found.x, abs=1e-4)
    assert b.lowest == pytest.approx(found.fun, rel=1e-7)
    assert span_of(activation) == (b.lowest, np.inf, ())


@case
@pytest.mark.parametrize("upper", [True, False], ids=["upper", "lower"])
def test_both_inverses_are_those_of_a_root_finder(activation, function, upper) -> None:
    b = formulas(activation).branches
    shares = np.array([1e-6, 0.01, 0.3, 0.7, 0.99, 1 - 1e-6])
    ys = np.concatenate([b.lowest * shares, [1e-8, 0.3, 2.9, 3.5, 50.0] if upper else []])
    left, right = (b.minimum, 60.0) if upper else (-45.0, b.minimum)

    def root(y):
        return brentq(lambda z: float(function(torch.tensor(z, dtype=torch.float64))) - y, left, right, xtol=1e-15)

    found = b.inverse(ys, np.full(ys.shape, upper))
    expected = np.array([root(y) for y in ys])
    # PyTorch takes 1 + erf and 1 + tanh, which far below zero are off by a rounding of one.
    off = np.abs(ys) + (0.0 if upper else np.abs(expected))
    reach = 1e-15 * (1 + np.abs(expected)) + 4e-16 * off / np.abs(b.derivative(expected))
    assert (np.abs(found - expected) <= 4 * reach).all()


@case
def test_what_an_output_alone_tells(activation, function) -> None:
    """Above zero z and the derivative follow; below nothing does, nor does anything where no z has such an output."""
    f = formulas(activation)
    z = np.array([1e-12, 0.2, 2.0, 7.0])
    y, first, second = by_autograd(function, z)
    np.testing.assert_allclose(f.inverse(y), z, rtol=1e-14)
    np.testing.assert_allclose(f.derivative(y), first, rtol=1e-13)
    np.testing.assert_allclose(f.slope(y), second / first, rtol=1e-11, atol=1e-12)
    below = np.array([-1.0, f.branches.lowest, 0.5 * f.branches.lowest, -1e-9, 0.0])
    for formula in (f.inverse, f.derivative, f.slope):
        assert np.isnan(formula(below)).all()
    for upper in (True, False):
        assert np.isnan(f.branches.inverse(np.array([-1.0]), np.array([upper]))).all()
    assert np.isnan(f.branches.inverse(np.array([0.0, 1.0]), np.zeros(2, dtype=bool))).all()


def test_gradients_of_a_network_are_those_of_pytorch() -> None:
    for activation, function in CASES.values():
        net = ca.Network((1, 6, 6), [ca.Conv2d(3, 3), activation, ca.Flatten(), ca.Linear(2)])
        assert not net.is_chain
        rng = np.random.default_rng(0)
        P = {name: rng.standard_normal(shape) for name, shape in net.parameter_shapes.items()}
        x, k = rng.standard_normal((1, 6, 6)), rng.standard_normal(2)
        T = {name: torch.tensor(values, requires_grad=True) for name, values in P.items()}
        z = F.conv2d(torch.tensor(x)[None], T["0.weight"], T["0.bias"])
        logits = F.linear(function(z).flatten(1), T["3.weight"], T["3.bias"])
        gradients = torch.autograd.grad(logits, list(T.values()), torch.tensor(k)[None])
        found = net.backward(P, net.forward(P, x), k)
        for name, gradient in zip(T, gradients, strict=True):
            np.testing.assert_allclose(found[name], gradient.numpy(), rtol=1e-11, atol=1e-12)


def test_other_approximations_of_gelu_are_refused() -> None:
    with pytest.raises(ca.ShapeError, match="approximate must be"):
        ca.GELU("sigmoid")
