"""The walk through the layers: the rules meet every layer once, in order, and PyTorch's values come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.layers import activations, trilinear
from constraint_algebra.networks.network import Network, chain_rule
from constraint_algebra.networks.walk import Rules, down, down_through, up

NET = Network(
    (2, 5, 4), [ca.Conv2d(3, 3, stride=2, bias=False), ca.Tanh(), ca.Flatten(), ca.Linear(4, bias=False), ca.ReLU()]
)
RNG = np.random.default_rng(5)
WEIGHTS = {name: RNG.normal(size=shape) for name, shape in NET.parameter_shapes.items()}
X = RNG.normal(size=NET.input_shape)

# Each rule notes the layer and its own kind.
NOTES = Rules[tuple[tuple[str, str], ...]](
    activation=lambda layer, seen: (*seen, (layer.name, "activation")),
    reshape=lambda layer, seen: (*seen, (layer.name, "reshape")),
    bilinear=lambda layer, seen: (*seen, (layer.name, "bilinear")),
)
KINDS = (("0", "bilinear"), ("1", "activation"), ("2", "reshape"), ("3", "bilinear"), ("4", "activation"))


def torch_values() -> list[torch.Tensor]:
    values = [torch.tensor(X[None], requires_grad=True)]
    W = {name: torch.tensor(weight) for name, weight in WEIGHTS.items()}
    values.append(torch.nn.functional.conv2d(values[-1], W["0.weight"], stride=2))
    values.append(values[-1].tanh())
    values.append(values[-1].flatten(1))
    values.append(values[-1] @ W["3.weight"].T)
    values.append(values[-1].relu())
    return values


def test_every_layer_meets_the_rule_of_its_kind_once_and_in_order() -> None:
    assert up(NET.layers, (), NOTES) == [KINDS[:n] for n in range(len(NET) + 1)]
    assert down(NET.layers, (), NOTES) == KINDS[::-1]
    assert down_through(NET.layers, (), NOTES) == [KINDS[::-1][:n] for n in range(len(NET), -1, -1)]
    assert (up((), 7, NOTES), down((), 7, NOTES)) == ([7], 7)


def test_numbers_go_up_as_in_pytorch() -> None:
    rules = Rules(
        activation=lambda layer, z: activations.apply(layer.activation, z),
        reshape=lambda layer, y: y.reshape(layer.output_shape),
        bilinear=lambda layer, x: trilinear.forward(layer, WEIGHTS[layer.weight_name], x),
    )
    for found, expected in zip(up(NET.layers, X, rules), torch_values(), strict=True):
        np.testing.assert_allclose(found, expected.detach().numpy()[0], rtol=1e-12, atol=1e-12)


def test_gradients_come_down_as_in_pytorch_one_or_several_at_once() -> None:
    expected = torch_values()
    several = RNG.normal(size=(*NET.output_shape, 3))
    rules = chain_rule(WEIGHTS, NET.forward(WEIGHTS, X))
    found = down_through(NET.layers, several, rules)
    for n in range(3):
        alone = down_through(NET.layers, several[..., n], rules)
        wanted = torch.autograd.grad(expected[-1], expected, torch.tensor(several[None, ..., n]), retain_graph=True)
        for together, single, gradient in zip(found, alone, wanted, strict=True):
            np.testing.assert_allclose(single, gradient.numpy()[0], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(together[..., n], single, rtol=1e-12, atol=1e-12)


def test_a_pass_without_a_rule_for_weights_stays_between_them() -> None:
    shapes = Rules(activation=lambda _, shape: shape, reshape=lambda layer, _: layer.input_shape)
    lower, upper = NET.bilinear
    assert down(NET.between(lower, upper), upper.input_shape, shapes) == lower.output_shape
    assert [NET.after(lower), NET.after(upper)] == [NET.between(lower, upper), NET.layers[4:]]
    with pytest.raises(AssertionError, match="met '3'"):
        down(NET.layers, NET.output_shape, shapes)
