"""The gradients as a function of the input, against forward-over-reverse differentiation by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.regions.gradient_map import GradientMap

ACTIVATIONS = [
    ca.Identity(),
    ca.ReLU(),
    ca.LeakyReLU(0.2),
    ca.Hardtanh(-0.3, 0.4),
    ca.ReLU6(),
    ca.Sigmoid(),
    ca.Tanh(),
    ca.ELU(0.7),
    ca.SELU(),
    ca.Softplus(2.0),
    ca.Softsign(),
]


def networks(sigma):
    """Groups, strides, dilation, uneven padding; one and two axes; layers above the start and none; no activation."""
    two = [ca.Conv2d(4, 3, stride=2, padding=1, groups=2), sigma, ca.Conv2d(3, 2, bias=False), sigma, ca.Flatten()]
    one = [sigma, ca.Conv1d(4, 2, dilation=2, padding=((1, 2),)), sigma, ca.Conv1d(2, 1), ca.Flatten()]
    yield ca.Network((2, 5, 6), [*two, ca.Linear(4)])
    yield ca.Network((2, 6), [*one, ca.Linear(3), sigma, ca.Linear(2)])
    yield ca.Network((5,), [ca.Linear(4), sigma, ca.Linear(3)])


def case(network, seed):
    rng = np.random.default_rng(seed)
    parameters = {name: rng.uniform(-0.8, 0.8, shape) for name, shape in network.parameter_shapes.items()}
    x, k = rng.uniform(-1, 1, network.input_shape), rng.standard_normal(network.start.filters)
    return GradientMap(network, parameters, network.start, k), x


def by_torch(of_x: GradientMap, x):
    """The gradients of <k, output of start> and their Jacobian with respect to x, in the order of the parameters."""
    below = ca.Network(of_x.network.input_shape, of_x.layers, [layer.name for layer in of_x.layers])
    model = ca.to_torch(below)
    k = torch.tensor(of_x.k)

    def gradients(image):
        def value(weights):
            return (k * torch.func.functional_call(model, weights, (image[None],))[0].ravel()).sum()

        weights = {name: torch.tensor(of_x.parameters[name]) for name in below.parameter_shapes}
        found = torch.func.grad(value)(weights)
        return torch.cat([found[name].ravel() for name in below.parameter_shapes])

    image = torch.tensor(x)
    return gradients(image).numpy(), torch.func.jacfwd(gradients)(image).reshape(-1, x.size).numpy()


def close(found, expected):
    return found.shape == expected.shape and np.abs(found - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())


# PyTorch compiles its own rules on the first use, by a function that it calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("sigma", ACTIVATIONS, ids=lambda sigma: type(sigma).__name__)
def test_gradients_and_jacobian_are_those_of_pytorch(sigma) -> None:
    for seed, network in enumerate(networks(sigma)):
        of_x, x = case(network, seed)
        value, jacobian = by_torch(of_x, x)
        assert close(of_x.value(x), value)
        found = of_x.jacobian(x)
        assert close(found, jacobian)
        rng = np.random.default_rng(seed)
        rows, directions = rng.standard_normal(of_x.rows), rng.standard_normal((of_x.unknowns, 3))
        assert close(of_x.jvp(x, directions), jacobian @ directions)
        assert close(of_x.vjp(x, rows), jacobian.T @ rows)
        assert found.shape == (of_x.rows, of_x.unknowns)


@pytest.mark.parametrize("sigma", [ca.LeakyReLU(0.2), ca.Tanh()])
def test_a_map_of_pieces_is_linear_and_one_that_bends_is_not(sigma) -> None:
    of_x, x = case(next(networks(sigma)), 0)
    step = 1e-5 * np.random.default_rng(1).standard_normal(x.shape)
    straight = of_x.value(x) + of_x.jacobian(x) @ step.ravel()
    off = np.abs(of_x.value(x + step) - straight).max()
    assert of_x.linear == (off < 1e-14)


def test_rows_bear_the_names_of_the_layers_up_to_the_start() -> None:
    _, network, _ = networks(ca.Tanh())
    of_x, x = case(network, 0)
    assert list(of_x.shapes) == ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]
    by_name = of_x.by_name(of_x.value(x))
    assert {name: values.shape for name, values in by_name.items()} == of_x.shapes
    np.testing.assert_allclose(by_name["5.bias"], of_x.k)
    np.testing.assert_array_equal(of_x.flat(by_name), of_x.value(x))


@pytest.mark.parametrize("sigma", [ca.LeakyReLU(0.2), ca.Hardtanh(-0.9, 0.9)])
def test_a_given_pattern_goes_with_the_map_of_its_region(sigma) -> None:
    of_x, x = case(next(networks(sigma)), 0)
    outputs = of_x.network.forward(of_x.parameters, x)
    inside = isinstance(sigma, ca.LeakyReLU)
    slopes = {
        layer.index: np.where(y > 0, 1.0, 0.2) if inside else (np.abs(y) < 0.9).astype(float)
        for layer, y in zip(of_x.layers, outputs[1:], strict=False)
        if layer.is_activation
    }
    fixed = GradientMap(of_x.network, of_x.parameters, of_x.start, of_x.k, slopes)
    assert close(fixed.jacobian(x), of_x.jacobian(x))
    assert close(fixed.value(x), of_x.value(x)) == inside  # plateaus count as zero
    # Linear as far as one likes, where the map itself has other regions.
    assert close(fixed.value(x) + fixed.jacobian(x) @ (9 - x).ravel(), fixed.value(np.full_like(x, 9.0)))
    assert fixed.linear
