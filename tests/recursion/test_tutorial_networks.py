"""Networks with max-pool as tutorials write them: the whole digit, from PyTorch's gradients and nothing else.

The oracle is the digit. All of this takes minutes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca

pytestmark = pytest.mark.slow
EXACT = 1e-8
DIGITS = [f"mnist:{n}" for n in range(20)]


class Found(NamedTuple):
    """What came back of a digit: all of it or not, and the largest error of what is determined, also in error bars."""

    whole: bool
    error: float
    bars: float
    status: ca.Status


def fedavg() -> nn.Sequential:
    """The network of McMahan et al. (2017) for digits, 1,663,370 weights."""
    return nn.Sequential(
        *_stage(1, 32), *_stage(32, 64), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def lenet() -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pool, all convolutions padded."""
    units = (nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    return nn.Sequential(*_stage(1, 6), *_stage(6, 16), nn.Flatten(), *units)


def _stage(channels: int, filters: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]


def found(write, digit: str, seed: int, dtype: str) -> Found:
    torch.manual_seed(seed)
    model, sample = write().to(getattr(torch, dtype)), ca.samples.load(digit)
    network, parameters = ca.from_torch(model, sample.image.shape)
    result = ca.reconstruct(network, parameters, ca.torch_gradients(model, sample.image, sample.label))
    error = np.abs(result.input - sample.image)[result.determined]
    bars = (error / result.error_bar[result.determined]).max(initial=0.0)
    return Found(bool(result.determined.all()), float(error.max(initial=0.0)), float(bars), result.status)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("dtype", "close"), [("float64", EXACT), ("float32", 1e-4)])
def test_fedavgs_network_gives_digits_away(dtype: str, close: float) -> None:
    seen = [found(fedavg, digit, seed, dtype) for digit in DIGITS for seed in (0, 1)]
    assert sum(one.whole for one in seen) >= 38
    assert max(one.error for one in seen) < close
    assert max(one.bars for one in seen) < 10
    assert all(one.status.name in {"BY_WINNERS", "GIVEN_RANGE", "DETERMINED"} for one in seen if one.whole)


@pytest.mark.timeout(3600)
def test_lenet_with_its_few_filters_gives_most_digits_away_and_nothing_wrong() -> None:
    seen = [found(lenet, digit, seed, "float64") for digit in DIGITS for seed in (0, 1)]
    assert sum(one.whole for one in seen) >= 24
    assert max(one.error for one in seen) < EXACT
