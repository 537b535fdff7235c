"""Inputs below a max-pool from the pooled values, on real PyTorch gradients, winners unknown."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.beyond_rank.maxima import Maxima
from constraint_algebra.ground import Ground
from tests.beyond_rank.maxima_cases import interval
from tests.recursion.test_as_trained import judged

Array = np.ndarray


def digit(number: int, size: int = 28) -> tuple[Array, int]:
    """A digit of MNIST, every second pixel of its middle where it is to be small."""
    sample = ca.samples.load(f"mnist:{number}")
    image = np.asarray(sample.image, dtype=float)
    return (image if size == 28 else image[:, 2:26:2, 2:26:2]), int(sample.label)


def pooled_model(channels: int, filters: int, size: int, *, seed: int, taps: int = 5, dtype=torch.float64) -> nn.Module:
    """A convolution, ReLU, max-pool and a head that gives the pooled values away."""
    torch.manual_seed(seed)
    width = size // 2
    return nn.Sequential(
        nn.Conv2d(channels, filters, taps, padding=taps // 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(filters * width * width, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    ).to(dtype)


def reconstructed(model: nn.Module, x: Array, label: int, **options) -> ca.Reconstruction:
    dtype = next(model.parameters()).dtype
    network, parameters = ca.from_torch(model, x.shape)
    gradients = ca.torch_gradients(model, torch.tensor(x, dtype=dtype)[None], torch.tensor([label]))
    return ca.reconstruct(network, parameters, gradients, batch=1, **{"search": 60.0, **options})


@pytest.mark.parametrize(("dtype", "most", "bar"), [(torch.float64, 1e-10, 1e-8), (torch.float32, 2e-6, 2e-6)])
def test_a_point_is_proven_for_all_inputs(dtype: torch.dtype, most: float, bar: float) -> None:
    x, label = digit(7, 12)
    found = reconstructed(pooled_model(1, 16, 12, seed=7, dtype=dtype), x, label)
    assert found.determined.all()
    assert np.abs(found.input - x).max() < most
    assert (np.abs(found.input - x) <= 6 * found.error_bar + 1e-12).all()
    assert found.error_bar.max() < bar
    if dtype == torch.float64:
        assert found.status is ca.Status.GIVEN_RANGE
        assert (found.ground == Ground.RANGE).all()
        assert any("no room" in note and "unique over all inputs" in note for note in found.notes)


def test_of_standardised_inputs_the_range_is_another() -> None:
    x, label = digit(2, 12)
    mean, deviation = 0.1307, 0.3081
    model = pooled_model(1, 32, 12, seed=2)
    ends = -mean / deviation, (1 - mean) / deviation
    found = reconstructed(model, (x - mean) / deviation, label, valid_range=ends)
    assert found.determined.all()
    assert np.abs(found.input - (x - mean) / deviation).max() < 1e-8
    assert (found.ground == Ground.RANGE).any()


@pytest.mark.slow
def test_a_range_that_the_truth_is_not_in_proves_nothing() -> None:
    x, label = digit(7, 12)
    beyond = 3 * x - 1
    found = reconstructed(pooled_model(1, 16, 12, seed=7), beyond, label, search=5.0)
    assert (np.abs(found.input - beyond) < 1e-6)[found.determined].all()


@pytest.mark.slow
def test_few_filters_leave_room_and_winners_decide() -> None:
    """What the pooled values pin has no width by HiGHS; the rest rests on winners."""
    x, label = digit(0, 12)
    model = pooled_model(1, 8, 12, seed=0, taps=3)
    found = reconstructed(model, x, label)
    assert found.determined.all()
    assert np.abs(found.input - x).max() < 1e-8
    assert found.status is ca.Status.BY_WINNERS
    assert any("whoever won" in note for note in found.notes)
    pinned = np.flatnonzero(found.ground == Ground.RANGE)
    assert len(pinned) > 30
    problem = polytope(model, x)
    for value in pinned[::9].tolist():
        ends = interval(problem, value)
        assert ends is not None
        assert ends[1] - ends[0] < 1e-6
    room = [interval(problem, value) for value in np.flatnonzero(found.ground == Ground.WINNERS)[::20].tolist()]
    assert any(ends is not None and ends[1] - ends[0] > 1e-3 for ends in room)


def polytope(model: nn.Module, x: Array) -> Maxima:
    """The inequalities of a first convolution, by PyTorch."""
    conv = model[0]
    with torch.no_grad():
        v = nn.functional.max_pool2d(conv(torch.tensor(x)[None]).clamp(min=0), 2)[0].numpy().ravel()
        rows = nn.functional.conv2d(
            torch.eye(x.size, dtype=torch.float64).reshape(-1, *x.shape), conv.weight, padding=conv.padding
        )
    A = sp.csr_array(rows.reshape(x.size, -1).T.numpy())
    filters, height, width = rows.shape[1:]
    places = np.arange(A.shape[0]).reshape(filters, height // 2, 2, width // 2, 2).transpose(0, 1, 3, 2, 4)
    c = np.repeat(conv.bias.detach().numpy(), height * width)
    nothing, bounds = np.zeros(len(v)), (np.zeros(x.size), np.ones(x.size))
    return Maxima(A, c, places.reshape(-1, 4), v, nothing, v > 0, v == 0, *bounds)


@pytest.mark.slow
def test_what_would_take_too_long_is_not_begun() -> None:
    x = np.asarray(ca.samples.load("cifar10:0").image, dtype=float)
    found = reconstructed(pooled_model(3, 32, 32, seed=0), x, 0, search=2.0)
    assert not found.determined.all()
    assert any("longer than `search` allows" in note for note in found.notes)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_fedavgs_first_convolution_on_digits(number: int, dtype: torch.dtype, most: float) -> None:
    x, label = digit(number)
    found = reconstructed(pooled_model(1, 32, 28, seed=number, dtype=dtype), x, label)
    assert found.determined.all()
    assert np.abs(found.input - x).max() < most
    assert found.status is ca.Status.GIVEN_RANGE or dtype == torch.float32


@pytest.mark.slow
def test_lenets_first_convolution_on_digits() -> None:
    whole = 0
    for number in range(6):
        x, label = digit(number)
        found = reconstructed(pooled_model(1, 6, 28, seed=number), x, label)
        assert np.abs(found.input - x)[found.determined].max(initial=0) < 1e-8
        whole += bool(found.determined.all())
    assert whole >= 4


@pytest.mark.slow
def test_nothing_wrong_is_determined_in_many_small_networks() -> None:
    determined = proven = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        channels, size, filters = int(rng.integers(1, 3)), int(rng.choice([4, 6, 8])), int(rng.integers(1, 9))
        x = rng.random((channels, size, size))
        x[rng.random(x.shape) < rng.choice([0.0, 0.5, 0.9])] = 0.0
        found = reconstructed(
            pooled_model(channels, filters, size, seed=seed, taps=int(rng.choice([1, 3]))), x, int(rng.integers(10))
        )
        error = np.abs(found.input - x)[found.determined]
        assert (error <= 8 * found.error_bar[found.determined] + 1e-9).all(), seed
        determined += int(found.determined.all())
        proven += int((found.ground == Ground.RANGE).any())
    assert determined >= 10
    assert proven >= 40


def test_where_places_in_a_window_can_be_swapped_nothing_rests_on_winners() -> None:
    """A convolution of one tap makes the same of a window whose pixels change places."""
    rng = np.random.default_rng(118)
    x = rng.random((1, 8, 8)) * (rng.random((1, 8, 8)) < 0.5)
    found = reconstructed(pooled_model(1, 6, 8, seed=118, taps=1), x, 1, search=10.0)
    assert not (found.ground == Ground.WINNERS).any()
    assert (np.abs(found.input - x) < 1e-8)[found.determined].all()


def test_what_rounding_leaves_of_known_rows_is_no_equation() -> None:
    judged(1036)  # of a corner that no winner saw, rounding once told a value, wrong by 8 of its error bars
