"""Networks with max-pool: twins whose windows have other winners, and values that the pooled values leave no room."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from constraint_algebra.proofs.other_winners import inputs_with_other_winners


def model_of(taps: int, filters: int, size: int, *, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, filters, taps, padding=taps // 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(filters * (size // 2) ** 2, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
    ).double()


def digit(number: int) -> np.ndarray:
    return np.asarray(ca.samples.load(f"mnist:{number}").image, dtype=float)[:, 2:26:2, 2:26:2]


def gradients(model: nn.Module, x: np.ndarray) -> np.ndarray:
    loss = functional.cross_entropy(model(torch.tensor(x)[None]), torch.tensor([1]))
    return np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, list(model.parameters()))])


def winners(model: nn.Module, x: np.ndarray) -> np.ndarray:
    z = model[1](model[0](torch.tensor(x)[None]))
    return functional.max_pool2d(z, 2, return_indices=True)[1].numpy()


def test_pixels_that_no_neighbour_tells_apart_have_twins_with_other_winners() -> None:
    """A convolution of one tap does not see where in its window a pixel lies."""
    model, x = model_of(1, 7, 4, seed=3), np.random.default_rng(0).random((1, 4, 4))
    network, arrays = ca.from_torch(model, x.shape)
    bound = bind(network, arrays, "parameters")
    images = inputs_with_other_winners(network, bound, x, (0.0, 1.0), seed=0, deadline=time.monotonic() + 60)
    own = gradients(model, x)
    twins = [image for image, _ in images if np.abs(gradients(model, image) - own).max() < 1e-12]
    assert twins
    for image in twins:
        assert (winners(model, image) != winners(model, x)).any()
        assert np.abs(image - x).max() > 0.1


@pytest.mark.slow
def test_certify_shows_such_twins() -> None:
    model, x = model_of(1, 7, 4, seed=3), np.random.default_rng(0).random((1, 4, 4))
    found = ca.certify(model, x, 1, time_limit=60)
    assert any(one.twin.objective.startswith("other winners") for one in found.witnesses)
    assert found.counts["ambiguous"] >= 12
    assert "but for those with other winners" in found.ground


def test_candidates_have_the_same_pooled_values() -> None:
    model, x = model_of(3, 2, 8, seed=0), np.random.default_rng(1).random((1, 8, 8))
    network, arrays = ca.from_torch(model, x.shape)
    bound = bind(network, arrays, "parameters")
    pool = nn.Sequential(*model[:3])
    images = list(inputs_with_other_winners(network, bound, x, (0.0, 1.0), seed=0, deadline=time.monotonic() + 60))
    assert images
    for image, name in images:
        assert name == "2"
        with torch.no_grad():
            moved = (pool(torch.tensor(image)[None]) - pool(torch.tensor(x)[None])).abs().max()
        assert moved < 1e-7
        assert ((image >= 0) & (image <= 1)).all()
        assert (winners(model, image) != winners(model, x)).any()


@pytest.mark.slow
def test_values_that_pooled_values_pin_are_fixed_for_all_inputs() -> None:
    model, x = model_of(5, 16, 12, seed=7), digit(7)
    found = ca.certify(model, x, 1, time_limit=60)
    assert found.fixed.all()
    assert found.by_range.all()


@pytest.mark.slow
def test_what_they_leave_room_is_fixed_in_its_region_at_most() -> None:
    model, x = model_of(3, 8, 12, seed=0), digit(0)
    found = ca.certify(model, x, 1, time_limit=60)
    assert 0 < found.fixed.sum() < x.size
    assert (found.fixed == found.by_range).all()
