"""The windows of a selection over the outputs of the layer below, beside PyTorch: what is largest, and what it gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.own_statistics import OwnStatistics
from constraint_algebra.networks.network import bind
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, Moments
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.pooled import Pooled, pooled

RNG = np.random.default_rng(0)


class Beside:
    """Layers of the library, the first of them a convolution, and the functions that do the same in PyTorch."""

    def __init__(self, shape: tuple[int, ...], layers: dict[str, Any]) -> None:
        self.network = ca.Network(shape, layers)
        rng = np.random.default_rng(1)
        given = {n: rng.uniform(-1, 1, s) for n, s in self.network.parameter_shapes.items()}
        given |= {n: rng.uniform(0.5, 1.5, s) for n, s in self.network.buffer_shapes.items()}
        if "norm.weight" in given:
            given["norm.weight"] *= -np.sign(given["norm.weight"]) * (-1) ** np.arange(len(given["norm.weight"]))
        parameters = bind(self.network, given, "parameters")
        self.given = {name: torch.tensor(array) for name, array in given.items()}
        self.values = self.network.forward(parameters, rng.standard_normal(shape))
        rounding = precision({"none": np.zeros(1)})
        zeros = {n: np.zeros_like(array) for n, array in parameters.items()}
        observed = Observation(
            self.network, parameters, zeros, deviations_of(zeros, rounding, 0.0), rounding, Ensemble(0).draw
        )
        self.knows = GraphKnowledge.nothing(observed)
        self.k = rng.standard_normal(self.network.output_shape)

    def view(self) -> Pooled | None:
        """Let the output and its gradient be known, and look."""
        number = len(self.network)
        known = np.ones(self.k.shape, dtype=bool)
        none = np.zeros((*self.k.shape, MEMBERS))
        self.knows.learn_value(number, Estimate(self.values[number], known, none))
        self.knows.learn_gradient(number, Estimate(self.k, known, none))
        return pooled(self.knows, next(layer for layer in self.network if layer.is_selection))


def assert_agrees(view: Pooled, z: FloatArray, gradient: FloatArray) -> None:
    """The largest t is v where live and at most v where dead, and with its winners the gradient is autograd's."""
    t = view.entries(z)
    assert (view.live | view.dead).all()
    np.testing.assert_allclose(t.max(axis=1)[view.live], view.v.value[view.live], rtol=0, atol=1e-9)
    assert (t.max(axis=1) <= view.v.value + 1e-9).all()
    shares = np.eye(t.shape[1])[t.argmax(axis=1)]
    np.testing.assert_allclose(view.sent(shares), gradient, rtol=0, atol=1e-9)


POOLS: list[tuple[tuple[int, ...], Any, Any]] = [
    ((2, 8, 8), ca.MaxPool2d(2), lambda x: functional.max_pool2d(x, 2)),
    ((2, 9, 8), ca.MaxPool2d(3, stride=2, padding=1), lambda x: functional.max_pool2d(x, 3, 2, 1)),
    ((2, 7, 8), ca.MaxPool2d(2, ceil_mode=True), lambda x: functional.max_pool2d(x, 2, ceil_mode=True)),
    ((2, 9, 9), ca.MaxPool2d(2, dilation=2, stride=3), lambda x: functional.max_pool2d(x, 2, 3, dilation=2)),
    ((2, 11), ca.MaxPool1d(3, stride=2), lambda x: functional.max_pool1d(x, 3, 2)),
    ((1, 6, 5, 4), ca.MaxPool3d(2, stride=1), lambda x: functional.max_pool3d(x, 2, 1)),
    ((2, 8, 7), ca.AdaptiveMaxPool2d((3, 5)), lambda x: functional.adaptive_max_pool2d(x, (3, 5))),
    ((2, 6, 6), ca.Maxout(3), lambda x: x.reshape(1, 2, 3, *x.shape[2:]).amax(2)),
]


@pytest.mark.parametrize("order", ["relu before", "relu after", "none"])
@pytest.mark.parametrize(("shape", "pool", "function"), POOLS)
def test_windows_of_every_geometry(shape: tuple[int, ...], pool: Any, function: Any, order: str) -> None:
    axes = len(shape) - 1
    conv = (ca.Conv1d, ca.Conv2d, ca.Conv3d)[axes - 1](6, 3, padding=1)
    relu = {"relu": ca.ReLU()}
    before, after = relu if order == "relu before" else {}, relu if order == "relu after" else {}
    beside = Beside(shape, {"conv": conv, **before, "pool": pool, **after})
    if after:  # the rules find what the ReLU passed
        y, number = beside.values[-1], beside.network.named("pool").number
        none = np.zeros((*y.shape, MEMBERS))
        beside.knows.learn_value(number, Estimate(y, y > 0, none))
        beside.knows.learn_gradient(number, Estimate(np.where(y > 0, beside.k, 0.0), y > -1, none))
    z = torch.tensor(beside.values[1])[None].requires_grad_()
    y = function(functional.relu(z) if before else z)
    (functional.relu(y) if after else y).backward(torch.tensor(beside.k)[None])
    view = beside.view()
    assert view is not None
    assert view.layer.name == "conv"
    assert view.dead.any() == (order != "none" and bool((beside.values[-1] == 0).any()))
    assert_agrees(view, beside.values[1], z.grad.numpy()[0])


def test_factors_of_any_sign_between_layer_and_activation() -> None:
    layers = {"conv": ca.Conv2d(4, 3), "norm": ca.BatchNorm(), "act": ca.ReLU(), "pool": ca.MaxPool2d(2)}
    beside = Beside((2, 8, 8), layers)
    p, z = beside.given, torch.tensor(beside.values[1])[None].requires_grad_()
    x = functional.batch_norm(
        z, p["norm.running_mean"], p["norm.running_var"], p["norm.weight"], p["norm.bias"], eps=1e-5
    )
    functional.max_pool2d(functional.relu(x), 2).backward(torch.tensor(beside.k)[None])
    view = beside.view()
    assert view is not None
    assert (view.factor < 0).any()
    assert_agrees(view, beside.values[1], z.grad.numpy()[0])


def test_positive_factors_between_activation_and_selection_and_above() -> None:
    layers = {
        "conv": ca.Conv2d(4, 3),
        "scale": ca.Scale(-0.2, 0.1),
        "act": ca.Tanh(),
        "more": ca.Scale((0.5, 1.0, 2.0, 3.0), 0.3),
        "pool": ca.MaxPool2d(2),
    }
    beside = Beside((2, 8, 8), layers)
    z = torch.tensor(beside.values[1])[None].requires_grad_()
    factor = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None]
    functional.max_pool2d(factor * torch.tanh(0.1 - 0.2 * z) + 0.3, 2).backward(torch.tensor(beside.k)[None])
    view = beside.view()
    assert view is not None
    assert_agrees(view, beside.values[1], z.grad.numpy()[0])


def test_the_bound_of_dead_windows_goes_below_what_stands_under_the_activation() -> None:
    layers = {"conv": ca.Conv2d(3, 3), "pool": ca.MaxPool2d(2), "scale": ca.Scale(2.0, -1.0), "act": ca.ReLU()}
    beside = Beside((2, 8, 8), layers)
    view = beside.view()
    assert view is not None
    assert view.dead.any()
    np.testing.assert_allclose(view.v.value[view.dead], 0.5)
    assert (view.entries(beside.values[1]).max(axis=1)[view.dead] <= 0.5).all()


def test_a_normalisation_of_known_moments_lets_the_values_through() -> None:
    layers = {"conv": ca.Conv2d(4, 3), "own": OwnStatistics(4), "act": ca.ReLU(), "pool": ca.MaxPool2d(2)}
    beside = Beside((2, 8, 8), layers)
    assert beside.view() is None
    z, own = beside.values[1], beside.network.named("own")
    known, none = np.ones(4, dtype=bool), np.zeros((4, MEMBERS))
    mean, scale = z.mean(axis=(1, 2)), np.sqrt(z.var(axis=(1, 2)) + 1e-5)
    beside.knows.learn_moments(own, Moments(Estimate(mean, known, none), Estimate(scale, known, none + 1e-3)))
    view = beside.view()
    assert view is not None
    assert not view.direct
    t = view.entries(z).max(axis=1)
    np.testing.assert_allclose(t[view.live], view.v.value[view.live], rtol=0, atol=1e-9)
    noise = 1e-3 * view.v.value / scale.repeat(9)
    np.testing.assert_allclose(view.v.deviation[view.live], noise[view.live], rtol=1e-9)


@pytest.mark.parametrize(
    "layers",
    [
        {"conv": ca.Conv2d(4, 3, padding=1), "act": ca.ReLU(), "scale": ca.Scale(-1.0), "pool": ca.MaxPool2d(2)},
        {"conv": ca.Conv2d(4, 3, padding=1), "act": ca.ReLU(), "scale": ca.Scale((1, 2, 3, 4)), "pool": ca.Maxout(2)},
        {"conv": ca.Conv2d(4, 3, padding=1), "sum": (ca.Add(), "conv", "input"), "pool": ca.MaxPool2d(2)},
        {"conv": ca.Conv2d(4, 3, padding=1), "act": ca.ReLU(), "mean": ca.AvgPool2d(2), "pool": ca.MaxPool2d(2)},
        {"pool": ca.MaxPool2d(2)},
        {
            "conv": ca.Conv2d(4, 3, padding=1),
            "pool": (ca.MaxPool2d(3, stride=1, padding=1), "conv"),
            "sum": (ca.Add(), "pool", "conv"),
        },
    ],
)
def test_no_view_where_the_order_is_lost_or_others_read_what_lies_between(layers: dict[str, Any]) -> None:
    assert Beside((4, 8, 8), layers).view() is None
