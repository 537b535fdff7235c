"""The way back through an activation, against PyTorch's own derivatives and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.layers.activations import apply
from constraint_algebra.recursion.estimates import Estimate, through_activation

SMOOTH = {
    "LeakyReLU": (ca.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)),
    "Sigmoid": (ca.Sigmoid(), torch.nn.Sigmoid()),
    "Tanh": (ca.Tanh(), torch.nn.Tanh()),
    "ELU": (ca.ELU(0.7), torch.nn.ELU(0.7)),
    "SELU": (ca.SELU(), torch.nn.SELU()),
    "Softplus": (ca.Softplus(2.0), torch.nn.Softplus(2.0)),
    "Softsign": (ca.Softsign(), torch.nn.Softsign()),
    "Identity": (ca.Identity(), torch.nn.Identity()),
}
CUT = {
    "ReLU": (ca.ReLU(), torch.nn.ReLU()),
    "Hardtanh": (ca.Hardtanh(-0.5, 0.8), torch.nn.Hardtanh(-0.5, 0.8)),
    "ReLU6": (ca.ReLU6(), torch.nn.ReLU6()),
}
ALL = SMOOTH | CUT
MEMBERS = 5


def back_by_torch(module, z, dy):
    """σ(z) and the gradient with respect to z."""
    tensor = torch.tensor(z, requires_grad=True)
    y = module(tensor)
    (dz,) = torch.autograd.grad(y, tensor, torch.tensor(dy))
    return y.detach().numpy(), dz.numpy()


def estimate(values, deviation=1e-12, seed=0, known=None):
    noise = deviation * np.random.default_rng(seed).standard_normal((*values.shape, MEMBERS))
    return Estimate(values, np.ones(values.shape, dtype=bool) if known is None else known, noise)


def draw(seed=0, n=200):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal(n), rng.standard_normal(n)


@pytest.mark.parametrize(("activation", "module"), ALL.values(), ids=ALL)
def test_values_are_those_of_pytorch(activation, module) -> None:
    z, dy = draw()
    y, dz = back_by_torch(module, z, dy)
    found_z, found_dz = through_activation(activation, estimate(y), estimate(dy))
    assert found_dz.known.all()
    np.testing.assert_allclose(found_dz.value, dz, rtol=1e-9, atol=1e-11)
    # z is known wherever a change of z changes y.
    np.testing.assert_array_equal(found_z.known, back_by_torch(module, z, np.ones_like(z))[1] != 0)
    np.testing.assert_allclose(found_z.value[found_z.known], z[found_z.known], rtol=1e-8)
    # Elsewhere a stand-in has the same output.
    np.testing.assert_array_equal(apply(activation, found_z.value)[~found_z.known], y[~found_z.known])


@pytest.mark.parametrize(("activation", "module"), SMOOTH.values(), ids=SMOOTH)
def test_perturbations_are_finite_differences(activation, module) -> None:
    """Move y and dy a little, go back exactly, and compare with the linear perturbations."""
    z, dy = draw(1)
    step = 1e-6
    y, dz = back_by_torch(module, z, dy)
    direction_z, direction_dy = draw(2)
    moved_y, moved_dz = back_by_torch(module, z + step * direction_z, dy + step * direction_dy)
    y_estimate = Estimate(y, np.ones_like(y, dtype=bool), (moved_y - y)[:, None])
    dy_estimate = Estimate(dy, np.ones_like(y, dtype=bool), step * direction_dy[:, None])
    found_z, found_dz = through_activation(activation, y_estimate, dy_estimate)
    inside = np.abs(z) > 1e-4  # away from the kink
    np.testing.assert_allclose(found_z.perturbations[inside, 0] / step, direction_z[inside], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        found_dz.perturbations[inside, 0] / step, ((moved_dz - dz) / step)[inside], rtol=1e-3, atol=1e-4
    )


def test_rounding_is_snapped_to_the_plateau_and_signals_are_not() -> None:
    y = np.array([0.0, 3e-13, -2e-12, 1e-6, 0.4])
    z, dz = through_activation(ca.ReLU(), estimate(y), estimate(np.ones(5)))
    np.testing.assert_array_equal(z.known, [False, False, False, True, True])
    np.testing.assert_array_equal(dz.value, [0, 0, 0, 1, 1])


def test_knowledge_is_per_value() -> None:
    y = estimate(np.array([1.0, 1.0, np.nan, np.nan]), known=np.array([True, True, False, False]))
    dy = estimate(np.array([2.0, 2.0, 0.0, 3.0]), 0.0, known=np.array([True, False, True, True]))
    z, dz = through_activation(ca.ReLU(), y, dy)
    np.testing.assert_array_equal(z.known, [True, True, False, False])
    # The third is zero whatever y may be.
    np.testing.assert_array_equal(dz.known, [True, False, True, False])
    np.testing.assert_array_equal(dz.value[dz.known], [2, 0])
    assert (dz.perturbations[2] == 0).all()


def test_exact_values_without_noise_do_not_overflow() -> None:
    y = estimate(np.array([0.0, 5.0, 5.0]), 0.0, known=np.array([True, True, False]))
    z, dz = through_activation(ca.ReLU(), y, estimate(np.ones(3)))
    np.testing.assert_array_equal(z.known, [False, True, False])
    np.testing.assert_array_equal(dz.known, [True, True, False])


def test_unknown_and_filled() -> None:
    nothing = Estimate.unknown((2, 3), MEMBERS)
    assert not nothing.known.any()
    assert (nothing.filled() == 0).all()
    some = Estimate(np.array([[1.0, 2.0]]), np.array([[True, False]]), np.array([[[3.0, -3.0], [1.0, 1.0]]]))
    np.testing.assert_array_equal(some.filled(), [[1.0, 0.0]])
    np.testing.assert_array_equal(some.deviation, [[3.0, 1.0]])
    assert some.reshape((2,)).perturbations.shape == (2, 2)
    np.testing.assert_array_equal(some.reshape((2,)).deviation, [3.0, 1.0])
