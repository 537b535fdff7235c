"""What either branch of an activation would mean, against finite differences and PyTorch's derivatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.numerics.dense_least_squares import Reduced
from constraint_algebra.recursion.branching import Branching, Options, branching
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.strategies.branches import ByBranches


@pytest.fixture
def known(monkeypatch) -> tuple[GraphKnowledge, Branching, np.ndarray]:
    """What is known of a network before any branch is, and the true z."""
    held = []
    monkeypatch.setattr(ByBranches, "learn", lambda _, knows, *rest: bool(held.append((knows, rest))))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(72, 4)).double()
    x = 3 * torch.randn(1, 1, 8, 8, dtype=torch.float64)
    network, parameters = ca.from_torch(model, (1, 8, 8))
    ca.reconstruct(network, parameters, ca.torch_gradients(model, x[0], 1), valid_range=(-9, 9))
    knows, _ = held[0]
    at = branching(network, network.layers[0])
    assert at is not None
    return knows, at, model[0](x)[0].detach().numpy()


def with_output(knows: GraphKnowledge, at: Branching, y: np.ndarray, moved: np.ndarray) -> Options:
    """Options of another output, with perturbations that are all alike."""
    trial, number = knows.copied(), at.activation.number
    own = trial.values[number]
    trial.values[number] = Estimate(y, own.known, np.repeat(moved[..., None], own.perturbations.shape[-1], axis=-1))
    k = trial.gradients[number]
    trial.gradients[number] = replace(k, perturbations=np.zeros_like(k.perturbations))
    options = Options(trial, at)
    options.stored = np.zeros_like(options.stored)
    return options


def test_each_branch_gives_the_z_and_the_derivative_of_pytorch(known) -> None:
    knows, at, z = known
    options = Options(knows, at)
    upper = z > options.branches.minimum
    found, k = options.taken(upper, np.zeros(z.shape, dtype=bool))
    assert options.asked.sum() > 20
    assert (~upper)[options.choices].sum() > 5
    assert np.array_equal(options.nearer(z)[options.choices], upper[options.choices])
    np.testing.assert_allclose(found.value[found.known], z[found.known], atol=1e-10)
    tensor = torch.tensor(z, requires_grad=True)
    (slope,) = torch.autograd.grad(nn.functional.silu(tensor).sum(), tensor)
    dy = knows.gradients[at.activation.number].value
    np.testing.assert_allclose(k.value[found.known], (dy * slope.numpy())[found.known], rtol=1e-8)


def test_noise_of_an_output_moves_z_and_k_as_finite_differences_do(known) -> None:
    knows, at, z = known
    y, step = knows.values[at.activation.number].value, 1e-7
    direction = step * np.random.default_rng(0).standard_normal(y.shape)
    here, there = with_output(knows, at, y, direction), with_output(knows, at, y + direction, direction)
    upper = z > here.branches.minimum
    none = np.zeros(z.shape, dtype=bool)
    (z0, k0), (z1, k1) = here.taken(upper, none), there.taken(upper, none)
    clear = z0.known & (np.abs(z - here.branches.minimum) > 0.05)
    assert clear.sum() > 20
    for before, after in ((z0, z1), (k0, k1)):
        moved = (after.value - before.value)[clear] / step
        np.testing.assert_allclose(before.perturbations[clear][:, 0] / step, moved, rtol=1e-3, atol=1e-5)


def test_next_to_the_minimum_and_at_zero_the_branch_says_less(known) -> None:
    knows, at, _ = known
    y, four = knows.values[at.activation.number].value.copy(), np.flatnonzero(~knows.values[at.number].known)[:4]
    y.flat[four] = at.branches.lowest + 1e-9, 1e-9, -1e-9, -0.1
    options = with_output(knows, at, y, np.full(y.shape, 1e-8))
    asked = options.asked.ravel()[four]
    assert asked.all()
    assert options.near.ravel()[four].tolist() == [True, False, False, False]
    assert options.far.ravel()[four].tolist() == [False, True, True, False]
    found, k = options.taken(np.zeros(y.shape, dtype=bool), np.zeros(y.shape, dtype=bool))
    assert found.known.ravel()[four].tolist() == [False, False, False, True]
    assert (k.value.ravel()[four[:3]] == 0).all()
    dy = np.abs(options.dy.value.ravel()[four[:3]])
    slope = np.abs(at.branches.derivative(np.array([at.branches.minimum + 1e-4, -20.0, -20.0])))
    assert (k.deviation.ravel()[four[:3]] > 0.3 * dy * slope).all()


def test_an_entry_left_open_makes_no_equation(known) -> None:
    knows, at, z = known
    options = Options(knows, at)
    every = np.ones(z.shape, dtype=bool)
    found, k = options.taken(every, every)
    assert not found.known.any()
    assert not k.known[options.dy.value != 0].any()


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("rank", [3, 5])
def test_leverages_are_the_diagonal_of_the_projection_onto_the_columns(shape, rank) -> None:
    rng = np.random.default_rng(0)
    M = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    expected = np.diag(M @ np.linalg.pinv(M, rcond=1e-10))
    np.testing.assert_allclose(Reduced(M.copy(), 1e-9).leverages(M), expected, atol=1e-9)
