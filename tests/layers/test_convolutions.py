"""Transposed convolutions and scales of channels: values and gradients of PyTorch, weights in its order and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.transposed import Spread
from constraint_algebra.networks.network import bind, stored
from tests.layers.test_joins import applied

KINDS = {1: ca.ConvTranspose1d, 2: ca.ConvTranspose2d, 3: ca.ConvTranspose3d}


def geometry(axes: int, seed: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Hyper-parameters of a transposed convolution, and an input shape that it takes."""
    rng = np.random.default_rng([axes, seed])

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(low, high, axes)))

    stride, dilation, kernel = each(1, 4), each(1, 3), each(1, 4)
    spare = [max(s, d) for s, d in zip(stride, dilation, strict=True)]
    groups = int(rng.integers(1, 3))
    options = {
        "filters": groups * int(rng.integers(1, 4)),
        "kernel": kernel,
        "stride": stride,
        "padding": tuple(int(rng.integers(0, d * (k - 1) + 1)) for k, d in zip(kernel, dilation, strict=True)),
        "output_padding": tuple(int(rng.integers(0, n)) for n in spare),
        "dilation": dilation,
        "groups": groups,
        "bias": bool(rng.random() < 0.5),
    }
    return options, (groups * int(rng.integers(1, 3)), *each(5, 7))


@pytest.mark.parametrize("axes", KINDS)
@pytest.mark.parametrize("seed", range(10))
def test_a_transposed_convolution_and_its_gradients_are_those_of_pytorch(axes, seed) -> None:
    options, shape = geometry(axes, seed)
    network = ca.Network(shape, {"up": KINDS[axes](**options), "flat": ca.Flatten()})
    rng = np.random.default_rng(seed)
    given = {name: rng.standard_normal(own) for name, own in network.parameter_shapes.items()}
    x = torch.tensor(rng.standard_normal(shape), requires_grad=True)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in given.items()}
    kept = {name: options[name] for name in ("stride", "padding", "output_padding", "groups", "dilation")}
    function = getattr(functional, f"conv_transpose{axes}d")
    y = function(x[None], leaves["up.weight"], leaves.get("up.bias"), **kept)[0]
    k = torch.tensor(rng.standard_normal(y.shape))
    (y * k).sum().backward()

    parameters = bind(network, given, "parameters")
    values = network.forward(parameters, x.detach().numpy())
    np.testing.assert_allclose(values[-1], y.detach().numpy().ravel(), rtol=0, atol=1e-12)
    found = stored(network, network.backward(parameters, values, k.numpy()))
    assert list(found) == list(given)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(found[name], leaf.grad.numpy(), rtol=0, atol=1e-12)
    sent = network.output_gradients(parameters, values, k.numpy())[0]
    np.testing.assert_allclose(sent, x.grad.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_go_to_the_canonical_order_and_back(groups) -> None:
    network = ca.Network((4, 3, 3), [ca.ConvTranspose2d(6, (2, 3), groups=groups)])
    layer = network[1]
    W = np.random.default_rng(0).standard_normal(layer.stored_shape)
    assert W.shape == torch.nn.ConvTranspose2d(4, 6, (2, 3), groups=groups).weight.shape
    turned = layer.canonical(W)
    assert turned.shape == layer.weight_shape == (6, 4 // groups, 2, 3)
    np.testing.assert_array_equal(layer.stored(turned), W)
    several = np.stack([W, -W], axis=-1)
    np.testing.assert_array_equal(layer.canonical(several)[..., 1], -turned)


def test_spread_cuts_off_what_lies_outside() -> None:
    x = np.arange(1.0, 4.0)[None]
    np.testing.assert_array_equal(applied(Spread((2,), ((1, 0),)), x), [[0, 1, 0, 2, 0, 3]])
    np.testing.assert_array_equal(applied(Spread((2,), ((-1, -2),)), x), [[0, 2]])


@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 3, 4), (2, 2, 3, 2), (2, 2, 2, 2, 2)])
def test_a_scale_of_channels_is_a_depthwise_convolution(shape) -> None:
    layer = ca.ChannelScale().place(shape, "norm")
    rng = np.random.default_rng(0)
    gamma, x, k = rng.standard_normal(shape[0]), rng.standard_normal(shape), rng.standard_normal(shape)
    W, each = layer.canonical(gamma), gamma.reshape(-1, *(1,) * (len(shape) - 1))
    assert (layer.stored_shape, layer.groups, layer.filters) == ((shape[0],), shape[0], shape[0])
    np.testing.assert_allclose(trilinear.forward(layer, W, x), each * x, rtol=1e-15)
    np.testing.assert_allclose(trilinear.input_gradient(layer, W, k), each * k, rtol=1e-15)
    sums = (k * x).reshape(shape[0], -1).sum(axis=1)
    np.testing.assert_allclose(layer.stored(trilinear.weight_gradient(layer, k, x)), sums, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.ConvTranspose2d(0, 2), "ConvTranspose2d: filters must be a whole number of at least 1, got 0"),
        (lambda: ca.ConvTranspose2d(3, 2, groups=2), "ConvTranspose2d: filters must be a multiple of groups, got 3"),
        (lambda: ca.ConvTranspose2d(2, 2, padding=-1), "padding must be a whole number of at least 0, got -1"),
        (lambda: ca.ConvTranspose2d(2, 2, bias=2), "ConvTranspose2d: bias must be True or False, got 2"),
        (lambda: ca.Network((3, 4), [ca.ConvTranspose2d(2, 2)]), r"an input of shape \(channels, height, width\)"),
        (lambda: ca.Network((3, 4, 4), [ca.ConvTranspose2d(2, 2, groups=2)]), "3 input channels cannot be split"),
        (lambda: ca.Network((2, 4, 4), [ca.ConvTranspose2d(1, 1, padding=3)]), "larger than the padded input"),
        (lambda: ca.ConvTranspose2d(2, 2).place((2, 4, 4)), "stands for several layers; write Network"),
    ],
)
def test_what_no_transposed_convolution_can_have_is_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()
