"""From gradients alone to the first layer's equations: what is said to be known is true, within its error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.pytorch.gradients import to_tensor
from tests.twin_cases import case, random_case


def truth(c) -> tuple[np.ndarray, np.ndarray]:
    """Output and output gradient of the first module with a weight, by automatic differentiation."""
    x, kept = to_tensor(c.image)[None], {}
    for module in c.model:
        x = module(x)
        if not kept and hasattr(module, "weight"):
            kept["z"] = x = x.detach().requires_grad_()
    torch.nn.functional.cross_entropy(x.reshape(1, -1), torch.tensor([c.label])).backward()
    return kept["z"].detach().numpy()[0], kept["z"].grad.numpy()[0]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_what_is_known_is_true(seed: int, dtype) -> None:
    c = random_case(seed)
    kind = np.float32 if dtype == torch.float32 else np.float64
    parameters = {name: values.astype(kind) for name, values in c.parameters.items()}
    first = ca.first_layer_equations(c.network, parameters, c.gradients(dtype=dtype))
    z, k = truth(c)
    bias = c.parameters["0.bias"].reshape(-1, 1, 1)
    known, passing = first.output_gradient_known, np.isfinite(first.output)
    slack = 1e-6 if kind == np.float32 else 1e-14  # the float32 client's own z and k are not those of float64
    assert (np.abs(first.output_gradient - k) <= first.output_gradient_error + slack)[known].all()
    assert (np.abs(first.output - (z - bias)) <= first.output_error + slack)[passing].all()
    cut = first.side != 0
    assert (first.side * (z - bias - first.edge) <= first.output_error + slack)[cut].all()
    assert not (cut & passing).any()


def test_a_single_layer_has_gradient_equations_alone() -> None:
    net = ca.Network((1, 2, 3), [ca.Flatten(), ca.Linear(3)])
    c = case(net, np.random.default_rng(0).random((1, 2, 3)))
    first = ca.first_layer_equations(net, c.parameters, c.gradients())
    assert first.output_gradient_known.all()
    assert np.isnan(first.output).all()
    assert (first.side == 0).all()


def test_a_head_without_bias_gives_its_output_gradient() -> None:
    layers = [ca.Conv2d(3, 2), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(4, bias=False)]
    c = case(ca.Network((1, 4, 4), layers), np.random.default_rng(0).random((1, 4, 4)))
    first = ca.first_layer_equations(c.network, c.parameters, c.gradients())
    np.testing.assert_allclose(first.output_gradient, truth(c)[1], atol=1e-9)
    assert first.output_gradient_known.all()


def test_an_activation_first_is_refused() -> None:
    net = ca.Network((3,), [ca.Tanh(), ca.Linear(2)])
    c = case(net, np.zeros(3))
    with pytest.raises(ca.UnsupportedLayerError, match="bends the set"):
        ca.first_layer_equations(net, c.parameters, c.gradients())


def test_an_output_that_only_seems_cut_off_is_found_out_by_its_bias_equation() -> None:
    """It passes 3e-8, below the noise that float32 leaves above; taken for a zero, its k would be wrong by far."""
    layers = [ca.Conv2d(1, 1), ca.ReLU(), ca.Conv2d(3, 2), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(4)]
    c = case(ca.Network((1, 4, 4), layers), np.full((1, 4, 4), 0.75))
    c.image[0, 1, 1] = 0.5
    with torch.no_grad():
        c.model[0].weight[:] = 1.0
        c.model[0].bias[:] = -0.5 + 2.0**-25
    parameters = {name: values.astype(np.float32) for name, values in c.parameters.items()}
    first = ca.first_layer_equations(c.network, parameters, c.gradients(dtype=torch.float32))
    z, k = truth(c)
    assert 0 < z[0, 1, 1] < 1e-7
    assert first.side[0, 1, 1] == 1  # it does seem cut off
    wrong = np.abs(first.output_gradient - k) > first.output_gradient_error + 1e-6
    assert wrong.any()
    assert not (wrong & first.output_gradient_known).any()
