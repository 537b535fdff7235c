"""Inputs near the true one brought to it, for a chain and for models that nothing here reads; others never accepted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.pytorch import polish as module

# PyTorch compiles its own rules on the first use, by a function that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Block(nn.Module):
    """A residual connection around a layer norm and GELU: no tracer here reads it."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3, padding=1, stride=2), nn.LayerNorm([6, 3, 3])
        self.second, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(54, classes)

    def forward(self, x):
        h = self.first(x)
        h = h + self.second(nn.functional.gelu(self.norm(h)))
        return self.head(h.flatten(1))


def chain():
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 2, 1), nn.Flatten(), nn.Linear(18, 5))


MODELS = {"block": Block, "chain": chain}


def step(name: str, dtype=torch.float64):
    torch.manual_seed(3)
    model = MODELS[name]().to(dtype)
    image = np.random.default_rng(4).random((1, 5, 5))
    return model, image, ca.torch_gradients(model, image, 2)


@pytest.mark.parametrize("off", [1e-3, 0.05])
@pytest.mark.parametrize("name", MODELS)
def test_a_picture_near_the_true_one_becomes_it(name: str, off: float) -> None:
    model, image, gradients = step(name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    start = image + off * np.random.default_rng(0).standard_normal(image.shape)
    result = ca.polish(model, start, gradients)
    assert result.status is ca.Status.LOCAL
    assert result.determined.all()
    assert result.label == 2
    assert np.abs(result.input - image).max() < 1e-12
    assert (np.abs(result.input - image) < 10 * result.error_bar.max()).all()
    assert max(result.discrepancy.values()) < 1e-12
    assert "rank 25 of 25" in result.notes[0]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_gives_error_bars_that_hold(name: str) -> None:
    model, image, gradients = step(name, torch.float32)
    result = ca.polish(model, image + 1e-3, gradients)
    assert result.status is ca.Status.LOCAL
    error = np.abs(result.input - image)
    assert 1e-9 < error.max() < 1e-3
    assert (error < 5 * result.error_bar).all()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_no_input_and_starts_that_lead_nowhere_are_not_accepted(name: str) -> None:
    model, image, gradients = step(name)
    other = ca.torch_gradients(model, image.transpose(0, 2, 1).copy(), 2)
    mixed = {n: (other if "0" in n or "first" in n else gradients)[n] for n in gradients}
    result = ca.polish(model, image, mixed)
    assert result.status is ca.Status.UNDECIDED
    assert not result.determined.any()
    assert np.isfinite(result.guess).all()
    assert np.isinf(result.error_bar).all()
    wrong = 0
    for seed in range(6):
        far = np.random.default_rng(seed).uniform(-20, 20, image.shape)
        found = ca.polish(model, far, gradients)
        if found.status is ca.Status.LOCAL:
            wrong += np.abs(found.input - image).max() > 1e-9
        else:
            assert found.status is ca.Status.UNDECIDED
    assert wrong == 0


def test_what_the_gradients_do_not_determine_is_not_accepted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 8, 2, 2), nn.Conv1d(8, 1, 1), nn.GELU(), nn.Flatten(), nn.Linear(6, 10)).double()
    model[2] = nn.Identity()
    image = np.random.default_rng(0).random((1, 12))
    assert ca.polish(model, image, ca.torch_gradients(model, image, 1)).status is ca.Status.UNDECIDED
    kept = nn.Sequential(Flat(), nn.LayerNorm(2), nn.Linear(2, 3)).double()  # its mean and its scale are lost
    image = np.array([[0.2, 0.7]])
    assert ca.polish(kept, image, ca.torch_gradients(kept, image, 1)).status is ca.Status.UNDECIDED


class Flat(nn.Module):
    """Everything in one axis, as no module of PyTorch's that is read here."""

    def forward(self, x):
        return x.flatten(1)


def test_too_large_for_a_matrix_it_comes_near_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(module, "DENSE", 100)
    model, image, gradients = step("block")
    result = ca.polish(model, image + 1e-3, gradients)
    assert result.status is ca.Status.UNDECIDED
    assert "was not looked at" in result.notes[0]
    assert np.abs(result.guess - image).max() < 1e-9


def test_the_class_follows_from_the_gradients_or_is_asked_for() -> None:
    torch.manual_seed(0)
    model = Block(2).double()
    image = np.random.default_rng(4).random((1, 5, 5))
    square = lambda output, target: ((output - target) ** 2).sum()  # noqa: E731
    wanted = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    gradients = ca.torch_gradients(model, image, wanted, square)
    with pytest.raises(ca.ParameterError, match="pass target="):
        ca.polish(model, image, gradients, loss=square)
    found = ca.polish(model, image + 1e-3, gradients, loss=square, target=wanted)
    assert found.status is ca.Status.LOCAL
    assert found.label is None
    assert np.abs(found.input - image).max() < 1e-12


def test_bad_starts_and_times_are_refused() -> None:
    model, image, gradients = step("block")
    with pytest.raises(ca.NonFiniteError, match="start"):
        ca.polish(model, image * np.nan, gradients)
    with pytest.raises(ca.ArgumentRangeError, match="time_limit"):
        ca.polish(model, image, gradients, time_limit=-1.0)
    with pytest.raises(ca.ShapeError, match="does not take"):
        ca.polish(model, image[0, 0], gradients)
    with pytest.raises(ca.ParameterError, match="is missing"):
        ca.polish(model, image, {"head.bias": gradients["head.bias"]})


def test_a_class_that_the_gradients_do_not_have_is_refused() -> None:
    network = ca.Network((3,), [ca.Linear(4), ca.Tanh(), ca.Linear(3)])
    model, image = ca.to_torch(network, seed=0, dtype="float64"), np.array([0.2, 0.5, 0.7])
    gradients = ca.torch_gradients(model, image, 1)
    assert ca.polish(model, image + 1e-3, gradients, target=1).status is ca.Status.LOCAL
    for wrong in (0, 7):
        with pytest.raises(ca.ParameterError, match="those of class 1"):
            ca.polish(model, image + 1e-3, gradients, target=wrong)
