"""Formulas of layers of a graph: batch norm and transposed convolutions, against PyTorch's own values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca

NETWORK = ca.Network(
    (2, 2, 2),
    {
        "conv": ca.Conv2d(2, 1),
        "norm": ca.BatchNorm(),
        "relu": ca.ReLU(),
        "up": ca.ConvTranspose2d(1, 2, stride=2),
        "pool": ca.MaxPool2d(2),
        "sum": (ca.Add(), "pool", "input"),
        "flat": ca.Flatten(),
        "head": ca.Linear(2),
    },
)


MEAN, VAR = np.array([0.3, -1.0]), np.array([2.0, 0.5])


def torch_norm(x, weight, bias):
    return functional.batch_norm(x, torch.from_numpy(MEAN), torch.from_numpy(VAR), weight, bias)


def torch_up(x, weight, bias):
    return functional.conv_transpose2d(x, weight, bias, stride=2)


def standardised(x):
    return (x - MEAN[:, None, None]) / np.sqrt(VAR[:, None, None] + 1e-5)


def spread(x):
    wide = np.zeros((2, 5, 5))
    wide[:, 1:4:2, 1:4:2] = x
    return wide


# The operation in PyTorch, and what the layer's equations have as their input.
CASES = {"norm": (torch_norm, standardised), "up": (torch_up, spread)}


@pytest.mark.parametrize("name", CASES)
def test_the_formulas_hold_for_values_and_gradients_of_pytorch(name) -> None:
    layer, (operation, unknowns) = NETWORK.named(name), CASES[name]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 2, 2))
    weight = torch.from_numpy(rng.normal(size=layer.stored_shape)).requires_grad_()
    bias = torch.from_numpy(rng.normal(size=layer.filters)).requires_grad_()
    z = operation(torch.from_numpy(x[None]), weight, bias)[0]
    k = rng.normal(size=layer.output_shape)
    z.backward(torch.from_numpy(k))
    values = {
        "x": unknowns(x),
        "W": layer.canonical(weight.detach().numpy()),
        "b": bias.detach().numpy(),
        "z": z.detach().numpy(),
        "k": k,
        "g": layer.canonical(weight.grad.numpy()),
    }
    system = ca.symbolic.equations(layer, "both")
    assert system.kinds == ("weight",) * z.numel() + ("gradient",) * weight.numel()
    told = system.subs(values)
    left, right = (np.array(side.tolist(), dtype=float) for side in (told.matrix * told.unknowns, told.rhs))
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


def test_what_has_no_formulas_says_what_has() -> None:
    for name in ("sum", "pool", "relu", "norm.normalised"):
        with pytest.raises(ca.ShapeError, match=f"layer {name} .* has no weight and therefore no equations"):
            ca.symbolic.equations(NETWORK.named(name))
    with pytest.raises(ca.ArgumentError, match="got a Network; choose one of its layers"):
        ca.symbolic.equations(NETWORK)
