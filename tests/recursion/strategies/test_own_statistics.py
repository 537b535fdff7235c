"""Batch norm in training mode whose buffers are shared: what activations hide is found by iteration, and judged.

Real gradients of PyTorch; the oracle of what is unique nearby is the Jacobian by automatic differentiation.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from tests.recursion.normalised_models import determined, model, step

EXACT = 1e-10
BARS = {"float32": (torch.float32, 0.0, 1e-4), "noise": (torch.float64, 1e-6, 1e-3)}


def test_what_a_relu_hides_is_found_where_weight_rows_alone_do_not_suffice() -> None:
    s = step(model(nn.ReLU, (2, 5, 20), 7), 7)
    result = s.reconstruct()
    hidden = next(layer for layer in result.layers if layer.name == "3")
    assert hidden.weight_rows < hidden.unknowns == hidden.determined
    assert result.status is ca.Status.LOCAL
    assert np.abs(result.input - s.image).max() < EXACT
    assert (result.ground == ca.Ground.NEIGHBOURHOOD).all()
    assert max(result.discrepancy.values()) < EXACT
    assert any("found by iteration" in note and "rounds" in note for note in result.notes)


def test_it_is_solved_at_once_where_all_normalised_values_are_known() -> None:
    s = step(model(lambda: nn.LeakyReLU(0.2), (3, 8, 24), 6, bias=True), 6)
    result = s.reconstruct(search=0.0)
    assert result.status is ca.Status.DETERMINED
    assert np.abs(result.input - s.image).max() < EXACT
    assert (result.ground == ca.Ground.EQUATIONS).all()
    assert not any("iteration" in note for note in result.notes)


@pytest.mark.parametrize("case", BARS.values(), ids=BARS)
def test_error_bars_hold(case) -> None:
    dtype, noise, largest = case
    s = step(model(nn.ReLU, (2, 6, 24), 5), 5, dtype=dtype, noise=noise)
    result = s.reconstruct(noise=noise)
    assert result.determined.all()
    error = np.abs(result.input - s.image)
    assert error.max() < largest
    assert np.mean(error <= result.error_bar) > 0.5
    assert (error <= 8 * result.error_bar).all()


def test_bfloat16_claims_nothing_that_is_wrong() -> None:
    s = step(model(nn.ReLU, (1, 4, 24), 4), 4, dtype=torch.bfloat16)
    result = s.reconstruct()
    error = np.abs(result.input - s.image)[result.determined]
    assert (error <= 8 * result.error_bar[result.determined]).all()


def test_too_few_equations_are_left_open() -> None:
    made = model(nn.ReLU, (3, 1, 2), 4)
    s = step(made, 4)
    result = s.reconstruct()
    assert not determined(made, s.image).all()
    assert not (result.determined & ~determined(made, s.image)).any()


def random_case(seed: int) -> tuple[nn.Sequential, int]:
    rng = np.random.default_rng(seed)
    act = (nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.Sigmoid)[rng.integers(4)]
    size = int(rng.integers(4, 8))
    widths = int(rng.integers(1, 4)), int(rng.integers(2, 10)), int(rng.integers(4, 40))
    return model(act, widths, size, bias=bool(rng.integers(2)), seed=seed), size


def assert_nothing_wrong(seed: int) -> None:
    """What counts as known is right, and unique nearby as the Jacobian says."""
    made, size = random_case(seed)
    s = step(made, size, seed=seed)
    result = s.reconstruct()
    assert result.status is not ca.Status.INCONSISTENT
    error = np.abs(result.input - s.image)[result.determined]
    assert error.max(initial=0.0) < 1e-6
    assert (error <= 10 * result.error_bar[result.determined] + 1e-13).all()
    assert not (result.determined & ~determined(made, s.image)).any()


@pytest.mark.parametrize("seed", [11])
def test_no_wrong_value_in_a_few_random_networks(seed: int) -> None:
    assert_nothing_wrong(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(150))
def test_no_wrong_value_in_many_random_networks(seed: int) -> None:
    assert_nothing_wrong(seed)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 12])
def test_wide_networks_come_back(size: int) -> None:
    s = step(model(nn.ReLU, (3, 16, 40), size), size)
    result = s.reconstruct()
    assert result.determined.all()
    assert np.abs(result.input - s.image).max() < EXACT
