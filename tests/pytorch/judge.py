"""What a model and the network read from it must agree in; PyTorch's autograd in float64 is the judge."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.networks.network import bind, canonical, stored
from constraint_algebra.notes import collected
from constraint_algebra.pytorch.gradients import load_parameters


class Forward(nn.Module):
    """A model made of submodules and a function of itself and the input."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def read(model: nn.Module, shape: tuple[int, ...]) -> tuple[ca.Network, dict[str, np.ndarray]]:
    """What `from_torch` reads, its remarks left aside."""
    with collected():
        return ca.from_torch(model, shape)


def by_autograd(model: nn.Module, x: np.ndarray, cotangent: np.ndarray, loss=None):
    """Output, gradients of all parameters by name, and gradient at the input, for a cotangent of the output."""
    image = torch.tensor(x[None], requires_grad=True)
    output = model(image)
    output = output if isinstance(output, torch.Tensor) else output[0]
    value = loss(output) if loss is not None else (output.reshape(-1) * torch.from_numpy(cotangent.ravel())).sum()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, [image, *named.values()], allow_unused=True)
    gradients = {name: g.numpy() for name, g in zip(named, found[1:], strict=True) if g is not None}
    return output.detach().numpy().ravel(), gradients, found[0].numpy()[0]


def agree(model: nn.Module, shape: tuple[int, ...], seed: int = 0, atol: float = 1e-10) -> ca.Network:
    """Check the network of a model against the model, and the model made of that network against both."""
    model = model.double().eval()
    network, state = read(model, shape)
    rng = np.random.default_rng(seed)
    x, cotangent = rng.uniform(-1, 1, shape), rng.standard_normal(network.output_shape)
    output, gradients, at_input = by_autograd(model, x, cotangent)
    parameters = bind(network, state, "parameters")
    values = network.forward(parameters, x)
    np.testing.assert_allclose(values[-1].ravel(), output, rtol=0, atol=atol)
    found = stored(network, network.backward(parameters, values, cotangent))
    assert set(found) == set(gradients) == set(network.parameter_shapes)
    for name, expected in gradients.items():
        assert found[name].shape == network.parameter_shapes[name]
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=atol * (1 + np.abs(expected).max()))
    np.testing.assert_allclose(network.output_gradients(parameters, values, cotangent)[0], at_input, rtol=0, atol=atol)
    _back(network, state, x, cotangent, output, gradients, atol)
    return network


def _back(network, state, x, cotangent, output, gradients, atol) -> None:
    """Check the model that `to_torch` makes of a network."""
    twin = ca.to_torch(network)
    load_parameters(twin, state)
    again, parameters = read(twin, network.input_shape)
    assert again == network
    assert {name: a.shape for name, a in parameters.items()} == {name: a.shape for name, a in state.items()}
    other, others, _ = by_autograd(twin, x, cotangent)
    np.testing.assert_allclose(other, output, rtol=0, atol=atol)
    assert set(others) == set(gradients)
    for name, expected in gradients.items():
        np.testing.assert_allclose(others[name], expected, rtol=0, atol=atol * (1 + np.abs(expected).max()))


__all__ = ["Forward", "agree", "bind", "by_autograd", "canonical", "read", "stored"]
