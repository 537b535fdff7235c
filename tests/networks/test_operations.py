"""Each kind of operation by itself: tangents and cotangents are adjoint, and those of the function that it computes."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.networks import operations
from constraint_algebra.networks.network import bind

SHAPE = (4, 6, 6)
KINDS = {
    "Add": {"a": ca.Conv2d(4, 1), "it": (ca.Add(), "a", "input", "a")},
    "Subtract": {"a": ca.Conv2d(4, 1), "it": (ca.Subtract(), "input", "a")},
    "Add, broadcast": {"a": ca.AdaptiveAvgPool2d(1), "it": (ca.Add(), "input", "a")},
    "Concatenate": {"a": ca.Conv2d(3, 1), "it": (ca.Concatenate(), "a", "input")},
    "Concatenate, axis 1": {"a": ca.Conv2d(4, 1), "it": (ca.Concatenate(1), "a", "input")},
    "AvgPool2d": {"it": ca.AvgPool2d(3, stride=2, padding=1, ceil_mode=True)},
    "AdaptiveAvgPool2d": {"it": ca.AdaptiveAvgPool2d((4, 5))},
    "Mean": {"it": ca.Mean((1, 2), keepdims=True)},
    "Reshape": {"it": ca.Reshape((2, -1, 3))},
    "Permute": {"it": ca.Permute((2, 0, 1))},
    "Pad, zeros": {"it": ca.Pad(((1, 2), (-1, 3)), value=0.5)},
    "Pad, reflect": {"it": ca.Pad((2, 1), mode="reflect")},
    "Pad, circular": {"it": ca.Pad((2, 1), mode="circular")},
    "Slice": {"it": ca.Slice(((0, 4, 2), (None, None, -1)))},
    "PixelShuffle": {"it": ca.PixelShuffle(2)},
    "PixelUnshuffle": {"it": ca.PixelUnshuffle(3)},
    "Upsample": {"it": ca.Upsample(2)},
    "Scale": {"it": ca.Scale((1.0, -2.0, 0.5, 0.0), 0.3)},
    "Normalise": {"it": ca.Normalise(0.5, 0.25)},
    "Flatten": {"it": ca.Flatten()},
    "BatchNorm": {"it": ca.BatchNorm()},
    "Conv2d": {"it": ca.Conv2d(6, 3, stride=2, padding=1, groups=2)},
    "ConvTranspose2d": {"it": ca.ConvTranspose2d(6, 3, stride=2, padding=1, output_padding=1, groups=2)},
    "PReLU": {"it": ca.PReLU(4)},
    "PReLU, one slope": {"it": ca.PReLU()},
    "Tanh": {"it": ca.Tanh()},
    "MaxPool2d": {"it": ca.MaxPool2d(3, stride=2, padding=1)},
    "AdaptiveMaxPool2d": {"it": ca.AdaptiveMaxPool2d((4, 3))},
    "Maxout": {"it": ca.Maxout(2)},
}


def values(network: ca.Network) -> tuple[dict[str, FloatArray], list[FloatArray], operations.Pattern]:
    rng = np.random.default_rng(0)
    shapes = network.parameter_shapes | network.buffer_shapes
    parameters = bind(network, {name: rng.uniform(0.2, 1.0, shape) for name, shape in shapes.items()}, "parameters")
    found = network.forward(parameters, rng.standard_normal(network.input_shape))
    return parameters, found, operations.pattern(network, parameters, found)


@pytest.mark.parametrize("layers", KINDS.values(), ids=KINDS)
def test_cotangents_are_the_adjoint_of_tangents(layers) -> None:
    network = ca.Network(SHAPE, layers)
    parameters, _, at = values(network)
    rng = np.random.default_rng(1)
    d, k = rng.standard_normal((*SHAPE, 3)), rng.standard_normal((*network.output_shape, 2))
    up = operations.rise(network, parameters, at, d)[-1]
    down = operations.fall(network, parameters, at, k)[0]
    assert up.shape == (*network.output_shape, 3)
    assert down.shape == (*SHAPE, 2)
    inner = up.reshape(-1, 3).T @ k.reshape(-1, 2)
    np.testing.assert_allclose(d.reshape(-1, 3).T @ down.reshape(-1, 2), inner, rtol=0, atol=1e-11)
    alone = operations.fall(network, parameters, at, k[..., 1])[0]
    np.testing.assert_allclose(alone, down[..., 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", KINDS.values(), ids=KINDS)
def test_tangents_are_differences_of_values(layers) -> None:
    network = ca.Network(SHAPE, layers)
    parameters, found, at = values(network)
    d = np.random.default_rng(2).standard_normal(SHAPE)
    step = 1e-6
    forth, back = (network.forward(parameters, found[0] + sign * step * d)[-1] for sign in (1, -1))
    slope = operations.rise(network, parameters, at, d[..., None])[-1][..., 0]
    np.testing.assert_allclose((forth - back) / (2 * step), slope, rtol=0, atol=1e-8)


def test_gradients_of_all_that_read_a_value_add_up_and_what_nothing_reads_has_none() -> None:
    network = ca.Network((3,), {"a": ca.Linear(3), "sum": (ca.Add(), "a", "input", "input")})
    parameters, _, at = values(network)
    k = np.array([1.0, 2.0, 3.0])
    sent = operations.fall(network, parameters, at, k)
    np.testing.assert_allclose(sent[0], parameters["a.weight"].T @ k + 2 * k, rtol=1e-14)
    # The layers below a value that the rest does not reach.
    lower = operations.fall(network.layers[:1], parameters, at, k)
    np.testing.assert_allclose(lower[0], parameters["a.weight"].T @ k, rtol=1e-14)


def test_the_gradient_of_slopes_is_that_of_pytorch() -> None:
    import torch

    rng = np.random.default_rng(3)
    z, k = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 5))
    for count in (1, 3):
        network = ca.Network((3, 4, 5), {"act": ca.PReLU(count)})
        slopes = torch.tensor(rng.uniform(-0.5, 0.5, count), requires_grad=True)
        (torch.nn.functional.prelu(torch.tensor(z)[None], slopes)[0] * torch.tensor(k)).sum().backward()
        given = bind(network, {"act.weight": slopes.detach().numpy()}, "parameters")
        found = network.backward(given, network.forward(given, z), k)
        np.testing.assert_allclose(found["act.weight"], slopes.grad.numpy(), rtol=0, atol=1e-12)
