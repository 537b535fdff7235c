"""Batch norm in evaluation mode: PyTorch's values and gradients; running statistics that cannot be are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind, stored


def given(network: ca.Network, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = network.parameter_shapes | network.buffer_shapes
    return {name: rng.uniform(0.2, 1.5, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 4, 5), (2, 3, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_values_and_gradients_are_those_of_pytorch(shape, affine) -> None:
    network = ca.Network(shape, {"norm": ca.BatchNorm(eps=1e-3, affine=affine)})
    arrays = given(network)
    p = {name: torch.tensor(a, requires_grad=name in network.parameter_shapes) for name, a in arrays.items()}
    x = torch.tensor(np.random.default_rng(1).standard_normal(shape), requires_grad=True)
    statistics = p["norm.running_mean"], p["norm.running_var"], p.get("norm.weight"), p.get("norm.bias")
    y = functional.batch_norm(x[None], *statistics, training=False, eps=1e-3)[0]
    k = torch.tensor(np.random.default_rng(2).standard_normal(shape))
    (y * k).sum().backward()
    bound = bind(network, arrays, "parameters")
    values = network.forward(bound, x.detach().numpy())
    np.testing.assert_allclose(values[-1], y.detach().numpy(), rtol=0, atol=1e-13)
    sent = network.output_gradients(bound, values, k.numpy())[0]
    np.testing.assert_allclose(sent, x.grad.numpy(), rtol=0, atol=1e-13)
    found = stored(network, network.backward(bound, values, k.numpy()))
    assert list(found) == ["norm.weight", "norm.bias"] * affine
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, p[name].grad.numpy(), rtol=0, atol=1e-12)


def test_it_stands_for_two_layers_under_pytorchs_names() -> None:
    network = ca.Network((3, 4, 4), {"body.norm": ca.BatchNorm(), "out": ca.ReLU()})
    assert [(layer.name, layer.kind) for layer in network][:2] == [
        ("body.norm.normalised", "Standardise"),
        ("body.norm", "ChannelScale"),
    ]
    assert network.parameter_shapes == {"body.norm.weight": (3,), "body.norm.bias": (3,)}
    assert network.buffer_shapes == {"body.norm.running_mean": (3,), "body.norm.running_var": (3,)}
    plain = ca.Network((3, 4, 4), {"norm": ca.BatchNorm(affine=False)})
    assert [(layer.name, layer.kind) for layer in plain] == [("norm", "Standardise")]
    assert list(plain.buffer_shapes) == ["norm.running_mean", "norm.running_var"]


def test_buffers_come_with_the_parameters_or_are_asked_for() -> None:
    network = ca.Network((2, 4), {"norm": ca.BatchNorm()})
    arrays = given(network) | {"norm.num_batches_tracked": np.array(7)}
    assert "norm.num_batches_tracked" not in bind(network, arrays, "parameters")
    del arrays["norm.running_var"]
    with pytest.raises(ca.ParameterError, match=r"'norm.running_var' of shape \(2,\) is missing; .* model.state_dict"):
        bind(network, arrays, "parameters")


@pytest.mark.parametrize("variance", [-1.0, -1e-5])
def test_variances_without_a_root_are_refused_by_name(variance) -> None:
    network = ca.Network((2, 4), {"norm": ca.BatchNorm()})
    arrays = given(network) | {"norm.running_var": np.array([1.0, variance])}
    with pytest.raises(ca.ParameterError, match=r"'norm.running_var' has -.*, and a variance needs to be positive"):
        bind(network, arrays, "parameters")
    assert bind(network, arrays | {"norm.running_var": np.zeros(2)}, "parameters")["norm.running_var"].max() == 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.BatchNorm(eps=-1), "eps must not be negative, got -1"),
        (lambda: ca.BatchNorm(eps=float("nan")), "eps must not be negative, got nan"),
        (lambda: ca.BatchNorm(eps="a"), "eps must be a number"),
        (lambda: ca.BatchNorm(affine=1), "affine must be True or False"),
        (lambda: ca.BatchNorm().place((2, 4)), "stands for several layers"),
        (lambda: ca.Standardise().maps((2, 4)), "its coefficients are buffers; use networks.operations"),
    ],
)
def test_what_no_batch_norm_can_have_is_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()
